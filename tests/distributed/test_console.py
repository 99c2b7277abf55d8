"""What passes between the driver and the workers of a run."""

from threading import Event
from time import sleep

import pytest
import ray

from mars_dist.distributed import console as consoles
from mars_dist.distributed.console import console, stop_wanted, writer
from mars_dist.distributed.train import there_is


@ray.remote(num_cpus=0)
def speaks_then_waits_to_be_stopped() -> bool:
    write, stop = writer(), stop_wanted()
    write("started")
    return stop.wait(20)


def test_lines_come_here_and_the_wish_to_stop_goes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is told, with what is asked for and what is there."""
    monkeypatch.setattr(consoles, "SILENCE", 1.5)
    said, stop = list[str](), Event()
    with console(said.append, stop, lambda: there_is(9, "CPU")):
        stopped = speaks_then_waits_to_be_stopped.remote()
        while len(said) < 2:
            sleep(0.05)
        stop.set()
        assert ray.get(stopped)
    quiet = "nothing was heard for 2 s: 9 workers want a CPU each; 1 nodes have 4 CPUs, 4 of them free"
    assert "started" in said and quiet in said
