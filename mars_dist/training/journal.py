"""What a run leaves for its user: a dense line, a JSON line, TensorBoard events."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from tensorboardX import SummaryWriter

from mars_dist.addresses import Address
from mars_dist.storage import Folder

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
FLUSH_SECONDS = 5
"""Until TensorBoard's events are on the disk: what a killed run had not written is missing for ever."""


class Journal:
    """Kept by rank 0; on other ranks every call does nothing."""

    def __init__(self, folder: Path, name: str, steps: int, first_step: int, say: Callable[[str], None] | None) -> None:
        self.folder, self.name, self.steps, self.say = folder, name, steps, say
        # What follows the steps that are done takes the place of what was told of them before.
        following = first_step + 1 if first_step else 0
        tensorboard = str(folder / TENSORBOARD)
        self.writer = SummaryWriter(tensorboard, purge_step=following, flush_secs=FLUSH_SECONDS) if say else None
        self.seconds, self.waited, self.num_steps = 0.0, 0.0, 0
        self.has_shown = False
        """Whether notes were shown, in this start of the run."""
        if say and first_step == 0:  # what was told before came to nothing
            (folder / METRICS).unlink(missing_ok=True)
        if say and (folder / METRICS).exists() and not (folder / METRICS).read_bytes().endswith(b"\n"):
            self.write("")  # a full disk has cut the last line off

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Time a step of training; what lies between two steps does not count."""
        start = perf_counter()
        yield
        self.seconds += perf_counter() - start
        self.num_steps += 1

    def train(self, step: int, scalars: dict[str, float], batch_size: int) -> None:
        """A line of training: losses, step time, samples/s, share of time waiting for data, time left."""
        seconds = self.seconds / self.num_steps
        speed = {
            "step_seconds": seconds,
            "samples_per_second": batch_size / seconds,
            "data_wait": self.waited / self.seconds,
        }
        self.seconds, self.waited, self.num_steps = 0.0, 0.0, 0
        self.keep("train", step, scalars | speed)
        if self.say:
            losses = "  ".join(f"{name} {value:.4g}" for name, value in scalars.items() if "/" not in name)
            left = seconds * (self.steps - step)
            self.say(
                f"{self.name} {step:>6}/{self.steps}  {losses}  {1000 * seconds:.0f} ms/step  "
                f"{speed['samples_per_second']:.0f}/s  data {speed['data_wait']:.0%}  "
                f"left {left // 60:.0f}:{left % 60:02.0f}"
            )

    @contextmanager
    def stalled(self, step: int) -> Iterator[None]:
        """Time how long a checkpoint keeps training waiting."""
        start = perf_counter()
        if self.writer:
            self.writer.flush()
        yield
        self.keep("checkpoint", step, {"stall_seconds": perf_counter() - start})

    def validation(self, step: int, scalars: dict[str, float]) -> None:
        """A line of validation."""
        self.keep("valid", step, scalars)
        if self.say:
            figures = "  ".join(f"{name} {value:.4g}" for name, value in scalars.items() if "/" not in name)
            self.say(f"{self.name} {step:>6}/{self.steps}  valid: {figures}")

    def keep(self, kind: str, step: int, scalars: dict[str, float]) -> None:
        if self.writer:
            for name, value in scalars.items():
                self.writer.add_scalar(f"{kind}/{name}", value, step)
            self.write(json.dumps({"kind": kind, "step": step} | scalars))

    def write(self, line: str) -> None:
        with (self.folder / METRICS).open("a") as lines:
            lines.write(f"{line}\n")

    def picture(self, name: str, step: int, picture_FN: NDArray[np.float32]) -> None:
        """A spectrogram in [-1, 1], low frequencies at the bottom."""
        if self.writer:
            grey = np.clip((picture_FN[::-1] + 1) / 2, 0, 1)
            self.writer.add_image(name, grey[None], step)

    def sound(self, name: str, step: int, wave_T: NDArray[np.float32], sample_rate: int) -> None:
        if self.writer:
            self.writer.add_audio(name, np.clip(wave_T, -1, 1)[:, None], step, sample_rate)

    def close(self) -> None:
        if self.writer:
            self.writer.close()


def read_metrics(folder: Address, kind: str) -> list[dict[str, float]]:
    """The lines of one kind (train, valid, test, checkpoint), a later one for a step replacing an earlier one.

    A line that a full disk has cut off is passed over. Raises OSError where there are none.
    """
    found: dict[int, dict[str, float]] = {}
    for text in Folder.open(folder).read(METRICS).decode().splitlines():
        with suppress(json.JSONDecodeError):
            line = json.loads(text)
            if line["kind"] == kind:
                found[line["step"]] = line
    return [found[step] for step in sorted(found)]
