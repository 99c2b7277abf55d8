"""From a source's notes to shards of pictures, one job a shard: what each worker does, with or without a cluster."""

import hashlib
import json
import resource
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mars_dist.audio import read_note
from mars_dist.cmx import multiplex
from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import Array, Folder, Rejected, read_shard_metadata, write_shard
from mars_dist.nsynth import QUALITIES, Note, Split
from mars_dist.serialize import to_plain
from mars_dist.spectrogram import picture_from_wave

NOTES_AT_ONCE = 8
"""Notes transformed together; it bounds memory and does not change a bit of the result."""


@dataclass(frozen=True)
class Job:
    """A shard to make."""

    shard: str
    part: Split
    """The split, with the shard's notes alone."""


@dataclass(frozen=True)
class Made:
    """What became of a job."""

    shard: str
    split: str
    rows: int
    rejected: tuple[Rejected, ...]
    kept: bool
    """It was there already."""
    peak_bytes: int
    """The most memory that the worker has held."""

    @property
    def num_notes(self) -> int:
        return self.rows + len(self.rejected)


def arrays(config: SpectrogramConfig) -> tuple[Array, ...]:
    """The array columns of a data set of pictures; all splits but train have the sound too, to be evaluated against."""
    return (
        Array("picture", config.picture_shape, "float16"),
        Array("qualities", (len(QUALITIES),), "uint8"),
        Array("wave", (config.num_samples,), "int16"),
    )


def plan(splits: Iterable[Split], shard_rows: int) -> list[Job]:
    """Cut each split's notes, which are sorted by name, into shards of shard_rows notes."""
    return [
        Job(f"{split.name}-{index:05d}.parquet", replace(split, notes=split.notes[start : start + shard_rows]))
        for split in splits
        for index, start in enumerate(range(0, len(split.notes), shard_rows))
    ]


def make_shard(job: Job, folder: Folder, config: SpectrogramConfig) -> Made:
    """Write the job's shard, unless it is there already, made from the same notes with the same settings.

    A note that cannot be read is left out and listed. A shard without any row is not written.
    Raises OSError where the disk refuses.
    """
    fingerprint = _fingerprint(job, config)
    found = read_shard_metadata(folder, job.shard)
    kept = found.get("fingerprint") == fingerprint
    if kept:
        rejected = [Rejected(**note) for note in json.loads(found["rejected"])]
    else:
        columns, rejected = read_pictures(job.part, config)
        if len(columns["picture"]):
            listed = json.dumps(to_plain(rejected))
            write_shard(folder, job.shard, columns, {"fingerprint": fingerprint, "rejected": listed})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Made(job.shard, job.part.name, len(job.part.notes) - len(rejected), tuple(rejected), kept, peak)


def read_pictures(part: Split, config: SpectrogramConfig) -> tuple[dict[str, NDArray[Any]], list[Rejected]]:
    """The columns of a shard, picture (n, C, H, W) float16 among them, and the notes that could not be read."""
    picture_NCHW = np.empty((len(part.notes), *config.picture_shape), np.float16)
    wave_NT = np.empty((len(part.notes), config.num_samples), np.int16)
    notes: list[Note] = []
    rejected: list[Rejected] = []
    for start in range(0, len(part.notes), NOTES_AT_ONCE):
        waves, first = [], len(notes)
        for note in part.notes[start : start + NOTES_AT_ONCE]:
            path = part.wav(note)
            try:
                waves.append(read_note(path, config.sample_rate, config.num_samples))
                notes.append(note)
            except ValueError as error:
                rejected.append(Rejected(note.note_str, part.name, str(error).removeprefix(f"{path}: ")))
        if waves:
            wave_BT = np.stack(waves)
            wave_NT[first : len(notes)] = np.clip(np.rint(wave_BT * 2**15), -(2**15), 2**15 - 1)
            picture_B1FN = picture_from_wave(torch.from_numpy(wave_BT), config)
            picture_NCHW[first : len(notes)] = multiplex(picture_B1FN, config.cmx).half().numpy()
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
    if part.name != "train":
        columns["wave"] = wave_NT[: len(notes)]
    return columns, rejected


def _fingerprint(job: Job, config: SpectrogramConfig) -> str:
    """sha256 over the settings, every note's entry and the size of its wav file."""
    digest = hashlib.sha256(json.dumps(to_plain(config)).encode())
    for note in job.part.notes:
        path = job.part.wav(note)
        size = path.stat().st_size if path.is_file() else None
        digest.update(json.dumps([note.to_json(), size], sort_keys=True).encode())
    return digest.hexdigest()
