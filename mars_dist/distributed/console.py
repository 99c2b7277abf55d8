"""Between the driver and rank 0, wherever it runs: lines to the user's terminal, and the wish to stop.

Light: its actor imports no torch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from time import monotonic
from typing import Any

import ray
from ray.exceptions import RayError

from mars_dist.progress import Say

NAME = "mars_console"
SECONDS_BETWEEN_QUESTIONS = 1.0
SILENCE = 60.0
"""Seconds without a line after which the driver tells what it waits for."""


class Console:
    """The actor in between."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stops = False

    def put(self, line: str) -> None:
        self.lines.append(line)

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines

    def stop(self) -> None:
        self.stops = True

    def stop_wanted(self) -> bool:
        return self.stops


def writer() -> Say:
    """For a worker: a function that sends a line to the terminal."""
    console: Any = ray.get_actor(NAME)
    return lambda line: console.put.remote(line)


def stop_wanted() -> Event:
    """For a worker: an event that is set soon after the driver wants the run to stop."""
    console, wanted = ray.get_actor(NAME), Event()

    def ask() -> None:
        while not wanted.wait(SECONDS_BETWEEN_QUESTIONS):
            with suppress(RayError):  # the driver has ended, and so will this process
                if ray.get(console.stop_wanted.remote()):
                    wanted.set()

    Thread(target=ask, daemon=True).start()
    return wanted


@contextmanager
def console(say: Say, stop: Event, waits_for: Callable[[], str]) -> Iterator[None]:
    """Show what workers write for as long as the block lasts; tell them once `stop` is set.

    Where nothing was written for a while, `waits_for` tells what may be missing.
    """
    actor: Any = ray.remote(Console).options(name=NAME, num_cpus=0).remote()
    finished = Event()

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
        yield
    finally:
        finished.set()
        follower.join()
        show()
        ray.kill(actor)
