"""Costs against real modules that run, and against the formulas of the literature.

Suffixes: B batch, L tokens over all scales, C channels or code width.
"""

from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from mars_dist.autoregressor import Autoregressor
from mars_dist.cmx import demultiplex
from mars_dist.conditions import Vocabulary
from mars_dist.config import OptimConfig, Precision, TrainConfig
from mars_dist.costs import (
    DryStep,
    Memory,
    autoregressor_step,
    build_autoregressor,
    build_tokenizer,
    cost_of,
    memory_of,
    num_parameters,
    tokenizer_step,
    work_of,
)
from mars_dist.dryrun import Device
from mars_dist.histogram import Histogram
from mars_dist.losses import reconstruction_loss
from mars_dist.model import Mars
from mars_dist.presets import PRESETS, Preset
from mars_dist.sampling import SamplingConfig
from mars_dist.tokenizer import Tokenizer
from mars_dist.training import sharding
from mars_dist.training.optim import MovingAverage, make_optimizer
from mars_dist.training.run import LocalRun


def build(preset: Preset) -> tuple[Tokenizer, Autoregressor]:
    """Both stages with memory."""
    first = preset.tokenizer
    cardinalities = Vocabulary().cardinalities
    return (
        Tokenizer(first.tokenizer, first.spectrogram, first.codebook),
        Autoregressor(preset.autoregressor.autoregressor, first.tokenizer, cardinalities),
    )


def teacher_inputs(preset: Preset, batch: int) -> Tensor:
    settings = preset.tokenizer.tokenizer
    return torch.randn(batch, settings.schedule.num_tokens - 1, settings.code_width)


# ---- parameters and FLOPs


@pytest.mark.parametrize("name", ["debug", "tiny"])
def test_counts_are_those_of_real_modules(name: str) -> None:
    preset, cost = PRESETS[name], cost_of(PRESETS[name])
    tokenizer, autoregressor = build(preset)
    assert cost.tokenizer.num_parameters == num_parameters(tokenizer)
    assert cost.autoregressor.num_parameters == num_parameters(autoregressor)
    for network in (tokenizer, autoregressor):  # or products are oneDNN's on some CPUs, which the counter does not know
        network.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        tokenizer(torch.zeros(1, *preset.tokenizer.spectrogram.picture_shape))
    assert cost.tokenizer.forward_flops == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        autoregressor(teacher_inputs(preset, 1), autoregressor.no_conditions(1))
    assert cost.autoregressor.forward_flops == counter.get_total_flops()


@pytest.mark.parametrize("name", ["debug", "small"])
def test_sampling_is_that_of_a_real_note(name: str) -> None:
    """Less what is computed at every scale anew, or besides the two networks."""
    preset = PRESETS[name]
    tokenizer = build_tokenizer(preset.tokenizer)
    autoregressor = build_autoregressor(preset.autoregressor, preset.tokenizer.tokenizer)
    nothing = autoregressor.no_conditions(1)
    mars = Mars(
        tokenizer, autoregressor, preset.tokenizer.spectrogram, Vocabulary(), Histogram({}, np.ones(1, np.int64))
    )
    with FlopCounterMode(display=False) as counter:
        mars.sample_pictures(nothing, [0], SamplingConfig(unasked="null"))
    assert cost_of(preset).sampling_flops == pytest.approx(counter.get_total_flops(), rel=0.015)


@pytest.mark.parametrize("name", ["tiny", "small", "base", "large"])
def test_flops_are_those_of_the_formulas(name: str) -> None:
    """Blocks of 24 D^2 a token and 4 D a pair of tokens, and what leads in and out of them.

    Of the tokens that no one reads after the tokenizer's last block this computes queries, keys and values alone.
    """
    preset, cost = PRESETS[name], cost_of(PRESETS[name])

    def blocks(num_tokens: int, width: int, depth: int, num_unread: int = 0) -> int:
        unread = (18 * width**2 + 4 * width * num_tokens) * num_unread
        return depth * (24 * width**2 * num_tokens + 4 * width * num_tokens**2) - unread

    first, second = preset.tokenizer, preset.autoregressor.autoregressor
    settings, num_tokens = first.tokenizer, first.tokenizer.schedule.num_tokens
    expected = blocks(num_tokens, second.width, second.depth) + 2 * second.width * settings.codebook_size * num_tokens
    assert cost.autoregressor.forward_flops == pytest.approx(expected, rel=0.02)
    grid = settings.patch_grid(first.spectrogram)
    picture = first.spectrogram.num_bins * first.spectrogram.num_frames
    embedding = 2 * picture * settings.width
    nearest = 2 * settings.codebook_size * settings.code_width * num_tokens
    num_patches, num_latents = grid.area, settings.schedule.latent_grid.area
    encoder, decoder = (
        blocks(num_patches + num_latents, settings.width, settings.depth, num_unread) + embedding
        for num_unread in (num_patches, num_latents)
    )
    assert cost.tokenizer.forward_flops == pytest.approx(encoder + decoder + nearest, rel=0.02)
    assert cost.tokenizer.training_flops == 3 * cost.tokenizer.forward_flops


# ---- memory


def real_peak(step: Callable[[], None]) -> int:
    """The most bytes that a step takes from the CPU's allocator at one time."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        step()
    now = peak = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def real_tokenizer_step(model: nn.Module, preset: Preset, batch: int) -> None:
    run, cmx = preset.tokenizer, preset.tokenizer.spectrogram.cmx
    x_BCHW = torch.rand(batch, *run.spectrogram.picture_shape)
    y_BCHW, _, quantized = model(x_BCHW)
    terms = reconstruction_loss(demultiplex(y_BCHW.float(), cmx), demultiplex(x_BCHW, cmx), run.loss, run.spectrogram)
    torch.stack([*terms.values(), quantized.loss]).sum().backward()


def real_autoregressor_step(model: nn.Module, preset: Preset, batch: int) -> None:
    schedule = preset.tokenizer.tokenizer.schedule
    conditions = {name: torch.zeros(batch, dtype=torch.long) for name in Vocabulary().cardinalities}
    codes_BL = torch.zeros(batch, schedule.num_tokens, dtype=torch.long)
    model(teacher_inputs(preset, batch), conditions, codes_BL=codes_BL).mean().backward()


STEPS = {"tokenizer": real_tokenizer_step, "autoregressor": real_autoregressor_step}


def dry_step(stage: str, preset: Preset, **train: Any) -> DryStep:
    settings = replace(getattr(preset, stage), train=replace(getattr(preset, stage).train, **train))
    if stage == "tokenizer":
        return tokenizer_step(settings)
    return autoregressor_step(settings, preset.tokenizer.tokenizer)


def estimate(stage: str, preset: Preset, batch: int, precision: Precision, workers: int = 1) -> Memory:
    """On CPUs."""
    return memory_of(dry_step(stage, preset, batch_size=batch, precision=precision), workers, "cpu")


@pytest.mark.parametrize("stage", STEPS)
@pytest.mark.parametrize("name", ["debug", "tiny"])
def test_activations_are_what_a_real_step_allocates(stage: str, name: str) -> None:
    preset = PRESETS[name]
    model = dict(zip(STEPS, build(preset), strict=True))[stage]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # gradients are then there before, and not counted
    real = real_peak(lambda: STEPS[stage](model, preset, 4))
    assert estimate(stage, preset, 4, "float32").activations == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("stage", STEPS)
def test_the_total_bounds_a_real_sharded_step(stage: str, precision: Precision, tmp_path: Path) -> None:
    """One worker, as training wraps it: what is kept is exact; a step takes its activations, and the rest at most."""
    preset, optim = PRESETS["tiny"], PRESETS["tiny"].autoregressor.optim
    memory = estimate(stage, preset, 8, precision)
    LocalRun(tmp_path)  # the process group
    whole = dict(zip(STEPS, build(preset), strict=True))[stage]
    model = sharding.shard(whole, TrainConfig(precision=precision), torch.device("cpu"))
    optimizer, average = make_optimizer(model, optim, precision), MovingAverage(model, 0.9)

    def step() -> None:
        STEPS[stage](model, preset, 8)
        optimizer.step()
        optimizer.zero_grad()

    step_peak = real_peak(step)
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    for kept, expected in (
        (list(model.parameters()), memory.weights),
        (moments, memory.moments),
        (list(average.averages.values()), memory.average),
    ):
        assert sum(shard.nbytes for shard in sharding.locals_of(kept)) == expected
    assert 0.95 * memory.activations <= step_peak <= memory.activations + memory.gathered + memory.gradients


@pytest.mark.parametrize("stage", STEPS)
def test_recomputed_activations_are_not_kept(stage: str, tmp_path: Path) -> None:
    LocalRun(tmp_path)  # the process group
    peaks = []
    for recompute in ("nothing", "blocks"):
        model = dict(zip(STEPS, build(PRESETS["tiny"]), strict=True))[stage]
        sharding.shard(model, TrainConfig(precision="float32", recompute=recompute), torch.device("cpu"))
        peaks.append(real_peak(lambda: STEPS[stage](model, PRESETS["tiny"], 16)))  # noqa: B023
    assert peaks[1] < 0.7 * peaks[0]


def test_workers_share() -> None:
    """Shards and activations are divided, gathered blocks are not."""
    one, four = (estimate("autoregressor", PRESETS["tiny"], 32, "bf16", workers) for workers in (1, 4))
    assert four.gathered == one.gathered
    for name in ("weights", "gradients", "moments", "average", "activations"):
        assert 4 * getattr(four, name) == pytest.approx(getattr(one, name), rel=0.02)
    assert four.total == sum(astuple(four))


def test_blocks_are_gathered_one_by_one_where_they_are_large() -> None:
    small, cost = PRESETS["small"], cost_of(PRESETS["small"])
    memory = estimate("autoregressor", small, 8, "bf16")
    settings = small.autoregressor.autoregressor
    block = 12 * settings.width**2
    expected = 4 * (cost.autoregressor.num_parameters - (settings.depth - 2) * block)
    assert memory.gathered == pytest.approx(expected, rel=0.02)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.batch_size: 8 rows are too few for 9 workers"):
        estimate("tokenizer", PRESETS["debug"], 8, "bf16", workers=9)


def test_parts_of_a_batch_come_one_after_another() -> None:
    """The same work in two parts, with half the activations and gradients that are kept whole."""
    plain, parts = (dry_step("tokenizer", PRESETS["tiny"], accumulate=num) for num in (1, 2))
    # What fitting codes asks of the codebook alone, through the nine taps of phi, is asked anew for each part.
    tokenizer = PRESETS["tiny"].tokenizer.tokenizer
    size, width, places = tokenizer.codebook_size, tokenizer.code_width, tokenizer.schedule.latent_grid.area
    again = 2 * 9 * (width**2 + places) * size + 2 * 9 * (width + places) * width**2
    assert work_of(parts, 2, "cpu").total_flops == work_of(plain, 2, "cpu").total_flops + again
    one, two = (memory_of(step, 2, "cpu") for step in (plain, parts))
    assert two.activations < 0.55 * one.activations and two.gradients == 2 * one.gradients


@pytest.mark.parametrize("stage", STEPS)
def test_replicas_are_counted(stage: str) -> None:
    """Two replicas of two workers keep what two workers keep."""
    tiny = PRESETS["tiny"]
    plain, two = dry_step(stage, tiny), dry_step(stage, tiny, replicas=2)
    assert memory_of(two, 4, "cpu").moments == memory_of(plain, 2, "cpu").moments
    assert memory_of(two, 4, "cpu").activations == memory_of(plain, 4, "cpu").activations
    with pytest.raises(ValueError, match=r"train\.replicas: 1 workers cannot be shared out among 2 replicas"):
        memory_of(two, 1)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("stage", STEPS)
def test_recomputation_is_counted(stage: str, device: Device) -> None:
    """What is computed anew costs time, not memory."""
    plain, anew = (dry_step(stage, PRESETS["tiny"], recompute=what) for what in ("nothing", "blocks"))
    assert 0.2 < memory_of(anew, 1, device).activations / memory_of(plain, 1, device).activations < 0.7
    assert 1.2 < work_of(anew, 1, device).total_flops / work_of(plain, 1, device).total_flops < 4 / 3


@pytest.mark.parametrize("stage", STEPS)
def test_a_step_takes_three_times_the_forward_pass(stage: str) -> None:
    """And the optimizer, where it is AdamW, no products at all."""
    expected = 4 * getattr(cost_of(PRESETS["tiny"]), stage).training_flops
    step = replace(dry_step(stage, PRESETS["tiny"], batch_size=8), optim=OptimConfig())
    assert work_of(step, 2, "cpu").total_flops == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("stage", STEPS)
def test_muon_keeps_less_and_its_products_are_shared(stage: str) -> None:
    """Five times two products of 2 S^2 C and one of 2 S^3, S being the shorter side and C the longer."""
    adamw, muon = (
        replace(dry_step(stage, PRESETS["tiny"]), optim=OptimConfig(optimizer=name)) for name in ("adamw", "muon")
    )
    width, depth = 192, {"tokenizer": 8, "autoregressor": 4}[stage]
    for workers in (1, 2):
        of_width, of_length = (sum(2 * width**2 * n * width for n in sizes) for sizes in ((1,) * 4, (3, 1, 4, 4)))
        products = work_of(muon, workers, "cpu").total_flops - work_of(adamw, workers, "cpu").total_flops
        assert products == depth * 5 * (2 * of_length + of_width) / workers
    assert getattr(cost_of(PRESETS["tiny"]), stage).optimizer_flops == depth * 5 * (2 * of_length + of_width)
    spared = memory_of(adamw, 1, "cpu").moments - memory_of(muon, 1, "cpu").moments
    assert spared == 4 * depth * 12 * width**2
