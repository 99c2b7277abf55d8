"""NSynth as it is published: .tar.gz archives, read from one end to the other. Nothing is unpacked onto a disk.

Only regular files named SPLIT/examples.json and SPLIT/audio/NOTE_STR.wav are looked at, so no name in an archive leads
anywhere; of two with one name the first counts. Shards are cut in the order in which the archive has the notes.
"""

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from mars_dist.nsynth import AUDIO, EXAMPLES, SPLITS, notes_of
from mars_dist.sources.source import Entry, Split, cannot_be_read
from mars_dist.storage import CHUNK, Folder

SUFFIXES = (".tar.gz", ".tgz", ".tar")
LARGEST_TABLE, LARGEST_SOUND = 2**30, 2**26
"""Bytes of a file that is read: one that claims more is none of NSynth's."""
PIECE = 2**20


def splits_of(folder: Folder, archive: str) -> list[Split]:
    """The splits in an archive, which is read once to its end.

    Raises ValueError where it is damaged, not in the format, or cannot be read.
    """
    tables: dict[str, bytes] = {}
    sizes: dict[str, dict[str, int]] = {name: {} for name in SPLITS}
    for member in members(folder, archive):
        if member.name != EXAMPLES:
            sizes[member.split].setdefault(member.name, member.size)
        else:
            tables.setdefault(member.split, member.read())
    if not tables:
        raise ValueError(f"{folder.name}/{archive}: holds no nsynth-train/{EXAMPLES}, nor one of valid or test")
    return [split_of(folder, archive, name, tables[name], sizes[name]) for name in SPLITS if name in tables]


def split_of(folder: Folder, archive: str, name: str, table: bytes, sizes: dict[str, int]) -> Split:
    """Entries in the order of the archive's files; those that have none come last."""
    place = {file: i for i, file in enumerate(sizes)}
    notes = notes_of(table, f"{folder.name}/{archive}/nsynth-{name}/{EXAMPLES}")
    entries = [Entry(note, f"{note.note_str}.wav", sizes.get(f"{note.note_str}.wav")) for note in notes]
    entries.sort(key=lambda entry: place.get(entry.file, len(place)))
    return Split(name, folder, tuple(entries), archive)


def filled(parts: Sequence[Split]) -> Iterator[tuple[int, Split]]:
    """Parts of one archive's splits with the contents of their files, in one pass over it: each as soon as it is whole,
    with its place among the parts.

    Raises ValueError where the archive is damaged, cannot be read, or has changed since its splits were read.
    """
    folder, archive = parts[0].folder, parts[0].archive
    assert archive is not None
    wanted = {
        (part.name, entry.file): (i, j)
        for i, part in enumerate(parts)
        for j, entry in enumerate(part.entries)
        if entry.size is not None
    }
    missing = [sum(entry.size is not None for entry in part.entries) for part in parts]
    yield from ((i, part) for i, part in enumerate(parts) if not missing[i])
    entries = {i: list(part.entries) for i, part in enumerate(parts)}
    for member in members(folder, archive) if wanted else ():
        if (found := wanted.pop((member.split, member.name), None)) is None:
            continue
        i, j = found
        entries[i][j] = entries[i][j]._replace(content=member.read())
        missing[i] -= 1
        if not missing[i]:
            yield i, replace(parts[i], entries=tuple(entries.pop(i)))
        if not wanted:
            return
    if wanted:
        raise ValueError(f"{folder.name}/{archive}: has changed while it was read: run the same command again")


class Member(NamedTuple):
    """A file of a split in an archive."""

    split: str
    name: str
    """NOTE_STR.wav, or examples.json."""
    size: int
    read: Callable[[], bytes]
    """Its content, until the next member is asked for."""


def members(folder: Folder, archive: str) -> Iterator[Member]:
    """The files of all splits, in the archive's order. Raises ValueError where it is damaged or cannot be read."""
    with (
        _named(folder, archive),
        # tarfile and gzip ask for some thousand bytes at once.
        folder.files.open_input_stream(folder.at(archive), compression=None, buffer_size=CHUNK) as packed,
        packed if archive.endswith(".tar") else gzip.GzipFile(fileobj=packed) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archived,
    ):
        for info in archived:
            archived.members.clear()  # type: ignore[attr-defined]  # or it keeps all that it has passed
            path = PurePosixPath(info.name).parts
            place, split = path[1:], path[0].removeprefix("nsynth-") if path else ""
            if not info.isreg() or split not in SPLITS or not path[0].startswith("nsynth-"):
                continue
            is_table = place == (EXAMPLES,) and info.size <= LARGEST_TABLE
            is_sound = len(place) == 2 and place[0] == AUDIO and info.size <= LARGEST_SOUND
            if is_table or is_sound:
                yield Member(split, place[-1], info.size, partial(_content, archived, info, folder, archive))
        # Cut off between two files a .tar lacks the mark of its end, and tarfile does not mind. (gzip has a checksum.)
        if packed is stream and archived.fileobj.tell() == archived.offset:
            raise EOFError("ends early")
        while stream.read(PIECE):
            pass


def _content(archived: tarfile.TarFile, info: tarfile.TarInfo, folder: Folder, archive: str) -> bytes:
    with _named(folder, archive):
        file = archived.extractfile(info)
        assert file is not None, "a regular file"
        content = file.read()
        if len(content) != info.size:
            raise EOFError(f"{info.name} ends early")
        return content


@contextmanager
def _named(folder: Folder, archive: str) -> Iterator[None]:
    """What an archive raises that is damaged or cannot be read, as a ValueError that names it."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{folder.name}/{archive}: damaged ({error}): copy it again") from error
    except OSError as error:
        raise cannot_be_read(folder.sub(archive).name, error) from error
