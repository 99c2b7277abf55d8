"""Training and sampling on this process's GPU: notes a second, model FLOPs utilisation, peak memory.

    python benchmarks/gpu.py --notes quickstart/notes --out /tmp/gpu --gpu h100

Ray is not needed. Steps are the loop's own, FSDP of one process included; networks and codes are random, on which no
time depends. Where there is no GPU the same runs on the CPU, which shows that it runs and no more.
"""

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from check import prepare
from side_by_side import MIB, SIDE, Call, Table, most_ever_of_this, parser_of, tell
from training_step import plan_of, step_of

from mars_dist.autoregressor import Autoregressor
from mars_dist.check.device import GPUS
from mars_dist.conditions import Vocabulary
from mars_dist.costs import cost_of, flops_of_seen_pairs, tokenizer_cost
from mars_dist.devices import own_device
from mars_dist.histogram import Histogram
from mars_dist.model import Mars
from mars_dist.phase import DEFAULT, wave_from_picture
from mars_dist.presets import PRESETS
from mars_dist.sampling import AS_ASKED
from mars_dist.tokenizer import Tokenizer

STAGES = ("tokenizer", "autoregressor")
SIDES = {"cuda": 4 * SIDE, "cpu": SIDE}
"""Of the matrices whose product gives the limit: small ones leave a GPU idle."""
FORMULA = (
    "Model FLOPs utilisation: 3 x the forward pass's FLOPs (matrix products and convolutions, two a multiplication and "
    "addition; in the autoregressor's attention each pair of tokens once where the one may see the other), over time x "
    "peak. What is computed again for the backward pass, Muon's products and the optimizer count as nothing. Sampling: "
    "the FLOPs of conditions to picture with cached keys and values, guidance's second half included."
)


def seconds_of(call: Callable[[], object], rounds: int) -> float:
    """The median, after two calls to warm up."""
    taken = []
    for _ in range(rounds + 2):
        wait()
        start = perf_counter()
        call()
        wait()
        taken.append(perf_counter() - start)
    return median(taken[2:])


def wait() -> None:
    """Until the GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forget() -> None:
    """What is measured next has the memory to itself, and is compiled for its own shapes alone."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Of tensors, on a GPU; on a CPU of the whole process, whatever ran in it before."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else most_ever_of_this()


def step(home: Path, preset: str, stage: str, batch: int, compiled: bool) -> Call:
    plan = plan_of(home, preset, stage, batch, "bf16")
    train = replace(plan.config.train, compile=compiled)
    return step_of(replace(plan, config=replace(plan.config, train=train)))


def training_flops(preset: str, stage: str) -> float:
    """Of one note, as FORMULA says."""
    run = PRESETS[preset]
    if stage == "tokenizer":
        return tokenizer_cost(run.tokenizer).training_flops
    return 3 * flops_of_seen_pairs(run.autoregressor, run.tokenizer.tokenizer)


def untrained(preset: str) -> Mars:
    run, vocabulary = PRESETS[preset], Vocabulary()
    tokenizer = Tokenizer(run.tokenizer.tokenizer, run.tokenizer.spectrogram)
    autoregressor = Autoregressor(run.autoregressor.autoregressor, run.tokenizer.tokenizer, vocabulary.cardinalities)
    nothing = Histogram({}, np.zeros(0, np.int64))
    device, spectrogram = own_device(), run.tokenizer.spectrogram
    return Mars(tokenizer.to(device).eval(), autoregressor.to(device).eval(), spectrogram, vocabulary, nothing)


def sampling(preset: str, batch: int, with_phase: bool) -> Call:
    """From conditions to pictures, or on to sound in main memory."""
    mars = untrained(preset)
    conditions, ids = mars.vocabulary.of_words(batch, pitch=60, velocity=100), list(range(batch))
    settings = replace(AS_ASKED, precision="bf16")

    @torch.inference_mode()
    def sample() -> None:
        pictures_B1FN = mars.sample_pictures(conditions, ids, settings)
        if with_phase:
            wave_from_picture(pictures_B1FN, mars.spectrogram, DEFAULT).cpu()

    return sample


def product_rate(rounds: int) -> float:
    """FLOP/s of a product of matrices in bf16."""
    device = own_device()
    side = SIDES[device.type]
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b, rounds)


def main() -> None:
    parser = parser_of(__doc__, with_notes=True)
    parser.add_argument("--gpu", choices=GPUS, help="whose data sheet has the peak; without it there is no utilisation")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["small", "base"])
    parser.add_argument("--batch", type=int, default=64, help="notes that are sampled at once")
    parser.add_argument("--training-batch", type=int, help="notes of a step, where a preset's own are too many")
    parser.add_argument("--compiled", action="store_true", help="each training compiled as well")
    given = parser.parse_args()
    for preset in given.presets:
        prepare(preset, given.notes, given.out / preset)
    limit, peak = product_rate(given.rounds), GPUS[given.gpu].peak if given.gpu else None

    def row(name: str, batch: int, set_up: Callable[[], Call], flops: float) -> list[str]:
        forget()
        seconds = seconds_of(set_up(), given.rounds)
        rate = flops * batch / seconds
        share = f"{rate / peak:.3f}" if peak else "-"
        used = f"{peak_bytes() / MIB:.0f} MiB"
        notes = f"{batch / seconds:.1f}"
        return [name, str(batch), f"{seconds:.4f} s", notes, share, f"{rate / limit:.3f}", used]

    trained, sampled = [], []
    for preset in given.presets:
        for stage in STAGES:
            batch = given.training_batch or getattr(PRESETS[preset], stage).train.batch_size
            for compiled in (False, True)[: 1 + given.compiled]:
                name = f"{preset} {stage}{', compiled' if compiled else ''}"
                set_up = partial(step, given.out, preset, stage, batch, compiled)
                trained.append(row(name, batch, set_up, training_flops(preset, stage)))
        for with_phase in (False, True):
            name = f"{preset}, conditions to {'sound' if with_phase else 'pictures'}"
            set_up = partial(sampling, preset, given.batch, with_phase)
            sampled.append(row(name, given.batch, set_up, cost_of(PRESETS[preset]).sampling_flops))
    rate = f"{limit / 1e12:.4g} TFLOP/s"
    settings = f"{own_device().type}, bf16, {given.rounds} rounds; a matrix product: {rate}"
    columns = ["", "batch", "time", "notes/s", "of the data sheet's peak", "of a matrix product's rate", "peak memory"]
    tell(given, Table("Training", settings, columns, trained, FORMULA), Table("Sampling", settings, columns, sampled))


if __name__ == "__main__":
    main()
