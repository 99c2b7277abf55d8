"""What a preset costs: parameters, FLOPs, and the memory of training it, from dry runs of the real modules.

Suffixes: B batch, C channels after CMX or the code width, H W the multiplexed picture, F N bins and frames, h w the
latent grid, L tokens, or their codes, over all scales.
"""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mars_dist.autoregressor import Autoregressor
from mars_dist.cmx import demultiplex
from mars_dist.conditions import Vocabulary
from mars_dist.config import (
    AutoregressorRunConfig,
    OptimConfig,
    ReconstructionLossConfig,
    TokenizerConfig,
    TokenizerRunConfig,
    TrainConfig,
)
from mars_dist.discriminator import Discriminator
from mars_dist.dryrun import META, Device, DryRun, Flops, Work, WorkCounter, count_flops, dry_run
from mars_dist.losses import reconstruction_loss
from mars_dist.precision import settled
from mars_dist.presets import Preset
from mars_dist.tokenizer import Tokenizer
from mars_dist.training import sharding
from mars_dist.training.batches import rows_at_once
from mars_dist.training.muon import orthogonal, orthogonal_flops, stacks
from mars_dist.training.optim import matrices_of, num_moments
from mars_dist.training.recomputation import BLOCKS, recompute

Run = TypeVar("Run", TokenizerRunConfig, AutoregressorRunConfig)
FLOAT32 = 4
"""Bytes."""


@dataclass(frozen=True)
class StageCost:
    """One network, whatever it is trained on."""

    num_parameters: int
    forward_flops: int
    """Of one sample. The autoregressor's is that of teacher forcing."""
    optimizer_flops: int
    """Of a step, whatever its batch: Muon's products, none with AdamW."""
    adversary_flops: int = 0
    """Of one sample, on average over all steps: an adversary takes part from a share of them on."""

    @property
    def training_flops(self) -> int:
        """Of one sample, the network alone: the backward pass takes two forward ones."""
        return 3 * self.forward_flops

    def step_flops(self, batch_size: int) -> int:
        """Of a step of training, in all."""
        return batch_size * (self.training_flops + self.adversary_flops) + self.optimizer_flops


@dataclass(frozen=True)
class PresetCost:
    """Both stages, and what a note takes once they are trained."""

    tokenizer: StageCost
    autoregressor: StageCost
    sampling_flops: int
    """Of one note, from conditions to picture: cached keys and values, guidance (twice the batch), the decoder."""


@dataclass(frozen=True)
class Memory:
    """Bytes on each worker at the peak of a training step: P parameters, W workers.

    A bound: gradients come as activations go. What the device's context and allocator add is left out.
    """

    weights: int
    """4 P / W: float32 shards."""
    gradients: int
    """4 P / W; 4 P where they are accumulated."""
    moments: int
    """8 P / W: AdamW's two. Muon has one."""
    average: int
    """4 P / W: the moving average of the weights."""
    gathered: int
    """Whole weights and their gradients in the precision of training: two blocks', and all that is in none.
    Blocks too small to be gathered on their own count as what is in none."""
    activations: int
    """The most that forward and backward pass of the worker's share of the batch hold at one time, loss included."""

    @property
    def total(self) -> int:
        return sum(astuple(self))


def cost_of(preset: Preset) -> PresetCost:
    """Counted on one sample, with the conditions that every data set has."""
    settings = preset.tokenizer.tokenizer
    twice = 2 * flops_of_seen_pairs(preset.autoregressor, settings)
    head = 2 * settings.num_codes * preset.autoregressor.autoregressor.width * settings.codebook_size
    f_BChw = torch.empty(1, settings.code_width, *settings.schedule.latent_grid, device=META)
    decoder = count_flops(lambda: build_tokenizer(preset.tokenizer).picture(f_BChw))
    return PresetCost(
        tokenizer_cost(preset.tokenizer),
        autoregressor_cost(preset.autoregressor, settings),
        round(twice) - head + decoder.total,  # guidance is taken before the head
    )


def tokenizer_cost(config: TokenizerRunConfig) -> StageCost:
    return counted_tokenizer(replace(as_counted(config), loss=ReconstructionLossConfig()))


@lru_cache(maxsize=1024)
def counted_tokenizer(config: TokenizerRunConfig) -> StageCost:
    model = build_tokenizer(config)
    x_BCHW = torch.empty(1, *config.spectrogram.picture_shape, device=META)
    forward = count_flops(lambda: model(x_BCHW)).total
    return StageCost(num_parameters(model), forward, muon_flops(model, config.optim), adversary_flops(config))


def autoregressor_cost(config: AutoregressorRunConfig, tokenizer: TokenizerConfig) -> StageCost:
    cost, _ = teacher_forcing(as_counted(config), tokenizer)
    return cost


def as_counted(config: Run) -> Run:
    """Without what no cost depends on, such as the learning rate: settings that differ in it alone are counted once."""
    optim, train = OptimConfig(optimizer=config.optim.optimizer), TrainConfig(steps=config.train.steps)
    return replace(config, optim=optim, train=train)


def muon_flops(model: nn.Module, config: OptimConfig) -> int:
    """Of a step, all workers together."""
    return sum(orthogonal_flops(matrix) for matrix in matrices_of(model, config))


def adversary_flops(config: TokenizerRunConfig) -> int:
    """Of one sample: what looking at a picture takes, ten times in each step in which the adversary takes part.

    A made and a real picture are judged, its judgement is followed back to the picture twice, and it learns from both.
    """
    if not config.adversary.weight:
        return 0
    with META:
        discriminator = Discriminator(config.adversary)
    x_B1FN = demultiplex(torch.empty(1, *config.spectrogram.picture_shape, device=META), config.spectrogram.cmx)
    return round(10 * count_flops(lambda: discriminator(x_B1FN)).total * (1 - config.adversary.start))


def flops_of_seen_pairs(config: AutoregressorRunConfig, tokenizer: TokenizerConfig) -> float:
    """Of all tokens of a note, each multiplied with those that the mask lets it see and no others, as with a cache."""
    _, forward = teacher_forcing(as_counted(config), tokenizer)
    return forward.layers + forward.attention * float(tokenizer.schedule.mask().mean())


@lru_cache(maxsize=1024)
def teacher_forcing(config: AutoregressorRunConfig, tokenizer: TokenizerConfig) -> tuple[StageCost, Flops]:
    """The autoregressor's cost, and the FLOPs of all tokens of a note at once."""
    model = build_autoregressor(config, tokenizer)
    inputs_BLC, nothing = teacher_inputs(tokenizer, 1), model.no_conditions(1)
    forward = count_flops(lambda: model(inputs_BLC, nothing))
    return StageCost(num_parameters(model), forward.total, muon_flops(model, config.optim)), forward


@dataclass(frozen=True)
class DryStep:
    """A training step on the meta device: the model in the precision of training, and the loss of so many samples."""

    model: nn.Module
    loss: Callable[[int], Tensor]
    train: TrainConfig
    optim: OptimConfig


@lru_cache(maxsize=16)
def tokenizer_step(config: TokenizerRunConfig, device: Device = "cuda") -> DryStep:
    """Of training the tokenizer, once the codebook is born; an adversary is left out."""
    model, spectrogram = build_tokenizer(config), config.spectrogram

    def loss(batch_size: int) -> Tensor:
        x_BCHW = torch.empty(batch_size, *spectrogram.picture_shape, device=META)
        y_BCHW, _, quantized = model(x_BCHW)
        y_B1FN, x_B1FN = demultiplex(y_BCHW, spectrogram.cmx), demultiplex(x_BCHW, spectrogram.cmx)
        terms = reconstruction_loss(y_B1FN, x_B1FN, config.loss, spectrogram)
        return torch.stack([*terms.values(), quantized.loss]).sum()

    return dry_step(model, loss, config, device)


@lru_cache(maxsize=16)
def autoregressor_step(config: AutoregressorRunConfig, tokenizer: TokenizerConfig, device: Device = "cuda") -> DryStep:
    """Of training the autoregressor on cached codes."""
    model = build_autoregressor(config, tokenizer)

    def loss(batch_size: int) -> Tensor:
        codes_BL = torch.empty(batch_size, tokenizer.num_codes, dtype=torch.long, device=META)
        nothing = model.no_conditions(batch_size)
        return model(teacher_inputs(tokenizer, batch_size), nothing, codes_BL=codes_BL).mean()

    return dry_step(model, loss, config, device)


def dry_step(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    config: TokenizerRunConfig | AutoregressorRunConfig,
    device: Device,
) -> DryStep:
    """As such a device trains it."""
    train = replace(config.train, precision=settled(config.train.precision, device))
    return DryStep(as_trained(model, train), loss, train, config.optim)


def memory_of(step: DryStep, workers: int, device: Device = "cuda") -> Memory:
    """Raises ValueError where the batch has too few rows, or the workers are not shared out among the replicas."""
    train, whole = step.train, num_parameters(step.model)
    sharding.require_replicas(train, workers)
    blocks = [num_parameters(part) for part in step.model.modules() if isinstance(part, BLOCKS)]
    large = [block for block in blocks if block >= sharding.LARGE]
    gathered = whole - sum(large) + 2 * max(large, default=0)
    sharing = workers // train.replicas
    shard = math.ceil(whole / sharing) * FLOAT32
    return Memory(
        weights=shard,
        gradients=shard if train.accumulate == 1 else whole * FLOAT32,
        moments=math.ceil(num_moments(step.model, step.optim) / sharing) * FLOAT32,
        average=shard,
        gathered=2 * gathered * (2 if train.precision == "bf16" else FLOAT32),
        activations=run_of(step, rows_at_once(train, workers), device).peak_bytes,
    )


def work_of(step: DryStep, workers: int, device: Device = "cuda") -> Work:
    """Of a worker's share of the batch, in all its parts, and of its share of what Muon makes orthogonal.

    Raises ValueError where the batch has too few rows.
    """
    run = run_of(step, rows_at_once(step.train, workers), device)
    return run.work.times(step.train.accumulate) + work_of_muon(step, workers)


@lru_cache(maxsize=32)
def work_of_muon(step: DryStep, workers: int) -> Work:
    """None where the optimizer is another."""
    with torch.no_grad(), WorkCounter() as counter:
        for alike in stacks(matrices_of(step.model, step.optim), workers):
            orthogonal(alike[0].expand(math.ceil(len(alike) / workers), -1, -1))
    return counter.work


@lru_cache(maxsize=32)
def run_of(step: DryStep, batch_size: int, device: Device) -> DryRun:
    return dry_run(lambda: step.loss(batch_size), device)


def as_trained(model: nn.Module, train: TrainConfig) -> nn.Module:
    """Its precision, and what it computes anew, as its sharding makes them; gradients are let go, since they are
    sharded and counted by themselves."""
    if train.precision == "bf16":
        lower(model)
    recompute(model, train.recompute)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(drop_gradient)
    return model


def lower(model: nn.Module) -> None:
    """To bf16 what training computes in bf16, as its sharding does."""

    def cast(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.bfloat16() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args)

    for module in model.modules():
        if isinstance(module, sharding.LOW_PRECISION):
            module.bfloat16().register_forward_pre_hook(cast)


def drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def build_tokenizer(config: TokenizerRunConfig) -> Tokenizer:
    """Without memory."""
    with META:
        return Tokenizer(config.tokenizer, config.spectrogram, config.codebook)


def build_autoregressor(config: AutoregressorRunConfig, tokenizer: TokenizerConfig) -> Autoregressor:
    """Without memory; its buffers have values all the same, hence the second move."""
    with META:
        return Autoregressor(config.autoregressor, tokenizer, Vocabulary().cardinalities).to(META)


def teacher_inputs(tokenizer: TokenizerConfig, batch_size: int) -> Tensor:
    """(B, L - 1, C)."""
    return torch.empty(batch_size, tokenizer.schedule.num_tokens - 1, tokenizer.code_width, device=META)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
