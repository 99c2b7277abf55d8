"""The memory of `mars preprocess` and `mars encode` on a source and on one ten times as large.

    python benchmarks/data_memory.py --notes quickstart/notes --tokenizer quickstart/tokenizer --out memory

The larger source has each wav under several names. Of the driver and the workers it is the most that one process has
ever held (Linux's VmHWM); of Ray's own processes the sum of proportional set sizes, which counts what they share once.
"""

import json
import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from time import sleep

import psutil
from kills import require_success, start

from mars_dist.nsynth import SPLITS

SECONDS_BETWEEN_LOOKS = 0.5
DRIVER, WORKER, RAY = "driver", "a worker", "Ray's own"
MIB = 2**20


def multiply(source: Path, folder: Path, times: int) -> None:
    """The notes of an NSynth folder under so many names, their wavs linked."""
    for split in SPLITS:
        there, here = source / f"nsynth-{split}", folder / f"nsynth-{split}"
        if not there.exists():
            continue
        (here / "audio").mkdir(parents=True)
        entries = {}
        for name, entry in json.loads((there / "examples.json").read_text()).items():
            for i in range(times):
                entries[f"{name}-{i}"] = entry | {"note_str": f"{name}-{i}"}
                os.link(there / "audio" / f"{name}.wav", here / "audio" / f"{name}-{i}.wav")
        (here / "examples.json").write_text(json.dumps(entries))


def kind_of(process: psutil.Process, driver: int) -> str:
    if process.pid == driver:
        return DRIVER
    name = process.cmdline()[0]
    return WORKER if name.startswith(("ray::MapBatches", "ray::IDLE")) else RAY


def peaks(words: Sequence[object]) -> dict[str, int]:
    """The largest memory of each kind of process while a command ran, in bytes; Ray's own are added up."""
    process, found = start(words), {DRIVER: 0, WORKER: 0, RAY: 0}
    while process.poll() is None:
        of_ray = 0
        for one in family(process.pid):
            try:
                kind = kind_of(one, process.pid)
                size = one.memory_full_info().pss if kind == RAY else most_ever(one.pid)
            except (psutil.Error, IndexError, OSError):  # it has ended
                continue
            of_ray += size * (kind == RAY)
            found[kind] = max(found[kind], size)
        found[RAY] = max(found[RAY], of_ray)
        sleep(SECONDS_BETWEEN_LOOKS)
    require_success(process)
    return found


def most_ever(pid: int) -> int:
    """The largest resident set that a process has had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def family(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--notes", type=Path, required=True, help="an NSynth folder, such as quickstart/notes")
    parser.add_argument("--tokenizer", type=Path, help="for mars encode too")
    parser.add_argument("--out", type=Path, required=True, help="on the disk of the notes")
    parser.add_argument("--preset", default="tiny")
    options = parser.parse_args()
    print(f"| command | notes | {' | '.join(f'{kind}, MiB' for kind in (DRIVER, WORKER, RAY))} |")
    print("|---|--:|--:|--:|--:|")
    for times in (1, 10):
        notes, pictures, codes = (options.out / f"{name} x{times}" for name in ("notes", "pictures", "codes"))
        multiply(options.notes, notes, times)
        num_notes = sum(1 for _ in notes.glob("*/audio/*.wav"))
        commands: list[list[object]] = [["preprocess", options.preset, "--source", notes, "--out", pictures]]
        if options.tokenizer:
            commands.append(["encode", "--tokenizer", options.tokenizer, "--data", pictures, "--out", codes])
        for words in commands:
            found = peaks(words)
            cells = " | ".join(f"{size / MIB:.0f}" for size in found.values())
            print(f"| {words[0]} | {num_notes:,} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
