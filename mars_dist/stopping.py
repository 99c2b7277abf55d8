"""SIGTERM as a wish: what a scheduler sends before it takes a machine away."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType


@contextmanager
def told_by_sigterm() -> Iterator[Event]:
    """An event that the first SIGTERM sets; a second one does what it did before."""
    told, before = Event(), signal.getsignal(signal.SIGTERM)

    def tell(number: int, frame: FrameType | None) -> None:
        told.set()
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, tell)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)
