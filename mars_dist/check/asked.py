"""What a user wants to know, as the command line has it: without torch, so that --help is there at once."""

from dataclasses import dataclass
from math import inf
from typing import Annotated

from mars_dist.arguments import Inline
from mars_dist.presets import Preset

NSYNTH_TRAIN = 289_205
"""Notes."""


@dataclass(frozen=True)
class Check:
    preset: Annotated[Preset, Inline]
    workers: int | None = None
    """As training takes it. Default: all GPUs that there are, or else 2 processes."""
    address: str | None = None
    """host:port of a Ray cluster's head, to look at it. Default: RAY_ADDRESS, as jobs have it; else this machine."""
    device: str | None = None
    """What a worker will compute on, such as h100, where it is not at hand. Default: what is there."""
    utilisation: float | None = None
    """Of a GPU's peak. Default: 0.3, an assumption; the first lines of a run tell what is reached."""
    price: float | None = None
    """Of a worker, an hour."""
    notes: int = NSYNTH_TRAIN
    """In the training split. Default: NSynth's."""
    data: str | None = None
    """Folder that is to be read, local or s3://."""
    out: str | None = None
    """Folder that is to be written, local or s3://."""

    def require_sense(self) -> None:
        """Raises ValueError for a number that means nothing."""
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"--workers: {self.workers} must be 0 (in one process, without Ray) or more")
        if self.notes < 1:
            raise ValueError(f"--notes: {self.notes} must be at least 1")
        if self.utilisation is not None and not 0 < self.utilisation <= 1:
            raise ValueError(f"--utilisation: {self.utilisation} must lie above 0 and at most at 1")
        if self.price is not None and not 0 <= self.price < inf:
            raise ValueError(f"--price: {self.price} must be 0 or more")
