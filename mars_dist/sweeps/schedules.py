"""Generators of scale schedules: each ends with the latent grid it is given, square or not, and is valid as it is made.

A side of the grid grows from 1 as the generator says; both sides take as many scales.
"""

from collections.abc import Callable, Sequence
from itertools import count, groupby, takewhile

from mars_dist.scales import Size

Schedule = tuple[Size, ...]
Generator = Callable[[Size, int], Schedule]
"""From the latent grid and the number of scales."""

VAR = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
"""Sides of its scales (arXiv 2404.02905)."""
IMAGE_FOLDER = (1, 1, 2, 3, 3, 4, 5, 6, 8, 11)
"""Sides of its scales (arXiv 2410.01756)."""


def linear(grid: Size, num_scales: int) -> Schedule:
    """Each side grows by the same amount from scale to scale."""
    return _along(grid, num_scales, lambda side, share: 1 + (side - 1) * share)


def geometric(grid: Size, num_scales: int) -> Schedule:
    """Each side grows by the same factor from scale to scale."""
    return _along(grid, num_scales, lambda side, share: side**share)


def var(grid: Size) -> Schedule:
    """VAR's, stretched to the grid; on 16x16 VAR's own."""
    return _stretched(grid, VAR)


def image_folder(grid: Size) -> Schedule:
    """ImageFolder's, stretched to the grid; on 11x11 ImageFolder's own, with the scales that it has twice."""
    return _stretched(grid, IMAGE_FOLDER)


def one_column(schedule: Schedule) -> Schedule:
    """The same heights in one column of time, then the latent grid: what lasts is decided once for the note."""
    heights = [Size(size.h, 1) for size in schedule]
    return (*(size for size, _ in groupby(heights)), schedule[-1])


def within(num_tokens: int, make: Generator, grid: Size) -> Schedule:
    """The schedule with the most scales, none of them twice, that has at most so many tokens over all scales.

    Raises ValueError where the grid alone has more.
    """
    fewest = 1 if grid.area == 1 else 2
    made = (make(grid, num_scales) for num_scales in count(fewest))
    distinct = takewhile(lambda schedule: len(set(schedule)) == len(schedule), made)
    fitting = [schedule for schedule in distinct if sum(size.area for size in schedule) <= num_tokens]
    if not fitting:
        raise ValueError(f"scales: a {grid} grid has more than {num_tokens} tokens: allow more, or take a smaller grid")
    return fitting[-1]


def _along(grid: Size, num_scales: int, side_at: Callable[[int, float], float]) -> Schedule:
    """Raises ValueError for fewer scales than lead from 1x1 to the grid."""
    if num_scales < 1 or (num_scales == 1 and grid.area > 1):
        raise ValueError(f"scales: {num_scales} of them do not lead from 1x1 to {grid}: take at least 2")
    shares = [k / max(1, num_scales - 1) for k in range(num_scales)]
    return tuple(Size(*(round(side_at(side, share)) for side in grid)) for share in shares)


def _stretched(grid: Size, sides: Sequence[int]) -> Schedule:
    """Scales that differ in the original and no longer do on a small grid count once."""
    sizes: list[Size] = []
    for before, side in zip((0, *sides), sides, strict=False):
        share = (side - 1) / (sides[-1] - 1)
        size = Size(*(round(1 + (longest - 1) * share) for longest in grid))
        if not sizes or size != sizes[-1] or side == before:
            sizes.append(size)
    return tuple(sizes)
