"""Kill `mars preprocess` and `mars encode` with SIGKILL at random moments, and count what is lost.

    python benchmarks/kills.py --notes quickstart/notes --tokenizer quickstart/tokenizer --kills 100 --out kills

In each round the driver, or one of its workers, is killed once or several times; then the command runs to its end. The
round is right where the folder is then, byte for byte, that of an undisturbed run, and each note is in it once.
"""

import random
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import psutil

from mars_dist.dataset import MANIFEST, DatasetInfo
from mars_dist.rows import Rows
from mars_dist.sources.read import read_source
from mars_dist.storage import Folder

MARS = (sys.executable, "-m", "mars_dist")
KILLS_A_ROUND = 8
SHARDS = ("--shard-rows", 32)
"""Many, so that most kills come between two of them or in the midst of one."""
DRIVER, WORKER = "driver", "worker"
OURS = "ray::MapBatches"
"""Processes that do our work; Ray's agents are its own."""


@dataclass
class Tally:
    """What came of the kills of one command."""

    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    other_bytes: int = 0
    """Rounds after which a file differed from the undisturbed run's."""
    lost: int = 0
    doubled: int = 0
    """Notes."""
    left_behind: int = 0
    """Files that nobody needs."""


def start(words: Sequence[object]) -> subprocess.Popen[bytes]:
    """The command, in a session of its own."""
    return subprocess.Popen(
        [*MARS, *map(str, words)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def kill_at_random(
    words: Sequence[object], seconds: float, rng: random.Random, orphans: list[psutil.Process]
) -> str | None:
    """Start the command and kill it, or a worker of it, within so many seconds; what was killed, if it still ran.

    What a killed driver leaves, which ends by itself within a minute and may write until then, joins the orphans.
    """
    process, victim = start(words), rng.choice((DRIVER, WORKER))
    end, workers = monotonic() + rng.uniform(0, seconds), list[psutil.Process]()
    while process.poll() is None and (monotonic() < end or (victim == WORKER and not workers)):
        sleep(0.01)
        if monotonic() >= end:  # there are no workers before Ray has started
            workers = workers_of(process.pid)
    if process.poll() is not None:
        require_success(process)
        return None
    if victim == WORKER:
        with suppress(psutil.NoSuchProcess):
            rng.choice(workers).kill()
        require_success(process)
        return WORKER
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    orphans.extend(family)
    return DRIVER


def workers_of(driver: int) -> list[psutil.Process]:
    try:
        family = psutil.Process(driver).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in family if title(child).startswith(OURS)]


def title(process: psutil.Process) -> str:
    """Its command line; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def require_success(process: subprocess.Popen[bytes]) -> None:
    """Wait for the command's end."""
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names_in(folder: Path) -> Counter[str]:
    """How often each note is in the data set."""
    info = DatasetInfo.load(Folder.open(folder))
    names = Counter(note.note_str for note in info.rejected)
    for split in info.counts:
        names.update(Rows(folder, split).read(["note_str"])["note_str"].tolist())
    return names


def study(words: list[object], out: Path, notes: set[str], num_kills: int, rng: random.Random) -> Tally:
    """Rounds, until so many kills were made of the command `words`, whose folder is named last."""
    undisturbed = out / "undisturbed"
    begin = monotonic()
    require_success(start([*words, undisturbed]))
    seconds, expected, tally = monotonic() - begin, contents(undisturbed), Tally()
    while tally.kills.total() < num_kills:
        folder = out / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        orphans: list[psutil.Process] = []
        for _ in range(rng.randint(1, KILLS_A_ROUND)):
            if killed := kill_at_random([*words, folder], seconds, rng, orphans):
                tally.kills[killed] += 1
            if (folder / MANIFEST).exists():
                break
        begin = monotonic()
        require_success(start([*words, folder]))
        seconds = min(seconds, monotonic() - begin)
        psutil.wait_procs(orphans, timeout=60)
        found, names = contents(folder), names_in(folder)
        tally.rounds += 1
        tally.other_bytes += any(found.get(name) != content for name, content in expected.items())
        tally.left_behind += len(found.keys() - expected.keys())
        tally.lost += len(notes - names.keys())
        tally.doubled += sum(num - 1 for num in names.values())
        print(f"{words[0]}: {tally.kills.total()} kills, {tally}", file=sys.stderr, flush=True)
    return tally


def row(name: str, tally: Tally) -> str:
    cells = (
        name, tally.kills[DRIVER], tally.kills[WORKER], tally.rounds, tally.lost, tally.doubled, tally.other_bytes,
        tally.left_behind,
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--notes", type=Path, required=True, help="a source, such as quickstart/notes")
    parser.add_argument("--tokenizer", type=Path, help="to kill mars encode too")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=Path, help="what was preprocessed before: mars encode alone is killed")
    options = parser.parse_args()
    source, rng = read_source(options.notes), random.Random(options.seed)
    notes = {note.note_str for split in source.splits.values() for note in split.notes}
    commands: dict[str, list[object]] = {}
    if not options.pictures:
        commands["preprocess"] = ["preprocess", options.preset, "--source", options.notes, *SHARDS]
    if options.tokenizer:
        pictures = options.pictures or options.out / "preprocess" / "undisturbed"
        commands["encode"] = ["encode", "--tokenizer", options.tokenizer, "--data", pictures]
    print("| command | drivers killed | workers killed | rounds | notes lost | doubled | other bytes | files left |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, words in commands.items():
        tally = study([*words, "--out"], options.out / name, notes, options.kills, rng)
        print(row(name, tally), flush=True)


if __name__ == "__main__":
    main()
