"""What every source comes to: splits of entries, each a note and the file that has its sound."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mars_dist.audio import Wave, convert_note, read_note
from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import Rejected
from mars_dist.nsynth import Note
from mars_dist.s3 import S3Folder
from mars_dist.storage import Folder, read_ahead


class Entry(NamedTuple):
    """A note, and where its sound is."""

    note: Note
    file: str
    """Within the split's folder, or in its archive."""
    size: int | None
    """Bytes of the file; None where there is none."""
    content: bytes | None = None
    """The file itself, where it was read before."""


@dataclass(frozen=True)
class Split:
    """A split's entries in the order in which they are cut into shards. It pickles."""

    name: str
    """One of SPLITS."""
    folder: Folder
    entries: tuple[Entry, ...]
    archive: str | None = None
    """The file in the folder that has the entries' files within it."""
    strict: bool = True
    """Files must have the data set's rate and length; else they are converted."""

    @property
    def notes(self) -> tuple[Note, ...]:
        return tuple(entry.note for entry in self.entries)

    def cut(self, start: int, stop: int) -> "Split":
        return replace(self, entries=self.entries[start:stop])

    def wave(self, entry: Entry, config: SpectrogramConfig) -> Wave:
        """(T,) in [-1, 1]. Raises ValueError with the reason why a note cannot be used, OSError as `Folder.read`."""
        content = entry.content
        if content is None:
            if entry.size is None:
                raise ValueError("cannot be read (there is no such file)")
            content = self.folder.read(entry.file)
        return (read_note if self.strict else convert_note)(content, config.sample_rate, config.num_samples)

    def waves(self, entries: Sequence[Entry], config: SpectrogramConfig) -> Iterator[Wave | ValueError]:
        """Of each entry, or why it cannot be used. S3 takes its time for each file: there the next ones are read while
        these are worked on.

        Raises ValueError where a file that was found cannot be read: a store that is away, or a permission that is
        lacking, may be back in the next run, which would keep a shard without the note.
        """

        def attempt(entry: Entry) -> Wave | ValueError:
            try:
                return self.wave(entry, config)
            except ValueError as error:
                return error
            except OSError as error:
                raise cannot_be_read(self.folder.sub(entry.file).name, error) from error

        from_s3 = isinstance(self.folder, S3Folder) and not self.archive
        return read_ahead(attempt, entries, self.folder.at_once) if from_s3 else map(attempt, entries)


def cannot_be_read(name: str, error: OSError) -> ValueError:
    return ValueError(
        f"{name}: cannot be read ({error.strerror or error}): mend it and run the same command again, which goes on "
        "from what is finished"
    )


@dataclass(frozen=True)
class Source:
    """All splits, and the rows of a table of labels that are no note's."""

    splits: dict[str, Split]
    """By their names."""
    rejected: tuple[Rejected, ...] = ()
    notice: str = ""
    """What is to be said wherever a number from it appears, such as the soundfont that it was rendered from."""


def fingerprint(source: Source) -> str:
    """sha256 over every note's labels and the size of its file, which takes seconds where hashing sound takes hours.

    The source's own place does not count, nor do files that no label names.
    """
    digest = hashlib.sha256()
    for split in source.splits.values():
        digest.update(f"{split.name} {split.strict}".encode())
        for entry in split.entries:
            digest.update(identity(entry))
    for rejected in source.rejected:
        digest.update(repr(rejected).encode())
    return digest.hexdigest()


def identity(entry: Entry) -> bytes:
    """What an entry's picture follows from, but for the sound itself."""
    return json.dumps([vars(entry.note), entry.file, entry.size], sort_keys=True).encode()
