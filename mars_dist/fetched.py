"""A model's folder by its address: what lies in S3 is copied to this machine before it is read."""

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path, PurePosixPath

from mars_dist.addresses import Address
from mars_dist.storage import Folder, S3Folder

PARTS = ("", "tokenizer")
"""The folders that a model consists of: its own, and an autoregressor's tokenizer."""
SUFFIXES = {".json", ".jsonl", ".safetensors"}


def on_disk(folder: Address) -> Path:
    """The folder, or a copy of it that lasts as long as this process; one for each state of what lies in S3.

    Raises ValueError where S3 cannot be read.
    """
    home = Folder.open(folder)
    if not isinstance(home, S3Folder):
        return Path(home.path)
    try:
        infos = [(part, info) for part in PARTS for info in home.sub(part).infos()]
        files = frozenset((part, info.base_name, info.mtime_ns) for part, info in infos if info.is_file)
        return _copy(home, frozenset(file for file in files if PurePosixPath(file[1]).suffix in SUFFIXES))
    except OSError as error:
        raise ValueError(f"{home.name}: cannot be read ({error}): look at its address and your credentials") from error


@lru_cache
def _copy(home: Folder, files: frozenset[tuple[str, str, int]]) -> Path:
    scratch = Path(tempfile.mkdtemp(prefix="mars-model-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    folder = scratch / PurePosixPath(home.path).name  # a page calls the model by it
    for part, name, _ in files:
        home.sub(part).fetch(name, folder / part / name)
    return folder
