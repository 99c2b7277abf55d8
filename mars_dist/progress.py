"""How a command tells its user what it does: lines on standard error."""

import sys
from collections.abc import Callable

Say = Callable[[str], None]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def tenths(what: str) -> Callable[[int, int], None]:
    """A line for every tenth of the work that is done."""

    def count(done: int, total: int) -> None:
        if done * 10 // total != (done - 1) * 10 // total:
            say(f"{what} {done}/{total}")

    return count
