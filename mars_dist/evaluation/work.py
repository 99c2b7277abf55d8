"""How the work of an evaluation is spread."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

NOTES_AT_ONCE = 8
"""In a piece of work."""
Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[str], Callable[[int, int], None]]
"""What is done now -> who is told how much of it is done, of how much."""


class Map(Protocol):
    """`map`, or `over_gpus` of mars_dist.distributed.cluster; in any order."""

    def __call__(self, work: Callable[[Item], Result], items: Iterable[Item], /) -> Iterable[Result]: ...
