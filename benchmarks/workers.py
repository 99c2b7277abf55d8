"""FSDP workers of one thread each, one and two, against one process with two threads, on the same global batch.

python benchmarks/workers.py --notes quickstart/notes --out /tmp/workers
"""

import math
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import mkdtemp

import torch
import torch.distributed as dist
from autoregressor_step import DTYPES
from check import prepare
from side_by_side import Call, Table, options, take_turns, tell
from training_step import plan_of, step_of

from mars_dist.serialize import read_json, write_json
from mars_dist.training.plan import Plan

CASES = (("tiny", "tokenizer", 16), ("tiny", "autoregressor", 32), ("small", "autoregressor", 8))
"""Preset, stage, batch."""


def two_workers(plan: Plan) -> Call:
    """Rank 0 of two. The other one steps along: it waits for this one wherever they exchange something."""
    scratch = Path(mkdtemp())
    write_json(scratch / "plan.json", plan.to_plain())
    subprocess.Popen([sys.executable, __file__, "--second", str(scratch)])
    return worker(scratch, 0)


def one_worker(plan: Plan) -> Call:
    torch.set_num_threads(1)
    return step_of(plan)


def worker(scratch: Path, rank: int) -> Call:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(scratch / "store"), 2), rank=rank, world_size=2)
    return step_of(Plan.from_plain(read_json(scratch / "plan.json")))


def step_along(scratch: Path) -> None:
    """Until the first worker is gone."""
    step = worker(scratch, 1)
    try:
        while True:
            step()
    except RuntimeError:  # gloo: the connection was closed
        return


def main() -> None:
    if sys.argv[1:2] == ["--second"]:
        step_along(Path(sys.argv[2]))
        return
    given = options(__doc__, with_notes=True)
    home: Path = given.out
    for preset in {preset for preset, *_ in CASES}:
        prepare(preset, given.notes, home / preset)
    rows = []
    for (preset, stage, batch), dtype in product(CASES, DTYPES):
        plan = plan_of(home, preset, stage, batch, dtype)
        sides = {"process": step_of, "one": one_worker, "two": two_workers}
        found = take_turns({name: partial(side, plan) for name, side in sides.items()}, given.rounds)
        process, one, two = (found[name] for name in sides)
        seconds = [f"{times.median:.3f} s" for times in (process, one, two)]
        gained = [f"{1 / two.over(process):.2f}", f"{math.log2(two.over(one)):.2f}"]
        rows.append([f"{preset} {stage}", str(batch), dtype, *seconds, *gained])
    columns = [
        "",
        "batch",
        "",
        "one process, two threads",
        "a worker of one thread",
        "two of them",
        "their throughput, of the process's",
        "exponent of workers",
    ]
    tell(given, Table("FSDP against one process", f"gloo, {given.rounds} rounds", columns, rows))


if __name__ == "__main__":
    main()
