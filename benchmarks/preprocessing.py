"""How fast notes become pictures: Ray Data against two plain processes of the same kernel, and the kernel's parts.

    python benchmarks/preprocessing.py --notes quickstart/notes --out /tmp/rates

Both sides make the same shards, in turns, of the notes under several names. By the workers' own clocks, from the start
of the first shard to the end of the last: Ray hands over several finished shards at once. Parts are timed in one
thread, beside what bounds them: the least that must be done to the same bytes.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, time
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch
from side_by_side import FEWEST_ROUNDS, Table, exponent, options, tell

from mars_dist.audio import read_note
from mars_dist.cmx import multiplex
from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import shard_bytes
from mars_dist.distributed.cluster import over_cluster
from mars_dist.memory import keep_freed_memory, preloaded
from mars_dist.pictures import NOTES_AT_ONCE, Job, Made, make_shard, plan, read_pictures
from mars_dist.presets import TINY
from mars_dist.sources.read import read_source
from mars_dist.spectrogram import picture_from_wave
from mars_dist.storage import Folder

PROCESSES, COPIES = 2, 8
SHARES = (8, 4, 2, 1)
"""Of the shards one in so many is made, to see how time grows."""


Span = tuple[float, float]
"""When a worker began a shard and when it had done it, in seconds of the machine's clock."""
Way = Callable[[Callable[[Job], Span], list[Job]], Iterable[Span]]


def plain(work: Callable[[Job], Span], jobs: list[Job]) -> Iterator[Span]:
    """Processes without Ray, with the allocator that its workers have."""
    context = get_context("spawn")
    with patch.dict(os.environ, preloaded()), ProcessPoolExecutor(PROCESSES, context, one_thread) as pool:
        for task in as_completed([pool.submit(work, job) for job in jobs]):
            yield task.result()


def one_thread() -> None:
    """As a worker of Ray has it."""
    torch.set_num_threads(1)
    keep_freed_memory()


def timed_by_worker(job: Job, work: Callable[[Job], Made]) -> Span:
    start = time()
    work(job)
    return start, time()


def seconds_of(way: Way, jobs: list[Job], folder: Path, config: SpectrogramConfig) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    work = partial(make_shard, folder=Folder.open(folder), config=config)
    starts, ends = zip(*way(partial(timed_by_worker, work=work), jobs), strict=True)
    return float(max(ends) - min(starts))


def copies(jobs: list[Job]) -> list[Job]:
    """Every shard under several names."""
    return [replace(job, shard=f"{i}-{job.shard}") for i in range(COPIES) for job in jobs]


def growth(jobs: list[Job], out: Path, config: SpectrogramConfig) -> Table:
    """Of Ray Data's time with the notes."""
    rows, sizes, taken = [], list[float](), list[float]()
    for share in SHARES:
        some = jobs[: len(jobs) // share]
        sizes.append(num_notes(some))
        taken.append(median(seconds_of(over_cluster, some, out / "rates", config) for _ in range(FEWEST_ROUNDS)))
        rows.append([f"{sizes[-1]:,.0f}", f"{taken[-1]:.2f} s", f"{sizes[-1] / taken[-1]:.0f}"])
    rows.append(["exponent", f"{exponent(sizes, taken):.2f}", ""])
    return Table(
        "Preprocessing: by the number of notes", f"Ray Data, {FEWEST_ROUNDS} rounds", ["notes", "", "notes/s"], rows
    )


def num_notes(jobs: list[Job]) -> int:
    return sum(len(job.part.entries) for job in jobs)


def rates(jobs: list[Job], out: Path, config: SpectrogramConfig, rounds: int) -> Table:
    ways: dict[str, Way] = {"two plain processes": plain, "Ray Data": over_cluster}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(num_notes(jobs) / seconds_of(way, jobs, out / "rates", config))
    ratios = [ray / other for other, ray in zip(*found.values(), strict=True)]
    rows = [[name, f"{median(rate):.0f}", f"{min(rate):.0f} to {max(rate):.0f}"] for name, rate in found.items()]
    rows.append(["Ray Data / plain", f"{median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"])
    settings = f"{num_notes(jobs):,} notes in {len(jobs)} shards, two processes of a thread each, {rounds} rounds"
    return Table("Preprocessing: Ray Data and plain processes", settings, ["", "notes/s", "rounds"], rows)


def timed(work: Callable[[], object], num: int) -> float:
    """Milliseconds a note: the median of some repetitions."""
    seconds = []
    for _ in range(7):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return 1000 * median(seconds) / num


def parts(job: Job, out: Path, config: SpectrogramConfig) -> Table:
    """What each step of a shard takes, and what bounds it."""
    one_thread()
    part, num = job.part, len(job.part.entries)
    files = [part.folder.read(entry.file) for entry in part.entries]
    waves = [read_note(content, config.sample_rate, config.num_samples) for content in files]
    wave_BT = torch.from_numpy(np.stack(waves[:NOTES_AT_ONCE]))
    picture_B1FN = picture_from_wave(wave_BT, config)
    half_B1FN = picture_B1FN.half()
    frames_BNT = torch.nn.functional.pad(wave_BT, (config.n_fft, 0)).unfold(1, config.n_fft, config.hop).contiguous()
    columns, _ = read_pictures(part, config)
    shard = shard_bytes(columns, {})
    raw = columns["picture"].tobytes()
    folder, few = Folder.open(out), len(wave_BT)
    zstd = pa.Codec("zstd", 1)

    def read() -> None:
        for entry in part.entries:
            part.folder.read(entry.file)

    def decode() -> None:
        for content in files:
            read_note(content, config.sample_rate, config.num_samples)

    def scale() -> None:
        for content in files:
            np.frombuffer(content, "<i2", offset=44).astype(np.float32) * (1 / 2**15)

    steps: dict[str, tuple[float, str, float]] = {
        "read the file": (timed(read, num), "-", 0.0),
        "decode": (timed(decode, num), "16 bits to float32", timed(scale, num)),
        "STFT, log, scale": (
            timed(lambda: picture_from_wave(wave_BT, config), few),
            "the transform alone",
            timed(lambda: torch.fft.rfft(frames_BNT), few),
        ),
        "float16": (timed(picture_B1FN.half, few), "a copy", timed(picture_B1FN.clone, few)),
        "CMX": (timed(lambda: multiplex(half_B1FN, config.cmx), few), "a copy", timed(half_B1FN.clone, few)),
        "Parquet": (
            timed(lambda: shard_bytes(columns, {}), num),
            "zstd-1 alone",
            timed(lambda: zstd.compress(raw), num),
        ),
        "write": (
            timed(lambda: folder.write("x.parquet", shard), num),
            "memory to memory",
            timed(lambda: io.BytesIO(shard).read(), num),
        ),
    }
    found = [[name, f"{ms:.3f}", what, f"{least:.3f}"] for name, (ms, what, least) in steps.items()]
    total = timed(lambda: make_shard(job, folder, config), num)
    found.append(["a whole shard", f"{total:.3f} ({1000 / total:.0f} notes/s in one process)", "", ""])
    names = ["part", "ms a note", "what bounds it", "ms a note"]
    return Table("Preprocessing: the parts of a shard", "One thread, medians of 7", names, found)


def main() -> None:
    given = options(__doc__, rounds=5, with_notes=True)
    config = TINY.tokenizer.spectrogram
    jobs = plan(read_source(given.notes).splits.values(), shard_rows=256)
    many = copies(jobs)
    tell(
        given,
        parts(jobs[0], given.out / "parts", config),
        rates(many, given.out, config, given.rounds),
        growth(many, given.out, config),
    )


if __name__ == "__main__":
    main()
