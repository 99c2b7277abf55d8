"""What is not asked for is drawn as the training notes have it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from mars_dist.conditions import UNASKED, Vocabulary
from mars_dist.histogram import Histogram
from mars_dist.rows import Rows

COMBINATIONS = {
    # pitch, velocity, family, source, instrument -> notes
    (60, 0, 1, 0, 0): 1,
    (60, 4, 1, 0, 0): 5,
    (61, 0, 1, 2, 1): 2,
    (70, 0, 2, 0, 2): 4,
}
NAMES = ("pitch", "velocity", "family", "source", "instrument")
CARDINALITIES = {"pitch": 128, "velocity": 5, "family": 11, "source": 3, "instrument": 3}
NUM = 4000


@pytest.fixture
def histogram() -> Histogram:
    rows = [values for values, count in COMBINATIONS.items() for _ in range(count)]
    return Histogram.of(dict(zip(NAMES, torch.tensor(rows[::-1]).T, strict=True)))


def asking(num: int = NUM, **asked: int) -> dict[str, Tensor]:
    return {name: torch.full((num,), asked.get(name, UNASKED)) for name in NAMES}


def drawn(histogram: Histogram, **asked: int) -> Counter[tuple[int, ...]]:
    filled = histogram.fill(asking(**asked), range(NUM), seed=0)
    return Counter(zip(*(filled[name].tolist() for name in NAMES), strict=True))


def require_shares(found: Counter[tuple[int, ...]], counts: dict[tuple[int, ...], int]) -> None:
    assert found.keys() == counts.keys()
    for values, count in counts.items():
        assert found[values] / found.total() == pytest.approx(count / sum(counts.values()), abs=0.04)


def test_combinations_are_counted_once(histogram: Histogram) -> None:
    rows = zip(*(histogram.columns[name].tolist() for name in NAMES), strict=True)
    assert dict(zip(rows, histogram.counts_N.tolist(), strict=True)) == COMBINATIONS


def test_many_instruments(tmp_path: Path) -> None:
    many = torch.arange(40_000)
    Histogram.of({"instrument": many}).save(tmp_path / "histogram.safetensors")
    loaded = Histogram.load(tmp_path / "histogram.safetensors", {"instrument": len(many)})
    assert loaded.columns["instrument"].tolist() == many.tolist()


@pytest.mark.parametrize(
    "asked", [{}, {"pitch": 60}, {"family": 1}, {"velocity": 0, "source": 0}, {"instrument": 2}, {"pitch": 61}]
)
def test_draws_are_as_frequent_as_the_notes_that_have_what_is_asked_for(
    histogram: Histogram, asked: dict[str, int]
) -> None:
    having = {
        values: count
        for values, count in COMBINATIONS.items()
        if asked.items() <= dict(zip(NAMES, values, strict=True)).items()
    }
    require_shares(drawn(histogram, **asked), having)


def test_what_no_note_has_stays_asked_for_and_is_passed_over(histogram: Histogram) -> None:
    # No note of family 1 has pitch 99, none at all has source 1.
    require_shares(
        drawn(histogram, family=1, pitch=99), {(99, 0, 1, 0, 0): 1, (99, 4, 1, 0, 0): 5, (99, 0, 1, 2, 1): 2}
    )
    require_shares(drawn(histogram, source=1, pitch=70), {(70, 0, 2, 1, 2): 1})
    # The instrument decides before the family, the family before the pitch.
    require_shares(drawn(histogram, instrument=1, family=2), {(61, 0, 2, 2, 1): 1})
    require_shares(drawn(histogram, family=2, pitch=61), {(61, 0, 2, 0, 2): 1})


def test_what_is_asked_for_is_left_as_it_is(histogram: Histogram) -> None:
    asked = asking(3, pitch=5, velocity=1, family=3, source=1, instrument=0)
    filled = histogram.fill(asked, [0, 1, 2], seed=0)
    assert all(torch.equal(filled[name], values_B) for name, values_B in asked.items())
    unasked = asking(3)
    histogram.fill(unasked, [0, 1, 2], seed=0)
    assert all((values_B == UNASKED).all() for values_B in unasked.values())


def test_a_draw_depends_on_seed_and_id_alone(histogram: Histogram) -> None:
    def fill(ids: list[int], seed: int) -> Tensor:
        filled = histogram.fill(asking(len(ids)), ids, seed)
        return torch.stack([filled[name] for name in NAMES], dim=1)

    together = fill(list(range(20)), 0)
    for i in range(20):
        assert torch.equal(fill([i], 0)[0], together[i])
    assert not torch.equal(fill(list(range(20)), 1), together)
    assert not torch.equal(fill(list(range(20, 40)), 0), together)
    assert fill([0], -1).shape == (1, 5)


def test_it_comes_back_from_its_file(histogram: Histogram, tmp_path: Path) -> None:
    histogram.save(tmp_path / "histogram.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["histogram.safetensors"]
    loaded = Histogram.load(tmp_path / "histogram.safetensors", CARDINALITIES)
    assert loaded.columns.keys() == histogram.columns.keys()
    assert all(np.array_equal(loaded.columns[name], values_N) for name, values_N in histogram.columns.items())
    assert np.array_equal(loaded.counts_N, histogram.counts_N)
    with pytest.raises(ValueError, match=r"none: there is no such file: give the whole --out of mars train-ar"):
        Histogram.load(tmp_path / "none", CARDINALITIES)


COUNTS_N = np.array([1, 5, 2, 4])
HARM: dict[str, dict[str, NDArray[Any]]] = {
    "what it holds are no counts": {"counts": 0 * COUNTS_N},
    "what it holds are no counts .": {"counts": COUNTS_N - 2},
    "what it holds are no counts ..": {"counts": COUNTS_N + 0.5},
    "what it holds are no counts .*": {"counts": COUNTS_N[:3]},
    "what it holds are no counts .+": {"pitch": COUNTS_N + 127},
    "what it holds are no counts .?": {"pitch": COUNTS_N[:, None]},
    "columns .*kazoo.*: it belongs to another model": {"kazoo": COUNTS_N},
}


@pytest.mark.parametrize("answer", HARM)
def test_columns_that_are_no_counts_are_refused(answer: str, histogram: Histogram, tmp_path: Path) -> None:
    path = tmp_path / "histogram.safetensors"
    save_file(histogram.columns | {"counts": histogram.counts_N} | HARM[answer], path)
    with pytest.raises(ValueError, match=answer):
        Histogram.load(path, CARDINALITIES)


def test_codes_rows_are_counted_with_their_qualities(short_codes: str) -> None:
    """Of the short notes, pitches 49 to 60, each has a family, an instrument and one quality of its own."""
    labels = Rows(short_codes, "train").read(["pitch", "velocity", "family", "source", "instrument_str", "qualities"])
    vocabulary = Vocabulary(tuple(np.unique(labels["instrument_str"]).tolist()), qualities=True)
    histogram = Histogram.of(vocabulary.of_rows(labels))
    assert histogram.columns.keys() == vocabulary.cardinalities.keys()
    assert histogram.counts_N.tolist() == [1] * 12
    note_by_note = vocabulary.to_words(vocabulary.of_rows(labels))
    for asked in ({"pitch": 55}, {"family": "guitar"}, {"qualities": ["distortion"]}):
        filled = histogram.fill(vocabulary.of_words(30, **asked), range(30), seed=0)  # type: ignore[arg-type]
        found = vocabulary.to_words(filled)
        expected = [note for note in note_by_note if note | asked == note]
        assert expected and all(note in expected for note in found)
