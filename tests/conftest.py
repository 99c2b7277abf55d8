"""A small source of real wav files for whatever reads notes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from mars_dist import pictures
from mars_dist.audio import write_wav
from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import DatasetInfo, Folder, Shard
from mars_dist.nsynth import FAMILIES, QUALITIES, Note, read_source
from mars_dist.scales import Size

# A machine that is busy is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

SHORT = SpectrogramConfig(num_samples=2000, n_fft=128, hop=125, cmx=Size(4, 4))


@pytest.fixture
def short() -> SpectrogramConfig:
    """Settings for the notes of `short_notes`: pictures of (16, 16, 4)."""
    return SHORT


@pytest.fixture
def short_notes(tmp_path: Path) -> Path:
    """A source of 19 notes, an eighth of a second each: 12 train, 4 valid, 3 test."""
    return write_short_notes(tmp_path / "notes")


@pytest.fixture(scope="session")
def short_pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same notes as a data set of pictures, made without Ray. Read only."""
    source = write_short_notes(tmp_path_factory.mktemp("short") / "notes")
    folder = Folder.open(source.parent / "pictures")
    jobs = pictures.plan(read_source(source).values(), shard_rows=8)
    made = [pictures.make_shard(job, folder, SHORT) for job in jobs]
    shards = tuple(Shard(one.shard, one.split, one.rows) for one in made)
    DatasetInfo("pictures", SHORT, pictures.arrays(SHORT), shards, source="short notes").save(folder)
    return folder.name


def write_short_notes(source: Path) -> Path:
    pitch = 48
    for split, num_notes in {"train": 12, "valid": 4, "test": 3}.items():
        folder = source / f"nsynth-{split}"
        (folder / "audio").mkdir(parents=True)
        entries = {}
        for _ in range(num_notes):
            pitch += 1
            family = pitch % len(FAMILIES)
            name = f"{FAMILIES[family]}_acoustic_{pitch:03d}"
            note = Note(
                note=pitch,
                note_str=f"{name}-{pitch:03d}-100",
                instrument=pitch,
                instrument_str=name,
                pitch=pitch,
                velocity=100,
                sample_rate=SHORT.sample_rate,
                qualities=tuple(int(i == pitch % 10) for i in range(len(QUALITIES))),
                instrument_family=family,
                instrument_source=0,
            )
            hertz = 440 * 2 ** ((pitch - 69) / 12)
            wave_T = 0.5 * np.sin(2 * np.pi * hertz * np.arange(SHORT.num_samples) / SHORT.sample_rate)
            write_wav(folder / "audio" / f"{note.note_str}.wav", wave_T.astype(np.float32), SHORT.sample_rate)
            entries[note.note_str] = note.to_json()
        (folder / "examples.json").write_text(json.dumps(entries))
    return source
