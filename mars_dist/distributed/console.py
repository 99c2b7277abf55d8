"""Between the driver and rank 0, wherever it runs: lines to the user's terminal, and the wish to stop.

Light: its actor imports no torch.
"""

import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from time import monotonic
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mars_dist.progress import Say

SECONDS_BETWEEN_QUESTIONS = 1.0
SILENCE = 60.0
"""Seconds without a line after which the driver tells what it waits for."""
ALIKE = 3
"""How often the same failure of a worker, with nothing whole saved in between, is met before it is given up."""
MOST_STARTS = 10
"""How often workers are started with nothing saved in between, whatever they are lost by."""


class Console:
    """The actor in between."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stopped: set[str] = set()
        self.failures: dict[int, tuple[str, int]] = {}
        self.starts, self.workers = 0, sys.maxsize

    def put(self, line: str) -> None:
        self.lines.append(line)

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines

    def stop(self, of: str = "") -> None:
        self.stopped.add(of)

    def stop_wanted(self, of: str) -> bool:
        return not self.stopped.isdisjoint(("", of))

    def note_failure(self, rank: int, message: str) -> None:
        """Remember what has ended a worker, for the attempts that follow. (A lost peer's message has its port.)"""
        before, times = self.failures.get(rank, ("", 0))
        self.failures[rank] = (message, times + 1 if without_paths(before) == without_paths(message) else 1)

    def repeated_failure(self) -> str | None:
        """What has ended a worker so often, with nothing saved in between, that it would come again."""
        return next((message for message, times in self.failures.values() if times >= ALIKE), None)

    def start(self, workers: int) -> int:
        """Which start of the workers it is since something was saved; one for more of them to take part is no loss."""
        self.starts += workers <= self.workers
        self.workers = workers
        return self.starts

    def note_saved(self) -> None:
        """A checkpoint is whole: all workers have sent their parts of it."""
        self.starts = 0
        self.failures.clear()


def without_paths(message: str) -> str:
    """What two messages of one failure have in common: names of scratch and half-written files are drawn anew."""
    return " ".join(word for word in message.split() if "/" not in word)


class Line:
    """A worker's end, for one attempt. It finds the actor by its name."""

    def __init__(self, name: str) -> None:
        self.console: Any = ray.get_actor(name)
        self.has_failed = False

    def say(self, line: str) -> None:
        self.console.put.remote(line)

    def note_failure(self, rank: int, error: BaseException) -> None:
        """The first one alone: what fails after it, before Ray ends the worker, fails because of it."""
        if not self.has_failed:
            self.has_failed = True
            ray.get(self.console.note_failure.remote(rank, " ".join(str(error).split()) or type(error).__name__))

    def repeated_failure(self) -> str | None:
        return ray.get(self.console.repeated_failure.remote())

    def start(self, workers: int) -> int:
        """For rank 0, once: see `Console.start`."""
        return int(ray.get(self.console.start.remote(workers)))

    def note_saved(self) -> None:
        self.console.note_saved.remote()

    def stop(self, of: str) -> None:
        """For the driver of several: one of them is to stop."""
        self.console.stop.remote(of)

    def stop_wanted(self, of: str = "") -> Event:
        """An event that is set soon after the driver wants all to stop, or the one of that name."""
        wanted = Event()

        def ask() -> None:
            while not wanted.wait(SECONDS_BETWEEN_QUESTIONS):
                with suppress(RayError):  # the driver has ended, and so will this process
                    if ray.get(self.console.stop_wanted.remote(of)):
                        wanted.set()

        Thread(target=ask, daemon=True).start()
        return wanted


@contextmanager
def console(say: Say, stop: Event, waits_for: Callable[[], str]) -> Iterator[str]:
    """Show what workers write for as long as the block lasts; tell them once `stop` is set. Gives the actor's name.

    Where nothing was written for a while, `waits_for` tells what may be missing.
    """
    name, finished = f"mars_console_{uuid.uuid4().hex}", Event()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Console).options(name=name, num_cpus=0, scheduling_strategy=here).remote()

    def show() -> bool:
        lines = ray.get(actor.take.remote())
        for line in lines:
            say(line)
        return bool(lines)

    def follow() -> None:
        heard = monotonic()
        while not finished.wait(0.5):
            if show():
                heard = monotonic()
            if monotonic() - heard > SILENCE:
                say(f"nothing was heard for {SILENCE:.0f} s: {waits_for()}")
                heard = monotonic()
            if stop.is_set():
                actor.stop.remote()

    follower = Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield name
    finally:
        finished.set()
        follower.join()
        show()
        ray.kill(actor)
