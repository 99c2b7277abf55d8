"""Preprocessing onto a small disk that is full, then not, then read-only: see test_disks.py.

    python on_a_disk.py SOURCE DISK SPECTROGRAM

The settings are JSON. Prints a JSON object: what each run came to, and the files that the disk holds in the end.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mars_dist.config import SpectrogramConfig
from mars_dist.distributed.data import preprocess
from mars_dist.serialize import from_plain


def main(source: Path, disk: Path, spectrogram: SpectrogramConfig) -> None:
    out, filler = disk / "out", disk / "filler"

    def fill() -> None:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))

    def run(folder: Path, then: Callable[[str], None] = lambda line: None) -> str:
        try:
            return str(preprocess(source, folder, spectrogram, shard_rows=5, progress=then).counts)
        except ValueError as error:
            return str(error)

    def fill_midway(line: str) -> None:
        if "takes about" in line:
            fill()

    fill()
    came_to = {"full": run(out)}
    filler.unlink()
    came_to["full midway"] = run(out, fill_midway)
    filler.unlink()
    came_to["empty"] = run(out)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    came_to |= {"read-only, finished": run(out), "read-only": run(disk / "other")}
    files = {str(path.relative_to(disk)): sha256(path) for path in disk.rglob("*") if path.is_file()}
    print(json.dumps({"came to": came_to, "files": files}))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), from_plain(SpectrogramConfig, json.loads(sys.argv[3])))
