"""What a stage of a preset takes of each worker: memory, time and money. Counted by dry runs, so nothing is trained."""

from dataclasses import dataclass
from math import ceil, prod

from mars_dist.check.device import Device
from mars_dist.config import TrainConfig
from mars_dist.costs import (
    FLOAT32,
    DryStep,
    Memory,
    autoregressor_step,
    memory_of,
    num_parameters,
    tokenizer_step,
    work_of,
)
from mars_dist.dataset import ROWS_IN_GROUP
from mars_dist.presets import Preset
from mars_dist.s3 import S3Folder
from mars_dist.training.batches import PREFETCH
from mars_dist.training.optim import matrices_of

PROCESS = 850 * 2**20
"""Bytes of a worker whose model, data and batches are next to nothing: the autoregressor of `debug`, measured."""
ALLOCATOR = 0.3
"""What a CPU's allocator wastes, as a share of the activations: found on tiny (docs/check.md)."""
PARAMETER_BYTES, SHARD_BYTES = 40, 56
"""What gathering moves of each parameter on a CPU, and what AdamW, the moving average and the norm move of a shard."""
STORED = 2
"""Bytes of a value of a picture or of latents in a data set, and of a picture on its way to the device."""
HOUR = 3600


@dataclass(frozen=True)
class Estimate:
    """Of training one stage with so many workers."""

    stage: str
    workers: int
    steps: int
    batch_size: int
    num_parameters: int
    memory: Memory
    host_bytes: int
    """What a worker's process holds at most; on a CPU its memory is among it."""
    step_flops: int
    """Of all workers together."""
    step_seconds: float
    utilisation: float
    """Of the device's peak, or of a CPU's measured rate."""

    @property
    def seconds(self) -> float:
        """Of all steps; validation and start are left out."""
        return self.steps * self.step_seconds

    @property
    def hours(self) -> float:
        return self.seconds / HOUR

    def cost(self, price: float) -> float:
        """At so much an hour for each worker."""
        return self.hours * self.workers * price

    def passes(self, notes: int) -> float:
        """How often each note of a data set is seen."""
        return self.steps * self.batch_size / notes


def estimates(preset: Preset, workers: int, device: Device, notes: int) -> tuple[Estimate, Estimate]:
    """Of both stages, on a data set of so many notes. Raises ValueError where the workers do not fit a stage."""
    first, settings = preset.tokenizer, preset.tokenizer.tokenizer
    num_values = prod(first.spectrogram.picture_shape)
    corrupts = preset.autoregressor.autoregressor.corrupt_codes > 0
    num_latents = settings.code_width * settings.schedule.latent_grid.area if corrupts else 0
    second = autoregressor_step(preset.autoregressor, settings, device.kind)
    return (
        estimate("tokenizer", tokenizer_step(first, device.kind), workers, device, notes, num_values, STORED),
        estimate("autoregressor", second, workers, device, notes, settings.num_codes + num_latents, FLOAT32),
    )


def estimate(
    stage: str, step: DryStep, workers: int, device: Device, notes: int, num_values: int, prepared: int
) -> Estimate:
    """`num_values`: of a note; `prepared`: the bytes of one in a batch."""
    train, parameters = step.train, num_parameters(step.model)
    memory, work = memory_of(step, workers, device.kind), work_of(step, workers, device.kind)
    shard = memory.weights // FLOAT32
    by_muon = sum(matrix.numel() for matrix in matrices_of(step.model, step.optim))
    # Parameters are gathered twice in bf16, gradients scattered, and Muon's matrices gathered before and after.
    sent = ((2 * 2 + FLOAT32) * parameters + 2 * FLOAT32 * by_muon) * (workers > 1)
    seconds = device.seconds(work, PARAMETER_BYTES * parameters + SHARD_BYTES * shard, sent)
    return Estimate(
        stage=stage,
        workers=workers,
        steps=train.steps,
        batch_size=train.batch_size,
        num_parameters=parameters,
        memory=memory,
        host_bytes=host_bytes(train, workers, memory, parameters, notes, num_values, prepared, device),
        step_flops=workers * work.total_flops,
        step_seconds=seconds,
        utilisation=work.total_flops / seconds / device.peak,
    )


def host_bytes(
    train: TrainConfig,
    workers: int,
    memory: Memory,
    parameters: int,
    notes: int,
    num_values: int,
    prepared: int,
    device: Device,
) -> int:
    """Of the first worker's process, at the most of a training step, a validation and an export."""
    read_at_once = S3Folder.at_once * ROWS_IN_GROUP
    # Of a store that is far away, a disk takes half as many; twice, since what is decompressed grows into place.
    window = min(notes, train.shuffle_rows + train.batch_size + 2 * read_at_once) * num_values * STORED
    ahead = (PREFETCH + 1) * ceil(train.batch_size / workers) * num_values * prepared
    held_out = min(notes, train.validation_rows) // workers * num_values
    first_read = (held_out + min(notes, read_at_once) * num_values) * STORED
    exported = 2 * parameters * FLOAT32
    always = PROCESS + window + ahead + held_out * prepared
    if device.kind == "cuda":
        return always + max(first_read, exported)
    kept = memory.weights + memory.moments + memory.average
    step = memory.gradients + memory.gathered + round((1 + ALLOCATOR) * memory.activations)
    return always + kept + max(step, memory.weights + max(first_read, exported))
