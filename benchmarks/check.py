"""What `mars check` predicts of a training step and of a worker's memory, against what is then measured.

    python benchmarks/check.py --notes quickstart/notes --out /tmp/check

Every worker is a process with one thread. Beside other load a step's wall time tells of that load; the processor time
of a worker does not, so that is what is compared, and both are shown. Rates are measured before and after each run, and
the better ones count. The tokenizer that codes are made by has random weights: nothing here depends on them.
"""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import torch
import torch.distributed as dist
from data_memory import most_ever

from mars_dist import codes, pictures
from mars_dist.check.device import Cpu, this_cpu
from mars_dist.check.estimate import Estimate, estimates
from mars_dist.cpus import cpu, own_cpus
from mars_dist.dataset import DatasetInfo
from mars_dist.memory import preloaded
from mars_dist.model import save_tokenizer
from mars_dist.presets import PRESETS, Preset
from mars_dist.serialize import read_json, write_json
from mars_dist.sources.read import read_source
from mars_dist.storage import Folder
from mars_dist.tokenizer import Tokenizer
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun, Wish

CASES = (
    ("debug", "tokenizer", 4, 1, "calibration"),
    ("debug", "autoregressor", 4, 1, "calibration"),
    ("tiny", "tokenizer", 16, 1, "calibration"),
    ("tiny", "autoregressor", 32, 1, "calibration"),
    ("tiny", "tokenizer", 32, 2, "other workers"),
    ("tiny", "autoregressor", 64, 2, "other workers"),
    ("small", "tokenizer", 4, 1, "other preset"),
    ("small", "autoregressor", 4, 1, "other preset"),
    ("small", "tokenizer", 8, 2, "other both"),
    ("small", "autoregressor", 8, 2, "other both"),
    ("base", "tokenizer", 2, 1, "other preset"),
    ("base", "autoregressor", 2, 1, "other preset"),
)
STEPS, NOTES = 7, 256
MIB = 2**20


class TimedRun(LocalRun):
    """The loop asks for a wish once a step."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.times: list[tuple[float, float]] = []

    def wish(self) -> Wish:
        self.times.append((perf_counter(), process_time()))
        return super().wish()


def prepare(name: str, notes: Path, out: Path) -> None:
    """Pictures of some notes, a tokenizer and its codes; once."""
    if (out / "codes" / "dataset.json").exists():
        return
    run, folder = PRESETS[name].tokenizer, Folder.open(out / "pictures")
    jobs = []
    for split, part in read_source(notes).splits.items():
        jobs += list(pictures.plan([part], shard_rows=64))[: NOTES // 64 if split == "train" else 1]
    made = [pictures.make_shard(job, folder, run.spectrogram) for job in jobs]
    shards = tuple(one.shard for one in made)
    DatasetInfo("pictures", run.spectrogram, pictures.arrays(run.spectrogram), shards, source=notes.name).save(folder)
    model = Tokenizer(run.tokenizer, run.spectrogram, run.codebook)
    save_tokenizer(out / "tokenizer", model.state_dict(), run, {})
    codes.encode_here(folder.name, out / "tokenizer", out / "codes")


def shortened(preset: Preset, batch_size: int) -> Preset:
    """A few steps without a validation but the last; the codebook is there from the start."""
    first, second = (
        replace(
            stage.train,
            batch_size=batch_size,
            steps=STEPS,
            validate_every=1000,
            checkpoint_every=1000,
            validation_rows=8,
        )
        for stage in (preset.tokenizer, preset.autoregressor)
    )
    codebook = replace(preset.tokenizer.codebook, start_step=0)
    tokenizer = replace(preset.tokenizer, train=first, codebook=codebook)
    return Preset(tokenizer, replace(preset.autoregressor, train=second))


def work(plan: Path, rank: int, workers: int) -> None:
    """One worker: leaves seconds of each step and its largest memory."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{plan}.store", workers), rank=rank, world_size=workers)
    settings = Plan.from_plain(read_json(plan))
    run = TimedRun(Path(settings.folder))
    settings.train(run)
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(run.times[1:], run.times[2:], strict=False)]
    wall, own = (median(step[i] for step in steps) for i in (0, 1))
    write_json(Path(f"{plan}.{rank}"), {"wall": wall, "own": own, "peak": most_ever(os.getpid())})


def measure(plan: Plan, workers: int, file: Path) -> dict[str, float]:
    """Of the slowest and of the largest worker."""
    write_json(file, plan.to_plain())
    words = [sys.executable, __file__, "--work", str(file), "--workers", str(workers)]
    environment = os.environ | preloaded() | {"OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen([*words, "--rank", str(rank)], env=environment) for rank in range(workers)]
    assert not any([process.wait() for process in started])
    found = [json.loads(Path(f"{file}.{rank}").read_text()) for rank in range(workers)]
    return {name: max(one[name] for one in found) for name in ("wall", "own", "peak")}


def better(a: Cpu, b: Cpu) -> Cpu:
    flops = {dtype: max(a.flops[dtype], b.flops[dtype]) for dtype in a.flops}
    return replace(a, flops=flops, num_bytes=max(a.num_bytes, b.num_bytes), operation=min(a.operation, b.operation))


def cases(out: Path, notes: Path, names: list[str]) -> Iterator[str]:
    for number, (name, stage, batch_size, workers, kind) in enumerate(CASES):
        if name not in names:
            continue
        folder, preset = out / name, shortened(PRESETS[name], batch_size)
        prepare(name, notes, folder)
        run = folder / f"run-{number}-{os.getpid()}"
        plans = {
            "tokenizer": Plan(preset.tokenizer, str(folder / "pictures"), run),
            "autoregressor": Plan(preset.autoregressor, str(folder / "codes"), run, str(folder / "tokenizer")),
        }
        before = this_cpu(max(2, own_cpus()))
        found = measure(plans[stage], workers, folder / f"plan-{number}-{os.getpid()}.json")
        device = better(before, this_cpu(max(2, own_cpus())))
        predicted = next(one for one in estimates(preset, workers, device, NOTES) if one.stage == stage)
        yield row(name, kind, predicted, found)


def row(name: str, kind: str, predicted: Estimate, found: dict[str, float]) -> str:
    memory, seconds = predicted.host_bytes / found["peak"], predicted.step_seconds / found["own"]
    return (
        f"| {name} {predicted.stage} | {predicted.workers} | {predicted.batch_size} | {kind} "
        f"| {predicted.host_bytes / MIB:.0f} | {found['peak'] / MIB:.0f} | {memory:.2f} "
        f"| {1000 * predicted.step_seconds:.0f} | {1000 * found['own']:.0f} | {seconds:.2f} "
        f"| {1000 * found['wall']:.0f} | {predicted.utilisation:.2f} |"
    )


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--notes", type=Path, help="an NSynth folder, such as quickstart/notes")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--presets", nargs="+", default=["debug", "tiny", "small", "base"])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.rank, options.workers)
        return
    print(f"{cpu()}; torch {torch.__version__}; one thread a worker; medians of {STEPS - 2} steps\n")
    print(
        "| | workers | batch | | MiB predicted | measured | ratio | ms a step predicted | processor time | ratio "
        "| wall time | utilisation |"
    )
    print("|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for line in cases(options.out.absolute(), options.notes.absolute(), options.presets):
        print(line, flush=True)


if __name__ == "__main__":
    main()
