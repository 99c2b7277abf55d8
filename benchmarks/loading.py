"""How fast shuffled batches are read, and what a window of them takes: by the rows in a row group, and in the data set.

    python benchmarks/loading.py --notes quickstart/notes --out /tmp/loading

The same notes are written with other row groups, then read as training reads them, by one worker; then their shards are
linked under more and more names.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from check import prepare
from side_by_side import Table, exponent, options, tell

from mars_dist import dataset
from mars_dist import rows as reading
from mars_dist.config import TrainConfig
from mars_dist.dataset import DatasetInfo, shard_bytes
from mars_dist.rows import Rows
from mars_dist.storage import Folder
from mars_dist.training.batches import Batches

SIZES, COPIES = (16, 32, 64, 128, 256), (1, 10, 100, 1000)
BATCH, WINDOW = 32, TrainConfig().shuffle_rows
MIB = 2**20


def rewrite(data: str, out: Path, num_rows: int) -> None:
    """A copy of the data set with so many rows in a row group."""
    source, folder = Folder.open(data), Folder.open(out)
    info = DatasetInfo.load(source)
    tables = {shard.name: whole_shard(Rows(data, shard.split), shard.name) for shard in info.shards}
    regroup(num_rows)
    for name, columns in tables.items():
        folder.write(name, shard_bytes(columns, {}))
    info.save(folder)


def regroup(num_rows: int) -> None:
    """So many rows in a row group, for who writes and for who reads."""
    for module in (dataset, reading):
        vars(module)["ROWS_IN_GROUP"] = num_rows


def whole_shard(rows: Rows, shard: str) -> dataset.Columns:
    names = [array.name for array in rows.info.arrays if array.name != "wave"] + ["pitch"]
    parts = [rows.read_group(group, names) for group in rows.groups if group.shard == shard]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def seconds_a_row(data: Path, columns: list[str], window_rows: int, rounds: int) -> float:
    """The median over passes through the split, each with a cold cache of ours; the files are in the system's."""
    seconds = []
    for seed in range(rounds):
        rows = Rows(data, "train")
        train = TrainConfig(batch_size=BATCH, seed=seed, shuffle_rows=window_rows)
        batches = Batches(rows, columns, lambda found: {"x": torch.from_numpy(found[columns[0]])}, train)
        start, steps = perf_counter(), rows.num_rows // BATCH
        for step in range(steps):
            batches.load(step, 0, 1)
        seconds.append((perf_counter() - start) / (steps * BATCH))
    return median(seconds)


def enlarged(data: str, out: Path, copies: int) -> Path:
    """The data set with every shard under so many names."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    info = DatasetInfo.load(Folder.open(data))
    shards = [replace(shard, name=f"{i:04d}-{shard.name}") for i in range(copies) for shard in info.shards]
    for shard in shards:
        os.link(Path(data) / shard.name[len("0000-") :], out / shard.name)
    replace(info, shards=tuple(shards)).save(Folder.open(out))
    return out


def opened(data: Path) -> Batches:
    """Of codes, as an autoregressor reads them."""
    rows = Rows(data, "train")
    return Batches(
        rows, ["codes"], lambda found: {"x": torch.from_numpy(found["codes"])}, TrainConfig(batch_size=BATCH)
    )


def by_size(data: str, out: Path, rounds: int) -> Table:
    """Of a data set of codes: until the first batch is there, and each further one."""
    rows, sizes, costs = [], list[float](), list[tuple[float, float]]()
    for copies in COPIES:
        folder = enlarged(data, out, copies)
        firsts, others = [], []
        for _ in range(rounds):
            start = perf_counter()
            batches = opened(folder)
            batches.load(0, 0, 1)
            firsts.append(perf_counter() - start)
            start = perf_counter()
            for step in range(1, 17):
                batches.load(step, 0, 1)
            others.append((perf_counter() - start) / 16)
        sizes.append(batches.rows.num_rows)
        costs.append((median(firsts), median(others)))
        rows.append([f"{sizes[-1]:,.0f}", f"{median(firsts):.3f} s", f"{1000 * median(others):.2f} ms"])
    rows.append(["exponent", *(f"{exponent(sizes, taken):.2f}" for taken in zip(*costs, strict=True))])
    settings = f"Codes, batches of {BATCH}, one thread, {rounds} rounds"
    return Table("Reading: by the size of the data set", settings, ["rows", "the first batch", "each further"], rows)


def main() -> None:
    given, rows = options(__doc__, with_notes=True), []
    torch.set_num_threads(1)
    prepare("tiny", given.notes, given.out / "tiny")
    for kind in ("pictures", "codes"):
        for num_rows in SIZES:
            rows.append([kind, *row(str(given.out / "tiny" / kind), given.out / "rewritten", num_rows, given.rounds)])
    columns = [
        "",
        "rows in a group",
        "bytes of a row",
        "KiB of a group",
        "\u00b5s to read a row",
        "of it a copy",
        "MiB of a window",
    ]
    settings = f"Batches of {BATCH}, windows of about {WINDOW} rows, one thread, {given.rounds} rounds"
    groups = Table("Reading shuffled batches", settings, columns, rows)
    tell(given, groups, by_size(str(given.out / "tiny" / "codes"), given.out / "enlarged", given.rounds))


def row(data: str, out: Path, num_rows: int, rounds: int) -> list[str]:
    shutil.rmtree(out, ignore_errors=True)
    regroup(64)
    rewrite(data, out, num_rows)
    rows = Rows(out, "train")
    array = rows.info.arrays[0]
    raw = np.dtype(array.dtype).itemsize * int(np.prod(array.shape))
    stored = sum((out / name).stat().st_size for name in {group.shard for group in rows.groups})
    groups = max(1, round(WINDOW / num_rows)) + 1
    seconds = seconds_a_row(out, [array.name], WINDOW, rounds)
    return [
        str(num_rows),
        f"{stored / rows.num_rows:.0f}",
        f"{stored / rows.num_rows * num_rows / 1024:.0f}",
        f"{1e6 * seconds:.0f}",
        f"{seconds_to_copy(raw * BATCH) / BATCH / seconds:.0%}",
        f"{groups * num_rows * raw / MIB:.1f}",
    ]


def seconds_to_copy(num_bytes: int) -> float:
    """The least that making a batch takes."""
    batch, seconds = np.ones(num_bytes, np.uint8), []
    for _ in range(100):
        start = perf_counter()
        batch.copy()
        seconds.append(perf_counter() - start)
    return median(seconds)


if __name__ == "__main__":
    main()
