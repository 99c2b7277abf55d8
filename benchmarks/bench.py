"""Every benchmark of speed, one after the other, into a page of docs/benchmarks: `make bench`.

    python benchmarks/bench.py --out bench

Notes to measure on are rendered into the folder. A benchmark that fails is named on the page, and ends this with 1.
"""

import json
import re
import subprocess
import sys
from argparse import ArgumentParser
from datetime import date
from pathlib import Path

import torch
from side_by_side import Table, machine

from mars_dist.cpus import cpu
from mars_dist.notes import NotesConfig, render
from mars_dist.progress import tenths

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "benchmarks"
ON_NOTES = (
    "preprocessing",
    "loading",
    "reading",
    "training_step",
    "waiting",
    "encode",
    "workers",
    "checkpoint_stall",
    "start_up",
)
ON_A_GPU = ("gpu",) if torch.cuda.is_available() else ()
ALONE = ("autoregressor_step", "gains", "sampling", "phase", "growth")
NOTES = NotesConfig(pitches=(60, 66), velocities=(100,))


def tables_of(name: str, out: Path) -> list[Table]:
    """What a benchmark has found. Raises CalledProcessError."""
    found = out / f"{name}.json"
    words = [sys.executable, HERE / f"{name}.py", "--json", found]
    if name in (*ON_NOTES, *ON_A_GPU):
        words += ["--notes", out / "notes", "--out", out / "work"]
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL)
    return [Table(**table) for table in json.loads(found.read_text())["tables"]]


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--out", type=lambda name: Path(name).absolute(), required=True)
    out: Path = parser.parse_args().out
    render(out / "notes", NOTES, progress=tenths("notes"))
    parts, failed = [], False
    for name in (*ON_NOTES, *ALONE, *ON_A_GPU):
        print(f"{name} ...", flush=True)
        try:
            parts += [f"<!-- benchmarks/{name}.py -->", *map(str, tables_of(name, out))]
        except subprocess.CalledProcessError as error:
            parts.append(f"benchmarks/{name}.py failed: {error.returncode}")
            failed = True
        page = "\n\n".join([f"# Speed, {date.today()}", f"{machine()}.", *parts])
        DOCS.mkdir(exist_ok=True)
        path = DOCS / f"{date.today()}_{re.sub('[^a-z0-9]+', '-', cpu().lower())}.md"
        path.write_text(f"{page}\n")
    print(path)
    sys.exit(failed)


if __name__ == "__main__":
    main()
