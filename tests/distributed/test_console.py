"""What passes between the driver and the workers of a run."""

import math
from collections.abc import Callable
from pathlib import Path
from threading import Event
from time import sleep
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.train.v2._internal.execution.storage import StorageContext

from mars_dist.distributed import console as consoles
from mars_dist.distributed import worker
from mars_dist.distributed.console import ALIKE, Line, console
from mars_dist.distributed.train import there_is
from mars_dist.distributed.worker import RayRun, Retention
from mars_dist.storage import Folder
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


def test_while_a_machine_is_about_to_be_taken_away_it_saves_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred steps of a second each; Ray tells all workers after forty, and none asks or waits for the others."""
    now, saves = 0, dict[int, list[int]]()
    notice = SimpleNamespace(preemption_info=None)
    monkeypatch.setattr(worker, "monotonic", lambda: float(now))
    monkeypatch.setattr(worker, "get_train_context", lambda: SimpleNamespace(preemption_context=notice))
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: pytest.fail("it waits for all others"))
    for rank in (0, 1):
        run, notice.preemption_info = object.__new__(RayRun), None
        run.stop, run.last_saved, run.rank = Event(), -math.inf, rank
        saves[rank] = []
        for now in range(1, 101):
            notice.preemption_info = "taken away" if now >= 40 else None
            if run.wish() == Wish.SAVE:
                saves[rank].append(now)
        run.stop.set()
        assert run.wish() == Wish.STOP
    assert saves == {0: [40, 70, 100], 1: []}


def test_one_of_several_is_stopped_alone() -> None:
    stop = Event()
    with console(lambda line: None, stop, lambda: "") as name:
        one, other = (speaks_then_waits_to_be_stopped.remote(name, of) for of in ("one", "other"))
        Line(name).stop("one")
        assert ray.wait([one, other], timeout=15)[0] == [one]
        stop.set()
        assert ray.get([one, other]) == [True, True]


QUIET = (lambda line: None, Event(), lambda: "")


def test_an_error_that_comes_again_with_nothing_saved_is_given_up() -> None:
    """Of two trainings at once each has its own."""
    with console(*QUIET) as name, console(*QUIET) as another:
        for i in range(ALIKE):
            assert Line(name).repeated_failure() is None
            Line(name).note_failure(1, MemoryError("no memory\nleft"))
            Line(name).note_failure(0, OSError(f"connection closed by peer :{i}"))
        assert Line(name).repeated_failure() == "no memory left"
        assert Line(another).repeated_failure() is None


FAILURES: dict[str, Callable[[str], Exception]] = {
    "a full disk": lambda scratch: OSError(28, "No space left", f"/tmp/{scratch}/a", None, f"/run/.a.{scratch}.part"),
    "a refused upload": lambda scratch: OSError(f"Failed to upload /tmp/{scratch}/a to bucket/a: AccessDenied"),
    "no text": lambda scratch: MemoryError(),
    "a bare assert": lambda scratch: AssertionError(),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_failure_is_known_again_by_what_it_says_beside_paths(failure: Callable[[str], Exception]) -> None:
    """Names of scratch folders are drawn anew each time. The last one is told in full."""
    with console(*QUIET) as name:
        for scratch in ("x1", "x2", "x3"):
            assert Line(name).repeated_failure() is None
            Line(name).note_failure(0, failure(scratch))
        last = failure("x3")
        assert Line(name).repeated_failure() == (str(last) or type(last).__name__)


def test_what_fails_after_a_failure_is_not_counted() -> None:
    """An upload that failed, then the peers that Ray ends before this worker; or another upload."""
    with console(*QUIET) as name:
        for _ in range(ALIKE - 1):
            line = Line(name)
            line.note_failure(0, OSError("full"))
            line.note_failure(0, OSError("full"))
            line.note_failure(0, RuntimeError("connection closed by peer"))
        assert Line(name).repeated_failure() is None
        Line(name).note_failure(0, OSError("full"))
        assert Line(name).repeated_failure() == "full"


def test_starts_are_counted_until_something_is_saved() -> None:
    with console(*QUIET) as name:
        line = Line(name)
        assert [line.start(workers) for workers in (2, 2, 1, 2, 2)] == [1, 2, 3, 3, 4], "growing is no loss"
        line.note_saved()
        assert line.start(2) == 1


def test_what_saved_something_in_between_is_tried_for_ever() -> None:
    with console(*QUIET) as name:
        for saves in (False, False, True, False, True, False):
            if saves:
                Line(name).note_saved()
            Line(name).note_failure(0, OSError("a store that is away"))
            assert Line(name).repeated_failure() is None


def test_a_part_of_a_checkpoint_is_not_yet_something_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One worker has sent its own: the other one may never."""
    reported = dict[str, Any]()
    monkeypatch.setattr(ray.train, "report", lambda metrics, **report: reported.update(report))
    with console(*QUIET) as name:
        run, training = object.__new__(RayRun), Folder.open(tmp_path / "training")
        run.line, run.training, run.mirror = Line(name), training, None
        run.scratch, run.born, run.again = tmp_path, 0.0, 0
        run.storage = StorageContext(tmp_path, "training")
        assert run.line.start(2) == 1
        run.save(10, lambda folder: (folder / "part").touch(), {})
        sent = reported["checkpoint_upload_fn"](reported["checkpoint"], "step_00000010")
        assert training.sub("step_00000010").list() == {"part"}
        assert run.line.start(2) == 2
        Retention(training, run.line).after_report(None, [], None)
        assert run.line.start(2) == 3
        Retention(training, run.line).after_report(None, [], sent)
        assert run.line.start(2) == 1
