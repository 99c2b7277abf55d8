"""What a network hears in a note, as a vector: the features under FAD and KID, each computed offline.

A distance between features says nothing without the network, its weights and its rate: every embedding has a name and
a fingerprint to set beside the number. docs/metrics.md tells where the weights come from.
"""

from pathlib import Path
from typing import Protocol

from torch import Tensor


class Embedding(Protocol):
    """A frozen network that turns each note into one vector."""

    name: str
    fingerprint: str
    """Twelve digits of the sha256 of its weights, whatever file held them."""
    sample_rate: int
    """In Hz: what it was trained on, and all that it takes."""
    width: int
    """D, the features of a note."""

    def __call__(self, wave_BT: Tensor) -> Tensor:
        """(B, T) in [-1, 1] -> (B, D) float32, without gradient, on the wave's device; the mean over its windows."""
        ...


def load_embedding(spec: str, sample_rate: int) -> Embedding:
    """The embedding that `spec` names, `musicnn` or `vggish:PATH`, for notes of that rate (Hz).

    Raises ValueError for another name, another rate than the embedding's, a package that is not installed and weights
    that are missing or do not fit.
    """
    from mars_dist.metrics.embeddings import musicnn, vggish

    name, _, path = spec.partition(":")
    if name not in ("musicnn", "vggish") or (name == "musicnn" and path):
        raise ValueError(f"embedding: {spec!r} is unknown: choose musicnn or vggish:PATH")
    if name == "vggish" and not path:
        raise ValueError(f"embedding: {spec!r} names no weights, which no package has: write vggish:PATH")
    takes = musicnn.SAMPLE_RATE if name == "musicnn" else vggish.SAMPLE_RATE
    if sample_rate != takes:
        raise ValueError(f"embedding: {name} takes {takes} Hz, the notes are at {sample_rate} Hz: resample them")
    return musicnn.load() if name == "musicnn" else vggish.load(Path(path))
