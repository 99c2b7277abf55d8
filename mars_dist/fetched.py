"""A model's folder by its address: what lies in S3 is copied to this machine before it is read."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from time import time

from pyarrow import fs

from mars_dist.addresses import Address
from mars_dist.s3 import S3Folder
from mars_dist.scratch import locked, users_own
from mars_dist.storage import Folder

PARTS = ("", "tokenizer")
"""The folders that a model consists of: its own, and an autoregressor's tokenizer."""
WEIGHTS, TEXTS = ".safetensors", (".json", ".jsonl")
"""Kinds of files: large ones that a copy is named by, and small ones that change while the weights stay, as metrics."""
HOUR = 3600


def on_disk(folder: Address) -> Path:
    """The folder, or a copy of it that all of a user's processes on this machine share: to be read at once.

    There is a copy for each state of the weights in S3; the other files in it are brought up to date at each call. New
    weights drop the copies of earlier ones that nobody has asked for in an hour; what stays is left to the machine's
    own clearing of its temporary folder. Raises ValueError where S3 cannot be read, or the place for copies is not the
    user's alone.
    """
    home = Folder.open(folder)
    if not isinstance(home, S3Folder):
        return Path(home.path)
    try:
        infos = [(PurePosixPath(part), info) for part in PARTS for info in home.sub(part).infos() if info.is_file]
        files = {part / info.base_name: info for part, info in infos}
        return _copy(home, {file: info for file, info in files.items() if file.suffix in (WEIGHTS, *TEXTS)})
    except OSError as error:
        raise ValueError(f"{home.name}: cannot be read ({error}): look at its address and your credentials") from error


def _copy(home: S3Folder, files: Mapping[PurePosixPath, fs.FileInfo]) -> Path:
    """Up to date with the files, however many processes want it at the same time."""
    weights = sorted((str(file), info.size, info.mtime_ns) for file, info in files.items() if file.suffix == WEIGHTS)
    of_model = users_own("models") / _digest(home.endpoint_override, home.path)
    of_model.mkdir(exist_ok=True)
    with locked(of_model) as copies:
        copy = copies / _digest(weights)
        if not copy.exists():
            _drop_unasked(copies)
        folder = copy / PurePosixPath(home.path).name  # a page calls the model by it
        folder.mkdir(parents=True, exist_ok=True)
        for file, info in files.items():
            path, state = folder / file, (info.size, info.mtime_ns)
            if not path.exists() or (path.stat().st_size, path.stat().st_mtime_ns) != state:
                home.fetch(str(file), path)
                os.utime(path, ns=(info.mtime_ns, info.mtime_ns))
        os.utime(copy)  # when it was last asked for
        return folder


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def _drop_unasked(copies: Path) -> None:
    for copy in copies.iterdir():
        if copy.stat().st_mtime < time() - HOUR:
            shutil.rmtree(copy)
