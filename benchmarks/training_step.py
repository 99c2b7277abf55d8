"""A training step of a preset, as the loop does it, on notes: what it takes, and the share of the machine's limit.

    python benchmarks/training_step.py --notes quickstart/notes --out /tmp/steps

Two threads. The codebook is there from the start; codes are a random tokenizer's, on which no step's time depends.
"""

from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from autoregressor_step import DTYPES
from check import prepare
from side_by_side import MIB, Call, Table, options, product, product_rate, take_turns, tell

from mars_dist.costs import autoregressor_cost, tokenizer_cost
from mars_dist.presets import PRESETS
from mars_dist.training import sharding
from mars_dist.training.loop import update
from mars_dist.training.optim import MovingAverage, make_optimizer
from mars_dist.training.plan import Plan, RunConfig
from mars_dist.training.run import LocalRun

CASES = (
    ("tiny", "tokenizer", 16),
    ("tiny", "autoregressor", 32),
    ("small", "tokenizer", 4),
    ("small", "autoregressor", 4),
)
"""Preset, stage, batch."""


def config_of(preset: str, stage: str, batch: int, precision: str) -> RunConfig:
    run = getattr(PRESETS[preset], stage)
    train = replace(run.train, batch_size=batch, precision=precision, validation_rows=8)
    if stage == "tokenizer":
        run = replace(run, codebook=replace(run.codebook, start_step=0))
    return replace(run, train=train)


def plan_of(home: Path, preset: str, stage: str, batch: int, precision: str) -> Plan:
    config, folder = config_of(preset, stage, batch, precision), home / preset
    if stage == "tokenizer":
        return Plan(config, str(folder / "pictures"), home / "run")
    return Plan(config, str(folder / "codes"), home / "run", folder / "tokenizer")


def step_of(plan: Plan) -> Call:
    """All that a step is but reading its batch."""
    run = LocalRun(Path(plan.folder))
    stage = plan.stage(run)
    model = sharding.shard(stage.model, stage.train, run.device)
    optimizer = make_optimizer(model, stage.optim, stage.train.precision)
    average = MovingAverage(model, stage.optim.ema)
    with closing(stage.batches.stream(0, run.rank, run.world_size)) as stream:
        batch = next(stream).batch

    def step() -> None:
        update(stage, batch, 0, optimizer, run)
        average.update(0)
        stage.after_step(1, optimizer, average)  # a step that restarts no codes

    return step


def main() -> None:
    given = options(__doc__, with_notes=True)
    home: Path = given.out
    for preset in {preset for preset, *_ in CASES}:
        prepare(preset, given.notes, home / preset)
    plans = {(*case, dtype): plan_of(home, *case, dtype) for case in CASES for dtype in DTYPES}
    set_ups = {" ".join(map(str, key)): partial(step_of, plan) for key, plan in plans.items()}
    found = take_turns(set_ups | {dtype: partial(product, DTYPES[dtype]) for dtype in DTYPES}, given.rounds)
    rows = []
    for name, (preset, stage, batch, dtype) in zip(set_ups, plans, strict=True):
        run, times = PRESETS[preset], found[name]
        cost = (
            tokenizer_cost(run.tokenizer)
            if stage == "tokenizer"
            else autoregressor_cost(run.autoregressor, run.tokenizer.tokenizer)
        )
        rate = cost.training_flops * batch / times.median
        share, peak = f"{rate / product_rate(found[dtype]):.0%}", f"{times.peak_bytes / MIB:.0f} MiB"
        rows.append(
            [
                f"{preset} {stage}",
                str(batch),
                dtype,
                f"{times.median:.3f} s",
                f"{batch / times.median:.1f}",
                share,
                peak,
            ]
        )
    columns = ["", "batch", "", "step", "notes/s", "of a matrix product's rate", "peak"]
    tell(given, Table("Training steps of presets", f"2 threads, {given.rounds} rounds", columns, rows))


if __name__ == "__main__":
    main()
