"""A user's folders in a machine's temporary one: what processes share there, and what each has for itself."""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def users_own(kind: str) -> Path:
    """Raises ValueError where another user may have had a hand in it: its name is easily foreseen."""
    folder = Path(tempfile.gettempdir()) / f"mars-{kind}-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ValueError(
            f"{folder}: is {stat.filemode(found.st_mode)} of user {found.st_uid}, not a folder of your own that is "
            "closed to others (drwx------): delete it, or set TMPDIR to another folder"
        )
    return folder


@contextmanager
def locked(folder: Path, how: int = 0) -> Iterator[Path]:
    """The folder, in which nobody else works meanwhile; a process that ends lets go of it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        yield folder
    finally:
        os.close(descriptor)


def own_scratch() -> Path:
    """A new folder, this process's own for as long as it lives. What dead ones have left in theirs is removed."""
    with locked(users_own("scratch")) as everyones:
        for folder in everyones.iterdir():
            with suppress(OSError), locked(folder, fcntl.LOCK_NB):  # not while its process lives
                shutil.rmtree(folder)
        mine = Path(tempfile.mkdtemp(dir=everyones))
        fcntl.flock(os.open(mine, os.O_RDONLY), fcntl.LOCK_EX)  # the end of the process lets go of it
        return mine
