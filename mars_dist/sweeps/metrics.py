"""What trials can be compared by: what an evaluation measures of a line, and what of it is known on the way."""

from dataclasses import dataclass
from typing import Literal

Line = Literal["reconstruction", "sample"]


@dataclass(frozen=True)
class Metric:
    """A measure of a line of `mars evaluate`."""

    measure: str
    line: Line
    mode: Literal["min", "max"] = "min"
    on_the_way: bool = False
    """Whether a figure of validation stands for it while training lasts."""

    @property
    def name(self) -> str:
        return f"{self.measure}_{self.line}"

    @property
    def sign(self) -> int:
        """What a value times this is the better the smaller."""
        return 1 if self.mode == "min" else -1


DISTANCES = ("mse", "mae", "log_spectral_distance", "multi_resolution_stft", "mel_distance")
RECONSTRUCTION = (
    Metric("mse", "reconstruction", on_the_way=True),
    Metric("mae", "reconstruction", on_the_way=True),
    *(Metric(measure, "reconstruction") for measure in DISTANCES[2:]),
    Metric("pitch_accuracy", "reconstruction", "max"),
)
SAMPLE = (
    Metric("bits_per_second", "sample", on_the_way=True),
    Metric("pitch_accuracy", "sample", "max"),
    *(Metric(measure, "sample") for measure in DISTANCES),
)
METRICS = {
    "tokenizer": RECONSTRUCTION,
    "autoregressor": SAMPLE,
    "both": (*RECONSTRUCTION, *SAMPLE),
}


def known(kind: str) -> dict[str, Metric]:
    """By name, what a trial of that kind is measured by."""
    return {metric.name: metric for metric in METRICS[kind]}
