"""Conditions from rows and from words."""

from typing import Any

import numpy as np
import pytest
import torch

from mars_dist.conditions import UNASKED, Vocabulary
from mars_dist.nsynth import FAMILIES, QUALITIES, SOURCES

NAMED = Vocabulary(instruments=("bass_001", "reed_002"))
QUALIFIED = Vocabulary(qualities=True)


def rows(velocity: list[int]) -> dict[str, np.ndarray]:
    num = len(velocity)
    return {
        "pitch": np.arange(40, 40 + num, dtype=np.int16),
        "velocity": np.array(velocity, np.int16),
        "family": np.arange(num, dtype=np.int8),
        "source": np.zeros(num, np.int8),
        "instrument_str": np.array(["reed_002", "nobody", "bass_001"][:num]),
        "qualities": np.eye(10, dtype=np.uint8)[:num],
    }


def test_instruments_count_only_where_there_are_some() -> None:
    fixed = {"pitch": 128, "velocity": 5, "family": 11, "source": 3}
    assert Vocabulary().cardinalities == fixed
    assert NAMED.cardinalities == {**fixed, "instrument": 2}


def test_each_quality_is_present_or_absent() -> None:
    expected = Vocabulary().cardinalities | {f"quality_{name}": 2 for name in QUALITIES}
    assert QUALIFIED.cardinalities == expected
    conditions = QUALIFIED.of_rows(rows([25, 100, 127]))
    assert conditions.keys() == expected.keys()
    for i, name in enumerate(QUALITIES):
        assert conditions[f"quality_{name}"].tolist() == [int(row == i) for row in range(3)]


def test_rows_become_indices() -> None:
    conditions = NAMED.of_rows(rows([25, 100, 127]))
    assert {name: values.tolist() for name, values in conditions.items()} == {
        "pitch": [40, 41, 42],
        "family": [0, 1, 2],
        "source": [0, 0, 0],
        "velocity": [0, 3, 4],
        "instrument": [1, UNASKED, 0],
    }
    assert all(values.dtype == torch.int64 for values in conditions.values())
    assert Vocabulary().of_rows(rows([25])).keys() == Vocabulary().cardinalities.keys()


@pytest.mark.parametrize("velocity, index", [(1, 0), (37, 0), (38, 1), (64, 2), (113, 3), (114, 4), (127, 4)])
def test_a_velocity_is_the_nearest_of_five(velocity: int, index: int) -> None:
    assert Vocabulary().of_rows(rows([velocity]))["velocity"].tolist() == [index]
    assert Vocabulary().of_words(1, velocity=velocity)["velocity"].tolist() == [index]


def test_words_become_the_same_indices() -> None:
    conditions = NAMED.of_words(2, pitch=60, velocity=75, family="flute", source="synthetic", instrument="reed_002")
    assert {name: values.tolist() for name, values in conditions.items()} == {
        "pitch": [60, 60],
        "velocity": [2, 2],
        "family": [FAMILIES.index("flute")] * 2,
        "source": [SOURCES.index("synthetic")] * 2,
        "instrument": [1, 1],
    }
    assert list(conditions) == list(NAMED.cardinalities)


def test_qualities_that_are_named_are_present_and_the_others_not_asked_for() -> None:
    conditions = QUALIFIED.of_words(2, ("bright", "tempo-synced"), pitch=60)
    assert list(conditions) == list(QUALIFIED.cardinalities)
    for name in QUALITIES:
        asked = 1 if name in ("bright", "tempo-synced") else UNASKED
        assert conditions[f"quality_{name}"].tolist() == [asked] * 2


def test_qualities_may_be_one_text() -> None:
    """Which is a sequence of str too: its letters."""
    one, several = QUALIFIED.of_words(1, "bright"), QUALIFIED.of_words(1, "bright tempo-synced")
    assert one == QUALIFIED.of_words(1, ["bright"])
    assert several == QUALIFIED.of_words(1, ["bright", "tempo-synced"])


@pytest.mark.parametrize("count", [0, -1])
def test_no_notes_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"^count: {count} must be at least 1$"):
        NAMED.of_words(count, pitch=60)


def test_a_number_of_numpy_is_a_number() -> None:
    asked = NAMED.of_words(1, pitch=np.int64(60), velocity=np.uint8(100))  # type: ignore[arg-type]
    assert asked == NAMED.of_words(1, pitch=60, velocity=100)


def test_a_number_of_csv_is_a_number() -> None:
    assert NAMED.of_words(1, pitch="60", velocity="100") == NAMED.of_words(1, pitch=60, velocity=100)


def test_indices_become_the_same_words() -> None:
    vocabulary = Vocabulary(NAMED.instruments, qualities=True)
    words = {"pitch": 60, "velocity": 75, "family": "flute", "source": "synthetic", "instrument": "reed_002"}
    qualities = ["dark", "reverb"]
    notes = vocabulary.to_words(vocabulary.of_words(2, qualities, **words))  # type: ignore[arg-type]
    assert notes == [words | {"qualities": qualities}] * 2
    nothing = dict.fromkeys(words, None)
    assert vocabulary.to_words(vocabulary.of_words(1)) == [nothing | {"qualities": []}]
    [row] = QUALIFIED.to_words(QUALIFIED.of_rows(rows([40])))
    assert row == {"pitch": 40, "velocity": 50, "family": "bass", "source": "acoustic", "qualities": ["bright"]}
    assert "qualities" not in NAMED.to_words(NAMED.of_words(1))[0]


def test_what_is_left_out_or_none_is_not_asked_for() -> None:
    conditions = NAMED.of_words(3, pitch=60, family=None)
    assert conditions.pop("pitch").tolist() == [60] * 3
    assert all(values.tolist() == [UNASKED] * 3 for values in conditions.values())


@pytest.mark.parametrize(
    "vocabulary, asked, answer",
    [
        (NAMED, {"family": "flut"}, "family: 'flut' is unknown to this model: choose from bass, brass"),
        (NAMED, {"source": "real"}, "source: 'real' is unknown .*acoustic, electronic, synthetic"),
        (NAMED, {"instrument": "x"}, "instrument: 'x' is unknown .*bass_001, reed_002"),
        (Vocabulary(), {"instrument": "x"}, "instrument: 'x': this model was not conditioned on instruments"),
        (NAMED, {"pitch": 128}, "pitch: 128 is no MIDI number"),
        (NAMED, {"pitch": -1}, "pitch: -1 is no MIDI number"),
        (NAMED, {"pitch": "C4"}, "pitch: C4 is no MIDI number: choose 0 to 127"),
        (NAMED, {"pitch": 60.5}, "pitch: 60.5 is no MIDI number"),
        (NAMED, {"pitch": [60, 62]}, r"pitch: \[60, 62\] is no MIDI number"),
        (NAMED, {"velocity": 0}, "velocity: 0 is no MIDI velocity: choose 1 to 127"),
        (NAMED, {"velocity": 99.5}, "velocity: 99.5 is no MIDI velocity"),
        (NAMED, {"velocity": 500}, "velocity: 500 is no MIDI velocity: choose 1 to 127"),
        (QUALIFIED, {"qualities": ["dark", "brite"]}, "qualities: 'brite' is unknown .* bright, dark, .*tempo-synced$"),
        (NAMED, {"qualities": ["dark"]}, "qualities: 'dark': this model was not conditioned on qualities"),
    ],
)
def test_what_the_model_does_not_know_is_named(vocabulary: Vocabulary, asked: dict[str, Any], answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        vocabulary.of_words(1, **asked)
