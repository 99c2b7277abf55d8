"""Lines on their way from rank 0, wherever it runs, to the user's terminal. Light: its actor imports no torch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from mars_dist.progress import Say

NAME = "mars_console"


class Console:
    """The actor in between."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def put(self, line: str) -> None:
        self.lines.append(line)

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


def writer() -> Say:
    """For a worker: a function that sends a line to the terminal."""
    console: Any = ray.get_actor(NAME)
    return lambda line: console.put.remote(line)


@contextmanager
def console(say: Say) -> Iterator[None]:
    """Show what workers write for as long as the block lasts."""
    actor: Any = ray.remote(Console).options(name=NAME, num_cpus=0).remote()
    finished = threading.Event()

    def show() -> None:
        for line in ray.get(actor.take.remote()):
            say(line)

    def follow() -> None:
        while not finished.wait(0.5):
            show()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        finished.set()
        follower.join()
        show()
        ray.kill(actor)
