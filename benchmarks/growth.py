"""How cost grows with tokens, depth and batch: seconds and memory of a training step, with the fitted exponents.

    python benchmarks/growth.py

The autoregressor of the other benchmarks, two threads, float32; one thing grows at a time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from autoregressor_step import our_step
from plain_var import PlainConfig
from side_by_side import MIB, Call, Table, exponent, options, take_turns, tell

BASE, BATCH = replace(PlainConfig(), depth=4), 4
WIDTH = BASE.width


@dataclass(frozen=True)
class Deep(PlainConfig):
    """As wide whatever its depth."""

    @property
    def width(self) -> int:
        return WIDTH


def square(num_tokens: int) -> tuple[int, ...]:
    """Sides of scales with about so many tokens: those of the base, all but the first in proportion."""
    share = math.sqrt(num_tokens / BASE.num_tokens)
    return 1, *(max(1, round(side * share)) for side in BASE.sides[1:])


GROWS: dict[str, dict[str, Callable[[], Call]]] = {
    "tokens": {
        str(config.num_tokens): partial(our_step, "float32", config, BATCH)
        for config in (replace(Deep(), depth=4, sides=square(num)) for num in (170, 340, 680, 1360, 2720))
    },
    "depth": {str(n): partial(our_step, "float32", replace(Deep(), depth=n), BATCH) for n in (2, 4, 8, 16)},
    "batch": {str(n): partial(our_step, "float32", replace(Deep(), depth=4), n) for n in (1, 2, 4, 8, 16)},
}


def main() -> None:
    given = options(__doc__, rounds=5)
    rows = []
    for what, set_ups in GROWS.items():
        found = take_turns(set_ups, given.rounds)
        sizes, times = [float(size) for size in found], list(found.values())
        seconds, peaks = ([getattr(one, name) for one in times] for name in ("median", "peak_bytes"))
        for size, second, peak in zip(found, seconds, peaks, strict=True):
            rows.append([f"{what} {size}", f"{second:.3f} s", f"{peak / MIB:.0f} MiB"])
        rows.append([f"exponent of {what}", f"{exponent(sizes, seconds):.2f}", f"{exponent(sizes, peaks):.2f}"])
    settings = f"Width {WIDTH}; else depth 4, 680 tokens, batch {BATCH}; 2 threads, float32, {given.rounds} rounds"
    tell(given, Table("How a training step grows", settings, ["", "step", "peak"], rows))


if __name__ == "__main__":
    main()
