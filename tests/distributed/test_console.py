"""What passes between the driver and the workers of a run."""

from threading import Event
from time import sleep

import pytest
import ray

from mars_dist.distributed import console as consoles
from mars_dist.distributed.console import ALIKE, Line, console
from mars_dist.distributed.train import there_is
from mars_dist.distributed.worker import STEPS_BETWEEN_QUESTIONS, RayRun
from mars_dist.training.run import Wish


@ray.remote(num_cpus=0)
def speaks_then_waits_to_be_stopped(name: str, of: str = "") -> bool:
    line = Line(name)
    line.say("started")
    return line.stop_wanted(of).wait(20)


def test_lines_come_here_and_the_wish_to_stop_goes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is told, with what is asked for and what is there."""
    monkeypatch.setattr(consoles, "SILENCE", 1.5)
    said, stop = list[str](), Event()
    with console(said.append, stop, lambda: there_is(9, "CPU")) as name:
        stopped = speaks_then_waits_to_be_stopped.remote(name)
        while len(said) < 2:
            sleep(0.05)
        stop.set()
        assert ray.get(stopped)
    quiet = "nothing was heard for 2 s: 9 workers want a CPU each; 1 nodes have 4 CPUs, 4 of them free"
    assert "started" in said and quiet in said


def test_who_is_told_to_stop_asks_what_the_others_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 alone is told, and the others would wait for it for ever."""
    asked, run = list[int](), object.__new__(RayRun)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: asked.append(run.num_asked))
    run.stop, run.num_asked, run.told_of_preemption = Event(), 0, False
    run.stop.set()
    assert {run.wish() for _ in range(2 * STEPS_BETWEEN_QUESTIONS)} == {Wish.STOP}
    assert asked == [STEPS_BETWEEN_QUESTIONS, 2 * STEPS_BETWEEN_QUESTIONS]


def test_one_of_several_is_stopped_alone() -> None:
    stop = Event()
    with console(lambda line: None, stop, lambda: "") as name:
        one, other = (speaks_then_waits_to_be_stopped.remote(name, of) for of in ("one", "other"))
        Line(name).stop("one")
        assert ray.wait([one, other], timeout=15)[0] == [one]
        stop.set()
        assert ray.get([one, other]) == [True, True]


def test_an_error_that_comes_again_with_nothing_saved_is_given_up() -> None:
    """Of two trainings at once each has its own."""
    quiet = (lambda line: None, Event(), lambda: "")
    with console(*quiet) as name, console(*quiet) as another:
        line = Line(name)
        for i in range(ALIKE):
            assert line.repeated_failure() is None
            line.note_failure(1, MemoryError("no memory\nleft"), num_saved=0)
            line.note_failure(0, OSError(f"connection closed by peer :{i}"), num_saved=0)
        assert line.repeated_failure() == "no memory left"
        assert Line(another).repeated_failure() is None


def test_starts_are_counted_until_something_is_saved() -> None:
    with console(lambda line: None, Event(), lambda: "") as name:
        line = Line(name)
        assert [line.start(workers) for workers in (2, 2, 1, 2, 2)] == [1, 2, 3, 3, 4], "growing is no loss"
        line.note_saved()
        assert line.start(2) == 1


def test_what_saved_something_in_between_is_tried_for_ever() -> None:
    with console(lambda line: None, Event(), lambda: "") as name:
        line = Line(name)
        for num_saved in (0, 0, 1, 0, 3, 0):
            line.note_failure(0, OSError("a store that is away"), num_saved)
            assert line.repeated_failure() is None
