"""A note's labels in NSynth's format."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_dist.nsynth import FAMILIES, LARGEST, NOTE_KEYS, QUALITIES, SOURCES, Note, notes_of

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


@pytest.mark.parametrize("key", NOTE_KEYS)
def test_a_lacking_key_is_named_with_its_note(key: str) -> None:
    lacking = {name: value for name, value in GUITAR.items() if name != key}
    with pytest.raises(ValueError, match=f"x.json: note 'odd' has no '{key}'"):
        notes_of(json.dumps({"odd": lacking}).encode(), "x.json")


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
def test_a_wrong_value_is_named_with_its_note(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"x\.json: note 'guitar_acoustic_010-066-100' {key} is .*must be"):
        notes_of(json.dumps({GUITAR["note_str"]: GUITAR | {key: value}}).encode(), "x.json")


@pytest.mark.parametrize("name", ["../secret", "a/b", "..", ".", "", "/etc/passwd", "a\\b", "a\0b", ".hidden"])
def test_no_name_leads_out_of_the_audio_folder(name: str) -> None:
    with pytest.raises(ValueError, match="must be a file's name"):
        notes_of(json.dumps({name: GUITAR | {"note_str": name}}).encode(), "x.json")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xfa", b"[]", b"{}", b"null", b'{"a": 3}', b"", b"[" * 100_000])
def test_examples_that_are_no_object_of_notes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"x\.json: (not JSON|holds|note 'a' is 3)") as refusal:
        notes_of(content, "x.json")
    assert "\n" not in str(refusal.value)
