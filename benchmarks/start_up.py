"""How long commands take until they do something: `mars --help`, and the training of one step without Ray.

    python benchmarks/start_up.py --notes quickstart/notes --out /tmp/start_up

Each is a process of its own, in turns with an interpreter that does nothing and with one that imports torch.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from check import prepare
from kills import MARS
from side_by_side import Table, Times, options, tell


def once(words: list[object]) -> float:
    start = perf_counter()
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return perf_counter() - start


def main() -> None:
    given = options(__doc__, with_notes=True)
    home: Path = given.out
    prepare("debug", given.notes, home / "debug")
    run, python = home / "run", [sys.executable, "-c"]
    one_step = ["--train.steps", 1, "--train.batch-size", 4, "--workers", 0, "--out", run]
    codes = ["--tokenizer", home / "debug" / "tokenizer", "--data", home / "debug" / "codes"]
    commands: dict[str, list[object]] = {
        "python alone": [*python, "pass"],
        "import torch": [*python, "import torch"],
        "mars --help": [*MARS, "--help"],
        "mars train-tokenizer, one step": [
            *[*MARS, "train-tokenizer", "debug", "--data", home / "debug" / "pictures"],
            *["--codebook.start-step", 0, *one_step],
        ],
        "mars train-ar, one step": [*MARS, "train-ar", "debug", *codes, *one_step],
    }
    found = {name: Times() for name in commands}
    for number in range(given.rounds + 1):
        for name, words in commands.items():
            shutil.rmtree(run, ignore_errors=True)
            seconds = once(words)
            if number:  # the first round fills the system's cache
                found[name].seconds.append(seconds)
    rows = [
        [name, f"{times.median:.2f} s", f"{times.median - found['import torch'].median:+.2f} s"]
        for name, times in found.items()
    ]
    tell(given, Table("Start-up", f"{given.rounds} rounds", ["", "median", "beside import torch"], rows))


if __name__ == "__main__":
    main()
