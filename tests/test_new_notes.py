"""Notes that a table asks for: labelled, the same however they are spread, and gone on with after a kill."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mars_dist import new_notes
from mars_dist.conditions import Vocabulary
from mars_dist.model import Mars
from mars_dist.new_notes import LABELS, NewNotes, make, read_prompts
from mars_dist.sampling import SamplingConfig
from mars_dist.serialize import as_json
from mars_dist.sources.read import read_source
from mars_dist.storage import Folder
from mars_dist.training.plan import Plan

PROMPTS = """pitch,family,qualities,count
60,guitar,,3
61,,,
,,,2
"""


@pytest.fixture
def notes(trained_autoregressor: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewNotes:
    monkeypatch.setattr(new_notes, "NOTES_IN_A_PART", 4)
    (tmp_path / "prompts.csv").write_text(PROMPTS)
    model = trained_autoregressor.folder
    asked = read_prompts(str(tmp_path / "prompts.csv"), model, {"velocity": 100}, count=1)
    return NewNotes(model, asked, SamplingConfig(seed=3), "griffin_lim")


def test_notes_and_labels(notes: NewNotes, tmp_path: Path) -> None:
    said: list[str] = []
    make(notes, Folder.open(tmp_path / "out"), map, said.append)
    rows = list(csv.DictReader((tmp_path / "out" / LABELS).read_text().splitlines()))
    assert [row["pitch"] for row in rows[:4]] == ["60", "60", "60", "61"] and len(rows) == 6
    assert {row["velocity"] for row in rows} == {"100"} and {row["family"] for row in rows[:3]} == {"guitar"}
    assert all(row["pitch"] and row["family"] and row["instrument"] for row in rows), "what was drawn is told"
    assert said[:2] == ["notes 4/6", "notes 6/6"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"audio", LABELS, "samples.json"}

    # Each is the note that one call for all of them makes.
    mars = Mars.from_pretrained(notes.model)
    asked: dict[str, Any] = {"pitch": 60, "family": "guitar", "velocity": 100}
    waves = mars.generate(3, **asked, sampling=notes.sampling, phase=notes.phase)
    made = [soundfile.read(tmp_path / "out" / row["file"])[0] for row in rows]
    np.testing.assert_allclose(made[:3], np.clip(waves, -1, 1), atol=2**-15)

    # mars preprocess takes the folder.
    source = read_source(tmp_path / "out")
    assert sum(len(split.entries) for split in source.splits.values()) == 6 and not source.rejected

    make(notes, Folder.open(tmp_path / "out"), map, said.append)
    assert said[-1].endswith("finished already, 6 notes: nothing to do")


def test_what_was_broken_off_goes_on(notes: NewNotes, tmp_path: Path) -> None:
    def broken(work: Any, items: Iterable[Any]) -> Iterator[Any]:
        yield work(list(items)[1])
        raise KeyboardInterrupt

    out, said = Folder.open(tmp_path / "out"), list[str]()
    with pytest.raises(KeyboardInterrupt):
        make(notes, out, broken, said.append)  # type: ignore[arg-type]
    assert LABELS not in out.list()
    make(notes, out, map, said.append)
    assert said[:2] == ["notes 2/6", "notes 6/6"]
    make(notes, Folder.open(tmp_path / "whole"), map, said.append)
    for file in ("audio/00000005.wav", "audio/00000000.wav", LABELS):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()

    other = NewNotes(notes.model, notes.asked, SamplingConfig(seed=4), notes.phase)
    with pytest.raises(ValueError, match=r"out: holds other notes, of sampling\.seed = 3, not 4: choose another --out"):
        make(other, out, map, said.append)


def test_settings_that_the_model_refuses_are_not_kept(notes: NewNotes, tmp_path: Path) -> None:
    out = Folder.open(tmp_path / "out")
    with pytest.raises(ValueError, match=r"sampling\.top_k: 2 values"):
        make(replace(notes, sampling=SamplingConfig(top_k=(1, 2))), out, map, print)
    assert not out.list()


def test_other_notes_are_made_where_none_were(notes: NewNotes, tmp_path: Path) -> None:
    def broken(work: Any, items: Iterable[Any]) -> Iterator[Any]:
        raise KeyboardInterrupt

    out = Folder.open(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        make(notes, out, broken, print)  # type: ignore[arg-type]
    make(replace(notes, sampling=SamplingConfig(seed=4)), out, map, print)
    assert LABELS in out.list()


def test_what_was_asked_for_is_known_again(notes: NewNotes) -> None:
    qualities = replace(notes, asked=[{"pitch": 60, "qualities": ("bright", "percussive")}])
    assert json.loads(as_json(qualities.settings())) == qualities.settings()


@pytest.mark.parametrize(
    ("table", "mistake"),
    [
        ("pitch\n60\n200\n", r"row 2: pitch: 200 is no MIDI number"),
        ("pitch\nC4\n", r"row 1: pitch is 'C4', must be a whole number"),
        ("octave\n4\n", r"row 1: 'octave' is no column: choose pitch, velocity, family, source"),
        ("family\nkazoo\n", r"row 1: family: 'kazoo' is unknown to this model"),
        ("pitch\n", r"asks for no notes: a row for each"),
        ("pitch,count\n60,-2\n", r"row 1: count is -2, must be 0 or more"),
    ],
)
def test_prompts_that_cannot_be_met(table: str, mistake: str, trained_autoregressor: Plan, tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text(table)
    read = partial(read_prompts, str(tmp_path / "prompts.csv"), trained_autoregressor.folder)
    with pytest.raises(ValueError, match=mistake):
        read({}, 1)


def test_prompts_as_objects_a_line(trained_autoregressor: Plan, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"pitch": 60, "velocity": null}\n\n{"pitch": 61, "qualities": 5}\n')
    with pytest.raises(ValueError, match=r"row 2: qualities is 5, must be words"):
        read_prompts(str(tmp_path / "prompts.jsonl"), trained_autoregressor.folder, {}, 1)
    (tmp_path / "prompts.jsonl").write_text('{"pitch": 60, "velocity": null}\n\n{"pitch": 61}\n')
    asked = read_prompts(str(tmp_path / "prompts.jsonl"), trained_autoregressor.folder, {}, 1)
    assert asked == [{"pitch": 60}, {"pitch": 61}]


def test_what_pandas_writes_where_values_are_missing_is_missing(trained_autoregressor: Plan, tmp_path: Path) -> None:
    """A column of numbers with a gap comes as 60.0 and nothing in CSV, as 60.0 and NaN in JSON."""
    (tmp_path / "prompts.csv").write_text("pitch,count\n60.0,2.0\n,\n")
    (tmp_path / "prompts.jsonl").write_text('{"pitch": 60.0, "count": 2.0}\n{"pitch": NaN, "count": NaN}\n')
    for name in ("prompts.csv", "prompts.jsonl"):
        asked = read_prompts(str(tmp_path / name), trained_autoregressor.folder, {}, 1)
        assert asked == [{"pitch": 60}, {"pitch": 60}, {}]


def test_an_instruments_name_may_be_a_number(notes: NewNotes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered = replace(Mars.from_pretrained(notes.model), vocabulary=Vocabulary(instruments=("0", "1")))
    monkeypatch.setattr(new_notes, "model_of", lambda _: numbered)
    (tmp_path / "prompts.jsonl").write_text('{"instrument": 0}')
    assert read_prompts(str(tmp_path / "prompts.jsonl"), notes.model, {}, 1) == [{"instrument": "0"}]


def test_a_folder_of_somebody_elses_notes_is_refused(notes: NewNotes, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LABELS).write_text("file,pitch,family\n")
    with pytest.raises(ValueError, match="holds other notes, which mars sample did not make"):
        make(notes, Folder.open(tmp_path / "out"), map, print)
