"""How fast shuffled batches are read, and what a window of them takes, by the number of rows in a row group.

    python benchmarks/loading.py --data quickstart/pictures --out loading

The same notes are written with other row groups, then read as training reads them, by one worker.
"""

import shutil
from argparse import ArgumentParser
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from mars_dist import dataset
from mars_dist.config import TrainConfig
from mars_dist.dataset import DatasetInfo, Rows, shard_bytes
from mars_dist.storage import Folder
from mars_dist.training.batches import Batches

SIZES = (16, 32, 64, 128, 256)
BATCH = 32
MIB = 2**20


def rewrite(data: str, out: Path, num_rows: int) -> None:
    """A copy of the data set with so many rows in a row group."""
    source, folder = Folder.open(data), Folder.open(out)
    info = DatasetInfo.load(source)
    tables = {shard.name: whole_shard(Rows(data, shard.split), shard.name) for shard in info.shards}
    dataset.ROWS_IN_GROUP = num_rows
    for name, columns in tables.items():
        folder.write(name, shard_bytes(columns, {}))
    info.save(folder)


def whole_shard(rows: Rows, shard: str) -> dataset.Columns:
    names = [array.name for array in rows.info.arrays if array.name != "wave"] + ["pitch"]
    parts = [rows.read_group(group, names) for group in rows.groups if group.shard == shard]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def seconds_a_row(data: Path, columns: list[str], window_rows: int, rounds: int) -> float:
    """The median over passes through the split, each with a cold cache of ours; the files are in the system's."""
    seconds = []
    for seed in range(rounds):
        rows = Rows(data, "train")
        batches = Batches(
            rows, columns, lambda found: {"x": torch.from_numpy(found[columns[0]])}, BATCH, seed, window_rows
        )
        start, steps = perf_counter(), rows.num_rows // BATCH
        for step in range(steps):
            batches.load(step, 0, 1)
        seconds.append((perf_counter() - start) / (steps * BATCH))
    return median(seconds)


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--data", required=True, help="a data set of pictures or codes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    window_rows = TrainConfig().shuffle_rows
    print(f"Windows of about {window_rows} rows.\n")
    print("| rows in a group | bytes of a row | KiB of a group | µs to read a row | MiB of a window |")
    print("|--:|--:|--:|--:|--:|")
    for num_rows in SIZES:
        shutil.rmtree(options.out, ignore_errors=True)
        dataset.ROWS_IN_GROUP = 64
        rewrite(options.data, options.out, num_rows)
        rows = Rows(options.out, "train")
        array = rows.info.arrays[0]
        raw = np.dtype(array.dtype).itemsize * int(np.prod(array.shape))
        stored = sum((options.out / name).stat().st_size for name in {group.shard for group in rows.groups})
        groups = max(1, round(window_rows / num_rows)) + 2
        micros = 1e6 * seconds_a_row(options.out, [array.name], window_rows, options.rounds)
        print(
            f"| {num_rows} | {stored / rows.num_rows:.0f} | {stored / rows.num_rows * num_rows / 1024:.0f} | "
            f"{micros:.0f} | {groups * num_rows * raw / MIB:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
