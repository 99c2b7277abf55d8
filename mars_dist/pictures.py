"""From a source's notes to shards of pictures, one job a shard: what each worker does, with or without a cluster.

Suffixes: N notes, B a few of them, C H W the multiplexed picture, T samples; in picture_B1FN F N are bins and frames.
"""

import hashlib
import json
import re
import resource
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mars_dist.audio import levels
from mars_dist.cmx import multiplex
from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import Array, Rejected, Shard, read_heads, shard_bytes, write_shard
from mars_dist.nsynth import QUALITIES, SPLITS, Note
from mars_dist.serialize import to_plain
from mars_dist.sources.archive import filled
from mars_dist.sources.source import Split, identity
from mars_dist.spectrogram import picture_from_wave
from mars_dist.storage import Folder

SHARD = re.compile(rf"({'|'.join(SPLITS)})-\d{{5,}}\.parquet")
"""What `plan` calls one: no other file in a data set's folder is ours to delete."""
NOTES_TRIED = 16
"""Of each split, to estimate its size."""
NOTES_AT_ONCE = 8
"""Notes transformed together; it bounds memory and does not change a bit of the result."""


@dataclass(frozen=True)
class Job:
    """A shard to make."""

    shard: str
    part: Split
    """The split, with the shard's entries alone."""

    def fingerprint(self, config: SpectrogramConfig) -> str:
        """sha256 over the settings, every note's labels and the size of its file."""
        digest = hashlib.sha256(json.dumps([to_plain(config), self.part.strict]).encode())
        for entry in self.part.entries:
            digest.update(identity(entry))
        return digest.hexdigest()


@dataclass(frozen=True)
class Made:
    """What became of a job."""

    shard: Shard
    rejected: tuple[Rejected, ...]
    peak_bytes: int = 0
    """The most memory that the worker has held."""

    @property
    def num_notes(self) -> int:
        return self.shard.rows + len(self.rejected)


def arrays(config: SpectrogramConfig) -> tuple[Array, ...]:
    """The array columns of a data set of pictures; all splits but train have the sound too, to be evaluated against."""
    return (
        Array("picture", config.picture_shape, "float16"),
        Array("qualities", (len(QUALITIES),), "uint8"),
        Array("wave", (config.num_samples,), "int16"),
    )


def plan(splits: Iterable[Split], shard_rows: int) -> list[Job]:
    """Cut each split's entries into shards of shard_rows notes."""
    return [
        Job(f"{split.name}-{index:05d}.parquet", split.cut(start, start + shard_rows))
        for split in splits
        for index, start in enumerate(range(0, len(split.entries), shard_rows))
    ]


def find_made(jobs: Sequence[Job], folder: Folder, config: SpectrogramConfig) -> list[Made]:
    """The jobs whose shards are in the folder already, made of the same notes with the same settings, none of which was
    mended since. Raises ValueError as `Split.waves`."""
    present = folder.list()
    candidates = [job for job in jobs if job.shard in present]
    found = []
    for job, head in zip(candidates, read_heads(folder, [job.shard for job in candidates]), strict=True):
        fingerprint = job.fingerprint(config)
        if head.fingerprint == fingerprint:
            rejected = tuple(Rejected(**note) for note in json.loads(head.metadata["rejected"]))
            if not any_mended(job.part, rejected, config):
                found.append(Made(Shard(job.shard, job.part.name, head.rows, fingerprint), rejected))
    return found


def any_mended(part: Split, rejected: Sequence[Rejected], config: SpectrogramConfig) -> bool:
    """Whether a note that was rejected can be used now: a file that was scaled, or copied again, has the size it had.

    In an archive none was: it would be read as a whole to know. Raises ValueError as `Split.waves`.
    """
    names = {note.note_str for note in rejected}
    again = [] if part.archive else [entry for entry in part.entries if entry.note.note_str in names]
    return not all(isinstance(wave_T, ValueError) for wave_T in part.waves(again, config))


def with_contents(jobs: Sequence[Job]) -> Iterator[Job]:
    """Jobs of one archive, each as soon as all its files are read."""
    for i, part in filled([job.part for job in jobs]):
        yield replace(jobs[i], part=part)


def make_shard(job: Job, folder: Folder, config: SpectrogramConfig) -> Made:
    """Write the job's shard. A note that cannot be used is left out and listed; without any row nothing is written.

    Raises OSError where the disk refuses, ValueError where the source cannot be read.
    """
    fingerprint = job.fingerprint(config)
    columns, rejected = read_pictures(job.part, config)
    if num_rows := len(columns["picture"]):
        metadata = {"fingerprint": fingerprint, "rejected": json.dumps(to_plain(rejected))}
        write_shard(folder, job.shard, columns, metadata)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Made(Shard(job.shard, job.part.name, num_rows, fingerprint), tuple(rejected), peak)


def estimate_bytes(splits: Iterable[Split], config: SpectrogramConfig) -> int:
    """What the shards of all notes will take, by some of those of each split that have a file."""
    total = 0
    for split in splits:
        found = replace(split, entries=tuple(entry for entry in split.entries if entry.size is not None))
        num = len(found.entries)
        if split.archive:  # what lies at its beginning is soon reached
            [(_, some)] = filled([found.cut(0, NOTES_TRIED)])
        else:
            some = replace(found, entries=found.entries[:: max(1, -(-num // NOTES_TRIED))])
        columns, _ = read_pictures(some, config)
        if len(columns["picture"]):
            total += shard_bytes(columns, {}).size * num // len(some.entries)
    return total


def read_pictures(part: Split, config: SpectrogramConfig) -> tuple[dict[str, NDArray[Any]], list[Rejected]]:
    """The columns of a shard, picture (n, C, H, W) float16 among them, and the notes that cannot be used.

    Raises ValueError as `Split.waves`.
    """
    picture_NCHW = np.empty((len(part.entries), *config.picture_shape), np.float16)
    keeps_waves = part.name != "train"  # evaluation needs them
    wave_NT = np.empty((len(part.entries) * keeps_waves, config.num_samples), np.int16)
    notes: list[Note] = []
    rejected: list[Rejected] = []
    found = part.waves(part.entries, config)
    for start in range(0, len(part.entries), NOTES_AT_ONCE):
        waves, first = [], len(notes)
        for entry, wave_T in zip(part.entries[start : start + NOTES_AT_ONCE], found, strict=False):
            if isinstance(wave_T, ValueError):
                rejected.append(Rejected(entry.note.note_str, part.name, str(wave_T)))
            else:
                waves.append(wave_T)
                notes.append(entry.note)
        if waves:
            wave_BT = np.stack(waves)
            if keeps_waves:
                wave_NT[first : len(notes)] = levels(wave_BT)
            picture_B1FN = picture_from_wave(torch.from_numpy(wave_BT), config)
            picture_NCHW[first : len(notes)] = multiplex(picture_B1FN.half(), config.cmx).numpy()
    columns = {
        "note_str": np.array([note.note_str for note in notes], np.str_),
        "picture": picture_NCHW[: len(notes)],
        "pitch": np.array([note.pitch for note in notes], np.int64),
        "velocity": np.array([note.velocity for note in notes], np.int64),
        "instrument": np.array([note.instrument for note in notes], np.int64),
        "instrument_str": np.array([note.instrument_str for note in notes], np.str_),
        "family": np.array([note.instrument_family for note in notes], np.int64),
        "source": np.array([note.instrument_source for note in notes], np.int64),
        "qualities": np.array([note.qualities for note in notes], np.uint8),
    }
    if keeps_waves:
        columns["wave"] = wave_NT[: len(notes)]
    return columns, rejected
