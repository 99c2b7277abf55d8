"""Notes rendered from a soundfont."""

import hashlib
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tinysoundfont", reason="the notes extra is not installed")

from mars_dist import notes
from mars_dist.audio import read_note
from mars_dist.notes import PROGRAMS, NotesConfig, Sampler, all_instruments, plan, render
from mars_dist.nsynth import FAMILIES, SPLITS
from mars_dist.serialize import write_json
from mars_dist.sources.read import read_source

TIMGM6MB = notes._find_soundfont(None)
# Two instruments a family, one of them for the test split; two notes each. The seed draws the alto saxophone, which has
# no sound at pitch 64 in this font.
SMALL = NotesConfig(pitches=(64, 65), velocities=(100,), instruments_per_family=2, seed=9)


def contents(folder: Path) -> dict[str, str]:
    """Every file's path and hash."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rendered") / "notes"
    render(out, SMALL, processes=2)
    return out


@pytest.fixture
def copy(rendered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered, tmp_path / "copy"))


def test_every_note_reads_back_as_a_note_of_nsynths_size(rendered: Path) -> None:
    splits = read_source(rendered).splits
    assert list(splits) == list(SPLITS)
    for split in splits.values():
        assert set(split.folder.sub("audio").list()) == {f"{note.note_str}.wav" for note in split.notes}
        for entry, note in zip(split.entries, split.notes, strict=True):
            assert 1e-3 < np.abs(read_note(split.folder.read(entry.file), 16_000, 64_000)).max() < 1
            assert note.note_str == f"{note.instrument_str}-{note.pitch:03d}-{note.velocity:03d}"
            assert note.instrument_str.startswith(f"{note.instrument_family_str}_{note.instrument_source_str}_")


def test_examples_have_every_key_of_nsynth(rendered: Path) -> None:
    numbers = {"note", "instrument", "pitch", "velocity", "sample_rate", "instrument_family", "instrument_source"}
    texts = {"note_str", "instrument_str", "instrument_family_str", "instrument_source_str"}
    for entry in json.loads((rendered / "nsynth-train" / "examples.json").read_text()).values():
        assert {key for key, value in entry.items() if isinstance(value, int)} == numbers
        assert {key for key, value in entry.items() if isinstance(value, str)} == texts
        assert entry.keys() - numbers - texts == {"qualities", "qualities_str"}


def test_the_record_says_what_was_rendered(rendered: Path) -> None:
    record = json.loads((rendered / "notes.json").read_text())
    splits = read_source(rendered).splits
    assert "not NSynth" in record["what"]
    assert record["counts"] == {name: len(split.notes) for name, split in splits.items()}
    assert sum(record["counts"].values()) == 2 * len(record["programs"]) - 1 == 43
    assert record["silent_dropped"] == ["reed_acoustic_002-064-100"]
    assert set(record["splits"]["test_instruments"]) == {note.instrument_str for note in splits["test"].notes}
    assert record["settings"]["soundfont"] == "TimGM6mb.sf2"
    assert record["settings"]["soundfont_sha256"] == hashlib.sha256(TIMGM6MB.read_bytes()).hexdigest()
    assert record["num_clipped"] == 0 and record["programs_not_in_font"] == []


def test_the_bytes_depend_on_neither_the_processes_nor_a_broken_start(rendered: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(tmp_path, SMALL, stop, processes=1)
    with pytest.raises(ValueError, match=r"no notes here"):
        read_source(tmp_path)
    steps = []
    render(tmp_path, SMALL, lambda done, total: steps.append((done, total)), processes=1)
    assert contents(tmp_path) == contents(rendered)
    assert steps == [(done, 44) for done in range(2, 45, 2)]


def test_a_render_that_was_stopped_at_its_very_end_is_made_again(
    rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One split is in its place, and no record of the render."""

    def stop_at_valid(path: Path, value: object) -> None:
        if "valid" in str(path):
            raise KeyboardInterrupt
        write_json(path, value)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mars_dist.notes.write_json", stop_at_valid)
        render(tmp_path, SMALL)
    assert (tmp_path / "nsynth-train").exists() and not (tmp_path / "notes.json").exists()
    render(tmp_path, SMALL)
    assert contents(tmp_path) == contents(rendered)


def test_two_at_once_do_not_spoil_each_other(rendered: Path, tmp_path: Path) -> None:
    refused = []

    def meanwhile(done: int, total: int) -> None:
        with pytest.raises(ValueError, match=r"another run writes here \(process \d+ on "):
            render(tmp_path, SMALL, processes=1)
        refused.append(done)

    render(tmp_path, SMALL, meanwhile, processes=1)
    assert refused and contents(tmp_path) == contents(rendered)


def test_a_finished_render_is_left_alone(copy: Path) -> None:
    (copy / "nsynth-train" / "audio" / "mine.wav").touch()
    before = contents(copy)
    assert render(copy, SMALL)["counts"]["test"] == 22
    assert contents(copy) == before


def test_other_settings_are_refused_by_the_field(copy: Path) -> None:
    with pytest.raises(ValueError, match=r"notes.seed: 1 differs from 9, with which .* delete that one"):
        render(copy, NotesConfig(**vars(SMALL) | {"seed": 1}))
    font = copy / "TimGM6mb.sf2"
    font.write_bytes(TIMGM6MB.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"notes.soundfont_sha256: .* differs"):
        render(copy, NotesConfig(**vars(SMALL) | {"soundfont": str(font)}))


def test_folders_that_hold_anything_else_are_not_touched(copy: Path) -> None:
    for text in ("[]", '{"settings": "mine"}'):
        (copy / "notes.json").write_text(text)
        with pytest.raises(ValueError, match="not the record of a render: choose another folder"):
            render(copy, SMALL)
    (copy / "notes.json").unlink()
    before = contents(copy)
    with pytest.raises(ValueError, match=r"holds nsynth-train, and no notes\.json of a render: choose another"):
        render(copy, SMALL)
    assert contents(copy) == before


def test_folders_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/notes: cannot be written \(Not a directory\): choose another folder"):
        render(tmp_path / "file" / "notes", SMALL)
    with pytest.raises(ValueError, match="s3://bucket/notes: notes are rendered into a local folder"):
        render("s3://bucket/notes", SMALL)


def test_fonts_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.sf2").write_text("no font")
    for font, message in (("gone.sf2", "is not a file"), ("text.sf2", "is not a soundfont"), ("", "is not a file")):
        with pytest.raises(ValueError, match=f"notes.soundfont: .*{font} {message}: give an .sf2 file"):
            render(tmp_path / "notes", NotesConfig(soundfont=str(tmp_path / font)))
    assert not (tmp_path / "notes").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pitches": (60, 128)}, "pitches: 60 128 must be the lowest and the highest pitch within 0 to 127"),
        ({"pitches": (-1, 60)}, "pitches: -1 60"),
        ({"pitches": (61, 60)}, "pitches: 61 60"),
        ({"velocities": ()}, "velocities: nothing must be one or more numbers from 1 to 127"),
        ({"velocities": (0, 50)}, "velocities: 0 50"),
        ({"velocities": (128,)}, "velocities: 128"),
        ({"velocities": (50, 50)}, "velocities: 50 50 repeats one"),
        ({"instruments_per_family": 1}, "instruments_per_family: 1 must be at least 2"),
        (
            {"instruments_per_family": 0, "test_instruments_per_family": 0},
            "instruments_per_family: 0 must be at least 1",
        ),
        ({"test_instruments_per_family": -1}, "test_instruments_per_family: -1 is negative"),
        ({"valid_share": 1.0}, r"valid_share: 1.0 must lie in \[0, 1\)"),
        ({"valid_share": float("nan")}, "valid_share: nan"),
        ({"gain": 0.0}, "gain: 0.0 must be positive"),
    ],
)
def test_bad_settings_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"notes.{message}"):
        NotesConfig(**changes)


def test_every_family_has_instruments_and_no_program_has_two() -> None:
    assert tuple(PROGRAMS) == FAMILIES
    instruments = all_instruments()
    assert len({i.program for i in instruments}) == len({i.name for i in instruments}) == len(instruments) == 98
    assert min(sum(i.family == family for i in instruments) for family in FAMILIES) >= 5


@given(
    seed=st.integers(0, 2**32),
    top=st.integers(48, 80),
    num_test=st.integers(0, 4),
    valid_share=st.sampled_from([0.0, 1e-3, 0.1, 0.5, 0.99]),
)
def test_no_split_sees_what_another_holds_out(seed: int, top: int, num_test: int, valid_share: float) -> None:
    config = NotesConfig(pitches=(48, top), seed=seed, test_instruments_per_family=num_test, valid_share=valid_share)
    drawn = plan(config, all_instruments())
    instruments, pairs = defaultdict(set), defaultdict(set)
    for instrument in drawn.instruments:
        for pitch in drawn.pitches:
            split = drawn.split(instrument, pitch)
            instruments[split].add(instrument)
            pairs[split].add((instrument.program, pitch))
    assert not instruments["test"] & (instruments["train"] | instruments["valid"])
    assert sorted(i.family for i in instruments["test"]) == sorted(FAMILIES * num_test)
    assert not pairs["train"] & pairs["valid"] and pairs["train"]
    num_pairs = len(pairs["train"] | pairs["valid"])
    assert abs(len(pairs["valid"]) - valid_share * num_pairs) <= 1 and bool(pairs["valid"]) == bool(valid_share)
    assert drawn == plan(config, all_instruments())


def test_the_seed_draws_both_splits() -> None:
    first, second = (plan(NotesConfig(seed=seed), all_instruments()) for seed in (0, 1))
    assert first.test != second.test
    first, second = (plan(NotesConfig(seed=seed, test_instruments_per_family=0), all_instruments()) for seed in (0, 1))
    assert first.valid != second.valid


def test_the_last_pair_is_for_training() -> None:
    config = NotesConfig(pitches=(60, 60), test_instruments_per_family=0)
    assert not plan(config, all_instruments()[:1]).valid


def test_a_font_may_lack_families_but_none_may_be_without_training() -> None:
    bass, *pianos = (instrument for instrument in all_instruments() if instrument.program in (32, 0, 1))
    drawn = plan(NotesConfig(), pianos)
    assert set(drawn.instruments) == set(pianos) and len(drawn.test) == 1
    with pytest.raises(ValueError, match="test_instruments_per_family: 1 leaves no bass to train on, the font has 1"):
        plan(NotesConfig(), [bass, *pianos])


def test_a_note_does_not_hear_the_one_before() -> None:
    sampler = Sampler(TIMGM6MB)
    alone = sampler.play(14, 60, 100)
    sampler.play(91, 40, 127)
    assert alone.shape == (64_000,) and np.array_equal(sampler.play(14, 60, 100), alone)


@pytest.mark.parametrize(("program", "pitch"), [(56, 60), (73, 72), (80, 48)])
def test_the_label_is_the_pitch_that_sounds(program: int, pitch: int) -> None:
    wave_T = Sampler(TIMGM6MB).play(program, pitch, 100)[8_000:40_000]
    spectrum = np.abs(np.fft.rfft(wave_T * np.hanning(len(wave_T))))
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    near = slice(int(frequency * 0.97 * 2), int(frequency * 1.03 * 2) + 1)  # bins are half a hertz wide
    assert spectrum[near].max() > 0.2 * spectrum.max()
    assert spectrum[: int(frequency * 0.9 * 2)].max() < 0.1 * spectrum.max()


def test_a_louder_key_is_louder_and_its_release_fades() -> None:
    soft_T, loud_T = (Sampler(TIMGM6MB).play(19, 60, velocity) for velocity in (25, 127))
    assert np.abs(loud_T).max() > 2 * np.abs(soft_T).max()
    assert np.abs(loud_T[-8_000:]).max() < 0.5 * np.abs(loud_T[32_000:48_000]).max()
