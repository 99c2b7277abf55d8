"""Two FSDP workers of one thread each against one process with two threads, on the same global batch.

python benchmarks/workers.py --notes quickstart/notes --out /tmp/workers
"""

import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import torch
import torch.distributed as dist
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
    for case in CASES:
        plan = plan_of(home, *case, "float32")
        found = take_turns({"one": partial(step_of, plan), "two": partial(two_workers, plan)}, given.rounds)
        one, two = found["one"], found["two"]
        preset, stage, batch = case
        throughput = 1 / two.over(one)
        rows.append(
            [f"{preset} {stage}", str(batch), f"{one.median:.3f} s", f"{two.median:.3f} s", f"{throughput:.2f}"]
        )
    columns = ["", "batch", "one process, two threads", "two workers, a thread each", "of one's throughput"]
    tell(given, Table("FSDP against one process", f"float32, gloo, {given.rounds} rounds", columns, rows))


if __name__ == "__main__":
    main()
