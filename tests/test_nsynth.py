"""Folders in NSynth's format."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_dist.audio import write_wav
from mars_dist.nsynth import FAMILIES, LARGEST, NOTE_KEYS, QUALITIES, SOURCES, Note, fingerprint, read_source

# An entry with every key that NSynth writes, in its order.
GUITAR = {
    "note": 278915,
    "sample_rate": 16000,
    "instrument_family": 3,
    "qualities": [0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    "instrument_source_str": "acoustic",
    "note_str": "guitar_acoustic_010-066-100",
    "instrument_family_str": "guitar",
    "instrument_str": "guitar_acoustic_010",
    "pitch": 66,
    "instrument": 10,
    "instrument_source": 0,
    "velocity": 100,
    "qualities_str": ["fast_decay", "percussive"],
}


def entry(**changes: Any) -> dict[str, Any]:
    return GUITAR | changes


def write_split(folder: Path, *entries: dict[str, Any]) -> Path:
    (folder / "audio").mkdir(parents=True)
    (folder / "examples.json").write_text(json.dumps({entry["note_str"]: entry for entry in entries}))
    for each in entries:
        write_wav(folder / "audio" / f"{each['note_str']}.wav", np.zeros(8, np.float32), 16_000)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for split in ("train", "valid", "test"):
        write_split(tmp_path / f"nsynth-{split}", entry(note_str=f"{split}-b"), entry(note_str=f"{split}-a"))
    return tmp_path


notes = st.builds(
    Note,
    **{name: st.integers(0, largest) for name, largest in LARGEST.items()},
    note_str=st.from_regex(r"\w[\w. -]*", fullmatch=True),
    instrument_str=st.text(),
    qualities=st.tuples(*[st.integers(0, 1)] * len(QUALITIES)),
)


@given(notes)
def test_a_note_survives_json(note: Note) -> None:
    assert Note.from_json(json.loads(json.dumps(note.to_json()))) == note


def test_an_entry_is_written_as_nsynth_writes_it() -> None:
    assert Note.from_json(GUITAR).to_json() == GUITAR


def test_names_stand_in_nsynths_order() -> None:
    assert (FAMILIES[0], FAMILIES[9], FAMILIES[10], len(FAMILIES)) == ("bass", "synth_lead", "vocal", 11)
    assert (SOURCES[0], SOURCES[2], QUALITIES[0], QUALITIES[9]) == ("acoustic", "synthetic", "bright", "tempo-synced")


def test_splits_are_read_in_order_whatever_the_files(source: Path) -> None:
    splits = read_source(source)
    assert list(splits) == ["train", "valid", "test"]
    assert [note.note_str for note in splits["test"].notes] == ["test-a", "test-b"]
    assert splits["test"].wav(splits["test"].notes[0]) == source / "nsynth-test" / "audio" / "test-a.wav"


def test_one_split_is_enough_and_so_is_a_split_itself(source: Path) -> None:
    alone = read_source(source / "nsynth-valid")
    shutil.rmtree(source / "nsynth-train")
    shutil.rmtree(source / "nsynth-test")
    assert alone == read_source(source)
    (source / "nsynth-valid").rename(source / "recordings")
    assert list(read_source(source / "recordings")) == ["train"]


def test_a_missing_wav_is_left_to_the_reader(source: Path) -> None:
    (source / "nsynth-test" / "audio" / "test-a.wav").unlink()
    assert len(read_source(source)["test"].notes) == 2


def test_folders_without_notes_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}/gone: no such folder"):
        read_source(tmp_path / "gone")
    with pytest.raises(ValueError, match="must hold nsynth-train/, nsynth-valid/, nsynth-test/ or"):
        read_source(tmp_path)
    (tmp_path / "nsynth-train.jsonwav.tar.gz").touch()
    with pytest.raises(ValueError, match="unpack an archive first"):
        read_source(tmp_path / "nsynth-train.jsonwav.tar.gz")


def test_a_split_that_lacks_a_part_is_refused_by_name(source: Path) -> None:
    shutil.rmtree(source / "nsynth-test" / "audio")
    with pytest.raises(ValueError, match="nsynth-test: no audio/"):
        read_source(source)
    (source / "nsynth-valid" / "examples.json").unlink()
    with pytest.raises(ValueError, match=r"nsynth-valid: no examples\.json"):
        read_source(source)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xfa", b"[]", b"{}", b"null", b'{"a": 3}', b""])
def test_examples_that_are_no_object_of_notes_are_refused(source: Path, content: bytes) -> None:
    (source / "nsynth-train" / "examples.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"examples\.json: (not JSON|holds|note 'a' is 3)") as refusal:
        read_source(source)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("key", NOTE_KEYS)
def test_a_lacking_key_is_named_with_its_note(tmp_path: Path, key: str) -> None:
    (tmp_path / "audio").mkdir()
    lacking = {name: value for name, value in GUITAR.items() if name != key}
    (tmp_path / "examples.json").write_text(json.dumps({"odd": lacking}))
    with pytest.raises(ValueError, match=f"note 'odd' has no '{key}'"):
        read_source(tmp_path)


def test_names_that_follow_from_numbers_may_lack() -> None:
    assert Note.from_json({key: GUITAR[key] for key in NOTE_KEYS}) == Note.from_json(GUITAR)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pitch", 128),
        ("pitch", -1),
        ("pitch", 60.0),
        ("pitch", "60"),
        ("pitch", True),
        ("velocity", 128),
        ("sample_rate", None),
        ("instrument", -1),
        ("instrument_family", 11),
        ("instrument_source", 3),
        ("instrument_family_str", "bass"),
        ("instrument_source_str", "electronic"),
        ("instrument_str", 7),
        ("qualities", [0] * 9),
        ("qualities", [0] * 9 + [2]),
        ("qualities", "0000000000"),
        ("note_str", 7),
        ("note_str", "another"),
    ],
)
def test_a_wrong_value_is_named_with_its_note(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "examples.json").write_text(json.dumps({GUITAR["note_str"]: entry(**{key: value})}))
    with pytest.raises(ValueError, match=f"note 'guitar_acoustic_010-066-100' {key} is .*must be") as refusal:
        read_source(tmp_path)
    assert str(tmp_path / "examples.json") in str(refusal.value)


@pytest.mark.parametrize("name", ["../secret", "a/b", "..", ".", "", "/etc/passwd", "a\\b", "a\0b", ".hidden"])
def test_no_name_leads_out_of_the_audio_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "examples.json").write_text(json.dumps({name: entry(note_str=name)}))
    with pytest.raises(ValueError, match="must be a file's name"):
        read_source(tmp_path)


def test_the_fingerprint_follows_the_notes_and_not_the_place(source: Path, tmp_path_factory: Any) -> None:
    def now(folder: Path = source) -> str:
        return fingerprint(read_source(folder).values())

    before = now()
    moved = tmp_path_factory.mktemp("moved") / "notes"
    shutil.copytree(source, moved)
    assert now(moved) == before
    write_wav(source / "nsynth-test" / "audio" / "test-a.wav", np.zeros(9, np.float32), 16_000)
    longer = now()
    (source / "nsynth-test" / "audio" / "test-a.wav").unlink()
    missing = now()
    shutil.rmtree(moved / "nsynth-test")
    write_split(moved / "nsynth-test", entry(note_str="test-a", pitch=67), entry(note_str="test-b"))
    assert len({before, longer, missing, now(moved)}) == 4
