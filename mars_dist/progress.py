"""How a command tells its user what it does: lines on standard error."""

import sys
from collections.abc import Callable

Say = Callable[[str], None]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def tenths(what: str) -> Callable[[int, int], None]:
    """A line for every tenth of the work that is done."""
    shown = 0

    def count(done: int, total: int) -> None:
        nonlocal shown
        if done * 10 // total > shown:
            shown = done * 10 // total
            say(f"{what} {done}/{total}")

    return count


def silent(what: str) -> Callable[[int, int], None]:
    """For those who are not watched."""
    return lambda done, total: None
