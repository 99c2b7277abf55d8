"""Preprocessing over a real Ray runtime."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import MANIFEST, DatasetInfo, Folder, Rows
from mars_dist.distributed.data import preprocess
from mars_dist.nsynth import read_source


class Lines(list[str]):
    """Collects what is said."""

    def __call__(self, line: str) -> None:
        self.append(line)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def spoil(source: Path) -> dict[str, str]:
    """Harm three notes of the train split; their names and the reasons."""
    train = read_source(source)["train"]
    missing, stereo, text = (train.notes[i] for i in (1, 6, 7))
    train.wav(missing).unlink()
    soundfile.write(train.wav(stereo), [[0.0, 0.0]] * 2000, 16_000)
    train.wav(text).write_text("hello")
    return {
        missing.note_str: "cannot be read",
        stereo.note_str: "2 channels",
        text.note_str: "not a wav file",
    }


def test_notes_become_a_data_set(short_notes: Path, short: SpectrogramConfig, tmp_path: Path) -> None:
    spoiled, lines, out = spoil(short_notes), Lines(), tmp_path / "out"
    info = preprocess(short_notes, out, short, shard_rows=5, progress=lines)
    assert info == DatasetInfo.load(Folder.open(out))
    assert info.counts == {"train": 9, "valid": 4, "test": 3}
    assert [shard.split for shard in info.shards] == ["train", "train", "train", "valid", "test"]
    assert {note.note_str for note in info.rejected} == set(spoiled)
    assert all(spoiled[note.note_str] in note.reason for note in info.rejected)
    rows = Rows(out, "train").read(["note_str", "picture"])
    assert rows["picture"].shape == (9, *short.picture_shape)
    notes = [note.note_str for note in read_source(short_notes)["train"].notes]
    assert rows["note_str"].tolist() == [name for name in notes if name not in spoiled]
    assert any("shards 5/5 (0 kept) | notes 19/19" in line for line in lines)
    assert sum(line.startswith("rejected ") for line in lines) == 3

    # A second run has nothing to do; a run that was broken off goes on, to the same bytes.
    before = contents(out)
    lines.clear()
    assert preprocess(short_notes, out, short, shard_rows=5, progress=lines) == info
    assert lines == [f"{out}: finished already, 9 train, 4 valid, 3 test: nothing to do"]
    for name in (MANIFEST, "train-00001.parquet"):
        (out / name).unlink()
    (out / ".train-00001.parquet.0123.part").write_text("half a shard")
    (out / "train-00007.parquet").write_text("of another cut")
    assert preprocess(short_notes, out, short, shard_rows=5, progress=lines) == info
    assert any("shards 5/5 (4 kept)" in line for line in lines)
    assert contents(out) == before

    # A finished data set that lost a shard gets it back.
    (out / "valid-00000.parquet").unlink()
    preprocess(short_notes, out, short, shard_rows=5, progress=lines)
    assert contents(out) == before

    with pytest.raises(ValueError, match=r"spectrogram\.hop: 100 is asked for, the data set was made with 125"):
        preprocess(short_notes, out, replace(short, hop=100), progress=lines)
    examples = short_notes / "nsynth-test" / "examples.json"
    examples.write_text(examples.read_text().replace('"velocity": 100', '"velocity": 75'))
    with pytest.raises(ValueError, match="other notes than --source has now: choose another --out"):
        preprocess(short_notes, out, short, progress=lines)
    assert contents(out) == before


def test_a_source_without_one_good_note_is_refused(short_notes: Path, short: SpectrogramConfig, tmp_path: Path) -> None:
    twice = replace(short, num_samples=4000)
    with pytest.raises(ValueError, match="none of its 19 notes could be used, the first because: 2000 samples"):
        preprocess(short_notes, tmp_path / "out", twice, progress=Lines())
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_line(
    short_notes: Path, short: SpectrogramConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/out: cannot be (read|written).*another --out") as raised:
        preprocess(short_notes, tmp_path / "file" / "out", short, progress=Lines())
    assert "\n" not in str(raised.value)


def test_a_disk_that_refuses_a_shard_is_one_line(short_notes: Path, short: SpectrogramConfig, tmp_path: Path) -> None:
    (tmp_path / "out" / "train-00000.parquet").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"out: cannot be written .*the same command again") as raised:
        preprocess(short_notes, tmp_path / "out", short, shard_rows=5, progress=Lines())
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_rendered_notes_keep_their_notice(short_notes: Path, short: SpectrogramConfig, tmp_path: Path) -> None:
    settings = {"soundfont": "some.sf2", "soundfont_sha256": "0123"}
    (short_notes / "notes.json").write_text(json.dumps({"what": "not NSynth", "settings": settings}))
    info = preprocess(short_notes, tmp_path / "out", short, progress=Lines())
    assert info.notice == "not NSynth (some.sf2, sha256 0123)"
