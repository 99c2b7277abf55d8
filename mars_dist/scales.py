"""The scale schedule: the (h, w) grids of codes that a note is made of, coarse to fine."""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Size(NamedTuple):
    """Height (frequency) by width (time). Written `8x4` on the command line, in TOML and in JSON."""

    h: int
    w: int

    def __str__(self) -> str:
        return f"{self.h}x{self.w}"

    @property
    def area(self) -> int:
        return self.h * self.w

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Read `8x4`, or `8` for 8x8. Raises ValueError for anything else."""
        parts = text.lower().split("x")
        if len(parts) > 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
            raise ValueError(f"{text!r} is not a size: write height x width, both positive, such as 8x4")
        return cls(int(parts[0]), int(parts[-1]))


MOST_TOKENS = 16_384
"""Over all scales: a mask of attention has the square of it."""


@dataclass(frozen=True)
class ScaleSchedule:
    """The K scales of a tokenizer, from (1, 1) to the latent grid (VAR, arXiv 2404.02905, section 3.1).

    Sizes never shrink along either axis; repeats are legal; rectangles are legal.
    Raises ValueError, naming the rule that was broken.
    """

    sizes: tuple[Size, ...]

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] != (1, 1):
            first = self.sizes[0] if self.sizes else "nothing"
            raise ValueError(f"scales: the first scale is {first}, it must be 1x1: put 1x1 in front")
        for before, after in zip(self.sizes, self.sizes[1:], strict=False):
            if after.h < before.h or after.w < before.w:
                raise ValueError(f"scales: {after} follows {before}: a scale may not be smaller than the one before it")

        if self.num_tokens > MOST_TOKENS:
            raise ValueError(f"scales: {self.num_tokens} tokens over all of them, at most {MOST_TOKENS}: choose fewer")

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def latent_grid(self) -> Size:
        return self.sizes[-1]

    @property
    def num_tokens(self) -> int:
        """L, the tokens over all scales."""
        return self.ends[-1]

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """For each scale, the index one past its last token."""
        return tuple(accumulate(size.area for size in self.sizes))

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """For each scale, where its tokens lie in a sequence of L."""
        return tuple(slice(end - size.area, end) for size, end in zip(self.sizes, self.ends, strict=True))

    @cached_property
    def scale_of_token(self) -> "NDArray[np.int64]":
        """(L,): the scale that each token belongs to."""
        import numpy as np  # half of what `mars --help` would take

        return np.repeat(np.arange(len(self)), [size.area for size in self.sizes])

    def mask(self) -> "NDArray[np.bool_]":
        """(L, L): True where the row's token may look at the column's: at its own scale and all coarser ones."""
        scale = self.scale_of_token
        return scale[:, None] >= scale[None, :]
