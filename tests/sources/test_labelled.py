"""Folders of any audio with a table of labels, and what becomes of their files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mars_dist.audio import convert_note
from mars_dist.config import SpectrogramConfig
from mars_dist.sources.read import read_source
from mars_dist.sources.source import Source, fingerprint

RATE, LENGTH = 16_000, 2000
CONFIG = SpectrogramConfig(num_samples=LENGTH, n_fft=128, hop=125)
ROWS = [
    {"file": "piano/low c.wav", "pitch": "36", "family": "keyboard", "velocity": "50", "instrument": "upright"},
    {"file": "piano/high.flac", "pitch": "72", "family": "keyboard", "instrument": "upright", "split": "valid"},
    {"file": "flute.ogg", "pitch": "80", "family": "flute", "qualities": "bright reverb", "source": "electronic"},
]


def tone(rate: int = RATE, seconds: float = LENGTH / RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def write(folder: Path, rows: list[dict[str, Any]], kind: str = "csv") -> Path:
    """The table, and a file for each row."""
    for row in rows:
        path = folder / str(row["file"])
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(), RATE)
    if kind == "jsonl":
        (folder / "labels.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        lines = [",".join(columns), *(",".join(str(row.get(column, "")) for column in columns) for row in rows)]
        (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def reasons(source: Source) -> list[str]:
    return [note.reason for note in source.rejected]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_becomes_splits_of_notes(kind: str, tmp_path: Path) -> None:
    source = read_source(write(tmp_path, ROWS, kind))
    assert not source.rejected
    low, flute = sorted(source.splits["train"].notes, key=lambda note: note.pitch)
    [high] = source.splits["valid"].notes
    assert (low.note_str, low.pitch, low.velocity, low.instrument_str) == ("piano-low c.wav", 36, 50, "upright")
    assert (high.velocity, high.instrument) == (100, low.instrument) and low.instrument != flute.instrument
    assert (flute.instrument_str, flute.instrument_family_str, flute.instrument_source_str) == (
        "flute", "flute", "electronic"
    )  # fmt: skip
    assert flute.qualities_str == ["bright", "reverb"]
    assert read_source(tmp_path / f"labels.{kind}") == source


def test_numbers_may_be_numbers(tmp_path: Path) -> None:
    plain = [row | {"pitch": int(row["pitch"])} for row in ROWS]
    assert reasons(read_source(write(tmp_path, plain, "jsonl"))) == []


def test_qualities_may_be_a_list_in_json(tmp_path: Path) -> None:
    listed = [ROWS[0] | {"qualities": ["bright", "dark"]}, ROWS[1] | {"qualities": [["bright"]]}, ROWS[2]]
    source = read_source(write(tmp_path, listed, "jsonl"))
    qualities = {note.pitch: note.qualities_str for note in source.splits["train"].notes}
    assert qualities == {36: ["bright", "dark"], 80: ["bright", "reverb"]}
    assert reasons(source)[0].startswith("qualities has ['bright'], there are bright dark ")


def test_what_pandas_writes_where_values_are_missing_is_missing(tmp_path: Path) -> None:
    """A column of numbers with a gap comes as 50.0 and nothing in CSV, as 50.0 and NaN in JSON."""
    rows = [row | {"velocity": "50.0"} for row in ROWS[:2]] + [ROWS[2] | {"velocity": "", "instrument": ""}]
    from_csv = read_source(write(tmp_path / "csv", rows, "csv"))
    gap = dict.fromkeys(["velocity", "instrument"], np.nan)
    gaps = [row | {"velocity": 50.0} for row in ROWS[:2]] + [ROWS[2] | gap]
    from_json = read_source(write(tmp_path / "json", gaps, "jsonl"))
    for source in (from_csv, from_json):
        assert reasons(source) == []
        notes = sorted((note for split in source.splits.values() for note in split.notes), key=lambda note: note.pitch)
        assert [(note.velocity, note.instrument_str) for note in notes] == [
            (50, "upright"), (50, "upright"), (100, "flute")
        ]  # fmt: skip


def test_instruments_may_be_numbers_and_the_first_one_0(tmp_path: Path) -> None:
    numbered = [row | {"instrument": i // 2} for i, row in enumerate(ROWS)]
    source = read_source(write(tmp_path, numbered, "jsonl"))
    names = {note.pitch: note.instrument_str for split in source.splits.values() for note in split.notes}
    assert names == {36: "0", 72: "0", 80: "1"}


def test_a_line_ends_where_json_lines_do_and_what_is_no_text_costs_its_row_alone(tmp_path: Path) -> None:
    write(tmp_path, ROWS, "jsonl")
    halves = [{"instrument": "\ud83d"}, {"file": "\ud83d.wav"}, {"instrument": "up\u2028right\x85"}]
    more = [{"file": f"more {i}.wav", "pitch": 60, "family": "reed"} | change for i, change in enumerate(halves)]
    with open(tmp_path / "labels.jsonl", "a", encoding="utf-8") as table:
        table.write("".join(f"{json.dumps(row)}\n" for row in more[:2]))
        table.write(f"{json.dumps(more[2], ensure_ascii=False)}\n")
    source = read_source(tmp_path)
    names = {note.instrument_str for split in source.splits.values() for note in split.notes}
    assert "up\u2028right\x85" in names
    assert [note.note_str for note in source.rejected] == ["row 4", "row 5"]
    assert "instrument_str is '\\ud83d', must be text" in reasons(source)[0]
    assert "file is '\\ud83d.wav', must be a path below" in reasons(source)[1]


def test_files_in_folders_that_cannot_be_are_missing(tmp_path: Path) -> None:
    write(tmp_path, ROWS[:2])
    within = {"file": "piano/high.flac/x.wav", "pitch": "60", "family": "keyboard"}
    table = "".join(f"{json.dumps(row)}\n\n" for row in (*ROWS[:2], within, within | {"file": f"{'x' * 300}/y.wav"}))
    (tmp_path / "labels.csv").unlink()
    (tmp_path / "labels.jsonl").write_text(table.replace('"pitch": "36"', '"pitch": "36", "velocity": null'))
    entries = [entry for split in read_source(tmp_path).splits.values() for entry in split.entries]
    assert [entry.size is None for entry in sorted(entries, key=lambda entry: entry.note.note)] == [
        False, False, True, True
    ]  # fmt: skip


def test_without_a_split_a_tenth_of_the_pairs_is_valid(tmp_path: Path) -> None:
    rows = [
        {"file": f"{bass}-{pitch}-{take}.wav", "pitch": pitch, "family": "bass", "instrument": f"bass {bass}"}
        for bass in range(10)
        for pitch in range(30, 60)
        for take in range(2)
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = read_source(tmp_path).splits
    pairs = {name: Counter((note.instrument_str, note.pitch) for note in split.notes) for name, split in splits.items()}
    assert not pairs["train"].keys() & pairs["valid"].keys()
    assert set(pairs["valid"].values()) == {2} and 15 <= len(pairs["valid"]) <= 45
    assert read_source(tmp_path).splits == splits


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pitch": "128"}, "pitch is 128, must be a whole number from 0 to 127"),
        ({"pitch": "C4"}, "pitch is 'C4', must be a whole number"),
        ({"pitch": ""}, "pitch is None, must be a whole number"),
        ({"velocity": "-1"}, "velocity is -1"),
        ({"family": "piano"}, "family is 'piano', must be one of bass brass"),
        ({"source": "tape"}, "source is 'tape', must be one of"),
        ({"qualities": "bright loud"}, "qualities has 'loud', there are bright"),
        ({"split": "dev"}, "split is 'dev', must be one of train valid test"),
        ({"file": "../other.wav"}, "file is '../other.wav', must be a path below"),
        ({"file": "/etc/passwd"}, "file is '/etc/passwd', must be a path below"),
        ({"file": ""}, "file is None, must be a path below"),
        ({"file": "piano/../../x.wav"}, "must be a path below"),
        ({"file": "flute.ogg"}, "file is 'flute.ogg', the name 'flute.ogg' has come before"),
    ],
)
def test_a_row_that_is_wrong_is_rejected_and_the_others_are_used(
    change: dict[str, str], reason: str, tmp_path: Path
) -> None:
    write(tmp_path, ROWS)
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    row = {"file": "another.wav", "pitch": "60", "family": "reed"} | change
    extra = ",".join(row.get(column, "") for column in lines[0].split(","))
    (tmp_path / "labels.csv").write_text("\n".join([*lines, extra]) + "\n")
    source = read_source(tmp_path)
    assert sum(len(split.entries) for split in source.splits.values()) == 3
    [rejected] = source.rejected
    assert (rejected.note_str, rejected.split) == ("row 4", "labels.csv") and reason in rejected.reason


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.csv", b"file,family\n", "has no column 'pitch': it must have file, pitch, family"),
        ("labels.csv", b"file;pitch;family\n", "it must have file, pitch, family; it has 'file;pitch;family'"),
        ("labels.csv", b'file,pitch,family\na.wav,60,"reed\nb.wav,61,reed\n', r"of labels \(row 1: unexpected end"),
        ("labels.csv", b'file,family,pitch\n"a",reed,"60\nb.wav,reed,"61"\n', "no table of labels .*expected after"),
        ("labels.csv", b"", "has no column 'file'"),
        ("labels.csv", b"file,family,pitch\n", "holds no rows"),
        ("labels.csv", b"\xff\xfe", "no table of labels"),
        ("labels.csv", b'file,pitch,family\na,60,reed\n\nb,60,"reed', r"no table of labels \(row 2: unexpected end"),
        ("labels.jsonl", b"{", "no table of labels"),
        ("labels.jsonl", b'{"file": "a"}\n{"file": "b"}\n{"file"}', r"no table of labels \(row 3: Expecting"),
        ("labels.jsonl", b"3\n", "no table of labels|holds '3', must be an object a line"),
        ("labels.jsonl", b"[" * 100_000, "no table of labels"),
    ],
)
def test_what_is_no_table_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_source(tmp_path)
    assert f"{tmp_path}/{name}: " in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_fingerprint_follows_labels_files_and_rejected_rows(tmp_path: Path) -> None:
    def now(rows: list[dict[str, str]] = ROWS) -> str:
        return fingerprint(read_source(write(tmp_path, rows)))

    before = now()
    other = now([ROWS[0] | {"pitch": "37"}, *ROWS[1:]])
    rejected = now([ROWS[0] | {"pitch": "137"}, *ROWS[1:]])
    assert now() == before
    soundfile.write(tmp_path / "flute.ogg", np.zeros(10), RATE)
    assert len({before, other, rejected, fingerprint(read_source(tmp_path))}) == 4


# ---- files


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("seconds", [0.05, LENGTH / RATE, 0.4])
def test_any_rate_and_length_becomes_the_data_sets(rate: int, seconds: float, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(rate, seconds), rate, subtype="FLOAT")
    wave_T = convert_note(path.read_bytes(), RATE, LENGTH)
    assert wave_T.shape == (LENGTH,) and wave_T.dtype == np.float32
    there = min(LENGTH, round(seconds * RATE))
    assert not wave_T[there + 100 :].any(), "filled up with silence"
    inner = slice(150, there - 150)
    assert np.abs(wave_T - tone())[inner].max() < 1e-3


def test_a_cut_does_not_ring(tmp_path: Path) -> None:
    """The end of the part that is kept sounds as in the whole."""
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(44_100, 1.0), 44_100, subtype="FLOAT")
    assert np.abs(convert_note(path.read_bytes(), RATE, LENGTH) - tone())[150:].max() < 1e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([tone(), -0.5 * tone(), tone()], 1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(convert_note(path.read_bytes(), RATE, LENGTH), tone() / 2, atol=1e-6)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "aiff"])
def test_formats_of_libsndfile_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, tone(), RATE)
    assert np.abs(convert_note(path.read_bytes(), RATE, LENGTH) - tone()).max() < 0.1


@pytest.mark.parametrize(
    ("wave", "rate", "message"),
    [
        (np.zeros(0), RATE, "empty, must hold sound"),
        (np.full(LENGTH, np.nan), RATE, "NaN or infinite"),
        (tone(), 44_099, "sample rate 44099 Hz has no simple ratio to 16000 Hz"),
    ],
)
def test_files_that_cannot_be_used_are_refused(wave: np.ndarray, rate: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, wave, rate, subtype="FLOAT")
    with pytest.raises(ValueError, match=message):
        convert_note(path.read_bytes(), RATE, LENGTH)


@pytest.mark.parametrize(
    ("kind", "subtype", "message"),
    [
        ("wav", "PCM_16", "truncated: its header promises 32000 bytes"),
        ("aiff", "PCM_16", "truncated: its header promises 32008 bytes"),
        ("aiff", "FLOAT", "truncated: its header promises 64008 bytes"),
        ("flac", "PCM_16", "not a readable file of sound"),
        ("ogg", "VORBIS", "truncated: its last page ends early"),
        ("ogg", "OPUS", "truncated: its last page ends early"),
    ],
)
def test_a_truncated_file_and_none_are_refused(kind: str, subtype: str, message: str, tmp_path: Path) -> None:
    """And not taken for a shorter note, which would be filled up with silence."""
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, np.tile(tone(), 8), RATE, subtype=subtype)
    content = path.read_bytes()
    convert_note(content, RATE, 8 * LENGTH)
    for kept in (len(content) * 3 // 4, len(content) - 1):
        with pytest.raises(ValueError, match=message):
            convert_note(content[:kept], RATE, 8 * LENGTH)
    with pytest.raises(ValueError, match="not a readable file of sound"):
        convert_note(b"hello", RATE, LENGTH)


def test_a_split_reads_its_files_by_its_rule(tmp_path: Path) -> None:
    split = read_source(write(tmp_path, ROWS)).splits["train"]
    assert all(split.wave(entry, CONFIG).shape == (LENGTH,) for entry in split.entries)
    soundfile.write(tmp_path / split.entries[0].file, tone(8000), 8000)
    assert split.wave(split.entries[0], CONFIG).shape == (LENGTH,)
    (tmp_path / split.entries[0].file).unlink()
    with pytest.raises(FileNotFoundError):
        split.wave(split.entries[0], CONFIG)
    [gone] = [entry for entry in read_source(tmp_path).splits["train"].entries if entry.size is None]
    with pytest.raises(ValueError, match="there is no such file"):
        split.wave(gone, CONFIG)
