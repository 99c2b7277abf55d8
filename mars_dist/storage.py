"""Folders, on a disk or in S3, in the few verbs that data sets and runs need. A file appears whole or not at all."""

import errno
import fcntl
import os
import posixpath
import shutil
import stat
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from mars_dist.serialize import parse_json
from mars_dist.whole import HALF_WRITTEN, whole

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 2**23
"""Bytes that are read of a large file at once: from S3 each is a request, which takes some tens of milliseconds."""
SETTINGS = ("endpoint_override", "scheme", "region")
"""What an address may say of its endpoint."""
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables of the environment that name it where an address does not: the first one that there is."""


class Folder(ABC):
    """It pickles, and looks at nothing until it is asked to."""

    name: str
    """As the user wrote it, for messages."""
    path: str
    at_once: ClassVar[int]
    """Large pieces that are read at the same time: a store that is far away takes its time for each."""

    @staticmethod
    def open(name: str | Path) -> "Folder":
        """A path, or s3://bucket/path. Raises ValueError for an address that is no folder's."""
        if "://" not in str(name):
            return LocalFolder(str(name), str(Path(name).absolute()))
        address = urlsplit(str(name))
        settings = dict(parse_qsl(address.query))
        if address.scheme != "s3" or not address.netloc or address.fragment:
            raise ValueError(f"{name}: no folder's address: write a path or s3://bucket/path")
        if unknown := settings.keys() - set(SETTINGS):
            raise ValueError(f"{name}: unknown setting {min(unknown)}: there are {', '.join(SETTINGS)}")
        from mars_dist.s3 import S3Folder

        return S3Folder(
            str(name),
            f"{address.netloc}{posixpath.normpath('/' + address.path.strip('/'))}".rstrip("/"),
            **(_endpoint_of_environment() | settings),
        )

    @classmethod
    def of(cls, name: str | Path) -> tuple["Folder", str]:
        """The folder of a file, and the file's name in it. Raises ValueError as `open` does."""
        file = cls.open(name)
        return file.sub(".."), PurePosixPath(file.path).name

    @property
    @abstractmethod
    def files(self) -> fs.FileSystem:
        """For those who read parts of files."""

    @abstractmethod
    def sub(self, name: str) -> "Folder":
        """The folder of that name within; `..` is the one that this one is in."""

    def at(self, file: str) -> str:
        """Where it is among `files`."""
        return f"{self.path}/{file}"

    @abstractmethod
    def list(self) -> set[str]:
        """The names in the folder; empty where there is none. Raises OSError."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Bytes of each file in the folder. Raises OSError."""

    @abstractmethod
    def read(self, file: str) -> bytes:
        """Raises OSError."""

    def read_json(self, file: str) -> Any:
        """Raises ValueError where it is damaged, OSError."""
        return parse_json(self.read(file), self.at(file))

    @abstractmethod
    def write(self, file: str, data: bytes | pa.Buffer) -> None:
        """Raises OSError where the disk refuses."""

    @abstractmethod
    def send(self, path: Path) -> None:
        """Put a file of this machine into the folder, under its own name. Raises OSError."""

    @abstractmethod
    def fetch(self, file: str, path: Path) -> None:
        """Copy a file of the folder to this machine. Raises OSError."""

    def fetch_all(self, path: Path) -> None:
        """Copy the files of the folder to one of this machine, several at once. Raises OSError."""
        with ThreadPoolExecutor(self.at_once) as pool:
            list(pool.map(lambda file: self.fetch(file, path / file), self.sizes()))

    @abstractmethod
    def clear_unfinished(self, parts: Collection[str]) -> None:
        """Delete what writing that was broken off has left, here and all over these parts. Raises OSError."""

    @abstractmethod
    def swap(self, file: str, old: bytes | None, new: bytes) -> bool:
        """Write, but only where the file is still the old one (None: where there is none). Raises OSError."""

    def delete(self, file: str) -> None:
        """Raises OSError."""
        self.files.delete_file(self.at(file))

    def require_writable(self, option: str = "--out") -> None:
        """Raises ValueError where nothing can be written: told before the work rather than after."""
        probe = f".{uuid.uuid4().hex[:8]}{HALF_WRITTEN}"
        try:
            self.write(probe, b"a full disk takes empty files")
            self.delete(probe)
        except OSError as error:
            raise ValueError(f"{self.name}: cannot be written ({error}): choose another {option}") from error

    def delete_folder(self, name: str) -> None:
        """With all that is in it. Raises OSError."""
        self.files.delete_dir(self.at(name))

    @abstractmethod
    def link(self, file: str) -> str:
        """What a browser opens: a path, or an address that is good for a week without credentials."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """What the disk still takes; None where nobody knows."""


@dataclass(frozen=True)
class LocalFolder(Folder):
    name: str
    path: str
    at_once = 4

    @property
    def files(self) -> fs.FileSystem:
        return fs.LocalFileSystem()

    def sub(self, name: str) -> Folder:
        return LocalFolder(os.path.normpath(f"{self.name}/{name}"), os.path.normpath(f"{self.path}/{name}"))

    def list(self) -> set[str]:
        """Not by pyarrow, which fails for all names where one is not UTF-8."""
        try:
            return set(os.listdir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            if os.path.exists(self.path):
                raise
            return set()

    def sizes(self) -> dict[str, int]:
        found = {}
        for name in self.list():
            try:
                status = os.stat(self.at(name))
            except OSError as error:
                # A link that leads nowhere, to itself, or on through a file.
                if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                    raise
            else:
                if stat.S_ISREG(status.st_mode):
                    found[name] = status.st_size
        return found

    def read(self, file: str) -> bytes:
        return Path(self.at(file)).read_bytes()

    def write(self, file: str, data: bytes | pa.Buffer) -> None:
        with whole(Path(self.at(file))) as half_written:
            half_written.write_bytes(data)

    def send(self, path: Path) -> None:
        with whole(Path(self.at(path.name))) as half_written:
            shutil.copyfile(path, half_written)

    def fetch(self, file: str, path: Path) -> None:
        with whole(path) as half_written:
            shutil.copyfile(self.at(file), half_written)

    def clear_unfinished(self, parts: Collection[str]) -> None:
        here, wanted = Path(self.path), f".*{HALF_WRITTEN}"
        for half_written in chain(here.glob(wanted), *((here / part).rglob(wanted) for part in parts)):
            half_written.unlink(missing_ok=True)

    def swap(self, file: str, old: bytes | None, new: bytes) -> bool:
        path = Path(self.at(file))
        if old is None:
            path.parent.mkdir(parents=True, exist_ok=True)  # its FileExistsError, of a dangling link, is no rival's
        try:
            if old is None:
                with open(path, "xb") as created:
                    created.write(new)
                return True
            with open(path, "r+b") as present:
                fcntl.flock(present, fcntl.LOCK_EX)
                # Whoever had the lock before may have put another file in this one's place.
                same = os.path.samestat(os.fstat(present.fileno()), path.stat()) and present.read() == old
                if same:
                    self.write(file, new)
                return same
        except (FileExistsError, FileNotFoundError):
            return False

    def link(self, file: str) -> str:
        return self.at(file)

    def free_bytes(self) -> int | None:
        there = next(folder for folder in (Path(self.path), *Path(self.path).parents) if folder.exists())
        return shutil.disk_usage(there).free


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item], at_once: int) -> Generator[Result, None, None]:
    """read(item) for each item, in their order, the next ones meanwhile: no more than are read at once wait."""
    with ThreadPoolExecutor(at_once) as readers:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(readers.submit(read, item))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _endpoint_of_environment() -> dict[str, str]:
    """A folder carries it along; for an address that a worker opens, `distributed.runtime` hands the variables on."""
    url = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    address = urlsplit(url or "")
    return {"endpoint_override": address.netloc, "scheme": address.scheme} if url else {}
