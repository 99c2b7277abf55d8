"""Shards of pictures from real wav files."""

import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch

from mars_dist import pictures, s3
from mars_dist.audio import read_note
from mars_dist.cmx import multiplex
from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import shard_bytes
from mars_dist.pictures import Made, estimate_bytes, find_made, make_shard, plan, read_pictures
from mars_dist.sources.archive import filled
from mars_dist.sources.read import read_source
from mars_dist.sources.source import Split
from mars_dist.spectrogram import picture_from_wave
from mars_dist.storage import Folder

from .storage.faulty import Fault, FaultyProxy

BAD = {
    "not a wav file": lambda wav: wav.write_text("hello"),
    "empty": lambda wav: wav.write_bytes(b""),
    "truncated": lambda wav: os.truncate(wav, 3000),
    "2 channels": lambda wav: soundfile.write(wav, np.zeros((2000, 2)), 16_000),
    "22050 Hz": lambda wav: soundfile.write(wav, np.zeros(2000), 22_050),
    "1999 samples": lambda wav: soundfile.write(wav, np.zeros(1999), 16_000),
    "NaN": lambda wav: soundfile.write(wav, np.full(2000, np.nan), 16_000, subtype="FLOAT"),
    "cannot be read": Path.unlink,
}


@pytest.fixture
def train(short_notes: Path) -> Split:
    return read_source(short_notes).splits["train"]


def wav(split: Split, i: int) -> Path:
    """The file of an entry."""
    return Path(split.folder.at(split.entries[i].file))


def test_every_note_is_in_one_shard(short_notes: Path) -> None:
    splits = read_source(short_notes).splits
    jobs = plan(splits.values(), shard_rows=5)
    assert [job.shard for job in jobs] == [
        *[f"train-{i:05d}.parquet" for i in range(3)],
        "valid-00000.parquet",
        "test-00000.parquet",
    ]
    assert [note for job in jobs for note in job.part.entries] == [note for s in splits.values() for note in s.entries]


def test_a_row_is_the_notes_picture_and_its_labels(train: Split, short: SpectrogramConfig) -> None:
    columns, rejected = read_pictures(train, short)
    assert not rejected
    for i, note in enumerate(train.notes):
        wave_T = torch.from_numpy(read_note(wav(train, i).read_bytes(), short.sample_rate, short.num_samples))
        expected_1CHW = multiplex(picture_from_wave(wave_T[None], short), short.cmx).half()
        assert (columns["picture"][i] == expected_1CHW[0].numpy()).all()
        assert columns["note_str"][i] == note.note_str
        assert columns["pitch"][i] == columns["instrument"][i] == note.pitch
        assert columns["family"][i] == note.instrument_family
        assert columns["qualities"][i].tolist() == list(note.qualities)


@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_notes_at_once_change_nothing(
    at_once: int, train: Split, short: SpectrogramConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = read_pictures(train, short)
    monkeypatch.setattr(pictures, "NOTES_AT_ONCE", at_once)
    found, _ = read_pictures(train, short)
    assert (found["picture"] == expected["picture"]).all()


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_wav_is_left_out_with_its_reason(
    reason: str, short_notes: Path, train: Split, short: SpectrogramConfig
) -> None:
    expected, _ = read_pictures(train, short)
    harm: Callable[[Path], Any] = BAD[reason]
    harm(wav(train, 4))
    columns, rejected = read_pictures(read_source(short_notes).splits["train"], short)
    assert [note.note_str for note in rejected] == [train.notes[4].note_str]
    assert reason in rejected[0].reason
    assert train.folder.path not in rejected[0].reason
    for name, values in expected.items():
        assert (columns[name] == np.delete(values, 4, axis=0)).all()


AWAY: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gone": (Path.unlink, "No such file or directory"),
    "a folder": (lambda wav: (wav.unlink(), wav.mkdir()), "Is a directory"),
    "a loop": (lambda wav: (wav.unlink(), wav.symlink_to(wav)), "Too many levels of symbolic links"),
}


@pytest.mark.parametrize("how", AWAY)
def test_a_wav_that_was_found_and_cannot_be_read_is_not_left_out(
    how: str, train: Split, short: SpectrogramConfig, tmp_path: Path
) -> None:
    """It may be back in the next run, which keeps a shard of the same labels and sizes."""
    take_away, reason = AWAY[how]
    take_away(wav(train, 4))
    expected = f"{wav(train, 4)}: cannot be read ({reason}): mend it and run the same command again, "
    for work in (
        lambda: estimate_bytes([train], short),
        lambda: make_shard(plan([train], shard_rows=8)[0], Folder.open(tmp_path / "out"), short),
    ):
        with pytest.raises(ValueError, match=re.escape(expected)):
            work()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("packed", [False, True], ids=["a folder", "an archive"])
@pytest.mark.parametrize(("reason", "tried"), [("cannot be read", 2), ("empty", 16)], ids=["missing", "damaged"])
def test_the_room_is_that_of_the_notes_that_can_be_used(
    reason: str,
    tried: int,
    packed: bool,
    short_notes: Path,
    train: Split,
    short: SpectrogramConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A quarter of all."""
    monkeypatch.setattr(pictures, "NOTES_TRIED", tried)
    for i in range(12):
        if i % 4:
            BAD[reason](wav(train, i))
    source = short_notes
    if packed:
        source = tmp_path / "notes.tar"
        with tarfile.open(source, "w") as archived:
            archived.add(short_notes / "nsynth-train", "nsynth-train")
    split = read_source(source).splits["train"]
    columns, _ = read_pictures(next(filled([split]))[1] if packed else split, short)
    assert len(columns["picture"]) == 3
    taken = shard_bytes(columns, {}).size
    assert 0.7 * taken < estimate_bytes([split], short) < 1.4 * taken


class Counting(FaultyProxy):
    """It lets requests wait, and counts those that wait together."""

    now = most = 0

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        sleep(0.05)
        with self.lock:
            self.now -= 1
        super().answer(request)


def test_files_in_s3_are_read_together_and_are_the_same_notes(
    train: Split, short: SpectrogramConfig, bucket: str, s3_server: str
) -> None:
    wav(train, 4).write_text("hello")
    os.truncate(wav(train, 7), 3000)
    home = Folder.open(bucket)
    for entry in train.entries:
        home.sub(str(Path(entry.file).parent)).send(Path(train.folder.at(entry.file)))
    expected, rejected = read_pictures(train, short)
    assert len(rejected) == 2
    proxy = Counting(s3_server)
    in_s3 = replace(train, folder=Folder.open(bucket.replace(s3_server, proxy.address)))
    found, rejected_in_s3 = read_pictures(in_s3, short)
    assert 1 < proxy.most <= in_s3.folder.at_once
    assert rejected_in_s3 == rejected and found.keys() == expected.keys()
    assert all((found[name] == values).all() for name, values in expected.items())

    proxy.close()


def test_from_s3_the_next_notes_are_read_while_these_are_worked_on(
    train: Split, short: SpectrogramConfig, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, asked = Folder.open(bucket), list[str]()
    for entry in train.entries:
        home.sub("audio").send(Path(train.folder.at(entry.file)))

    read = s3.S3Folder.read

    def note_and_read(self: s3.S3Folder, file: str) -> bytes:
        asked.append(file)
        return read(self, file)

    def work(wave_BT: torch.Tensor, config: SpectrogramConfig) -> torch.Tensor:
        deadline = monotonic() + 10
        while len(asked) < home.at_once:
            assert monotonic() < deadline, asked
            sleep(0.01)
        return picture_from_wave(wave_BT, config)

    monkeypatch.setattr(s3.S3Folder, "read", note_and_read)
    monkeypatch.setattr(pictures, "picture_from_wave", work)
    monkeypatch.setattr(pictures, "NOTES_AT_ONCE", 2)
    columns, _ = read_pictures(replace(train, folder=home), short)
    assert columns["note_str"].tolist() == [entry.note.note_str for entry in train.entries]


@pytest.mark.parametrize("fault", ["403", "500", "silence", "cut download", "gone", "down"])
def test_a_store_that_is_away_is_no_reason_to_leave_out_a_note(
    fault: str, train: Split, short: SpectrogramConfig, bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    monkeypatch.setattr(s3, "ANSWER_SECONDS", 1)
    home, file = Folder.open(bucket), train.entries[4].file
    for i in range(len(train.entries)):
        home.sub("audio").send(wav(train, i))
    proxy = FaultyProxy(s3_server)
    in_s3 = replace(train, folder=Folder.open(bucket.replace(s3_server, proxy.address)))
    if fault == "gone":
        home.delete(file)
    elif fault == "down":
        proxy.close()
    else:
        proxy.meant = lambda method, path: method == "GET" and path.endswith(file)
        proxy.faults = [cast(Fault, fault)] * 9
    with pytest.raises(ValueError, match=r"^s3://bucket/folder/audio/\S+\.wav\?\S+: cannot be read \(.*\): mend it"):
        read_pictures(in_s3, short)
    proxy.close()


def test_a_shard_is_made_once(short_notes: Path, short: SpectrogramConfig, tmp_path: Path) -> None:
    folder = Folder.open(tmp_path / "out")
    wav(read_source(short_notes).splits["train"], 0).unlink()
    jobs = plan(read_source(short_notes).splits.values(), shard_rows=8)
    assert find_made(jobs, folder, short) == []
    made = make_shard(jobs[0], folder, short)
    assert (made.shard.rows, len(made.rejected)) == (7, 1)
    assert [replace(one, peak_bytes=made.peak_bytes) for one in find_made(jobs, folder, short)] == [made]


def test_a_shard_of_other_notes_or_settings_is_made_again(
    short_notes: Path, short: SpectrogramConfig, tmp_path: Path
) -> None:
    folder = Folder.open(tmp_path / "out")

    def found(config: SpectrogramConfig = short) -> list[Made]:
        return find_made(plan(read_source(short_notes).splits.values(), shard_rows=8), folder, config)

    jobs = plan(read_source(short_notes).splits.values(), shard_rows=8)
    make_shard(jobs[0], folder, short)
    assert len(found()) == 1 and not found(replace(short, hop=100, num_samples=1600))
    examples = short_notes / "nsynth-train" / "examples.json"
    before = examples.read_text()
    examples.write_text(before.replace('"velocity": 100', '"velocity": 101'))
    assert not found()
    examples.write_text(before)
    assert len(found()) == 1
    wav(jobs[0].part, 0).write_text("not the sound that it was")
    assert not found()


def test_a_shard_of_a_note_that_was_mended_is_made_again(
    train: Split, short: SpectrogramConfig, tmp_path: Path
) -> None:
    folder, jobs = Folder.open(tmp_path / "out"), plan([train], shard_rows=8)
    whole = wav(train, 4).read_bytes()
    wav(train, 4).write_bytes(b"X" + whole[1:])
    assert len(make_shard(jobs[0], folder, short).rejected) == 1
    assert len(find_made(jobs, folder, short)) == 1
    wav(train, 4).write_bytes(whole)
    assert not find_made(jobs, folder, short)
    assert not make_shard(jobs[0], folder, short).rejected
    assert len(find_made(jobs, folder, short)) == 1


@pytest.mark.parametrize("damage", [Path.unlink, lambda shard: os.truncate(shard, 2000)], ids=["missing", "truncated"])
def test_a_damaged_shard_is_made_again(
    damage: Callable[[Path], Any], short_notes: Path, short: SpectrogramConfig, tmp_path: Path
) -> None:
    folder = Folder.open(tmp_path / "out")
    jobs = plan(read_source(short_notes).splits.values(), shard_rows=8)
    make_shard(jobs[0], folder, short)
    damage(tmp_path / "out" / jobs[0].shard)
    assert not find_made(jobs, folder, short)


def test_a_shard_without_rows_is_not_written(short_notes: Path, short: SpectrogramConfig, tmp_path: Path) -> None:
    folder = Folder.open(tmp_path / "out")
    for i in range(8):
        wav(read_source(short_notes).splits["train"], i).unlink()
    job = plan(read_source(short_notes).splits.values(), shard_rows=8)[0]
    assert make_shard(job, folder, short).shard.rows == 0
    assert not folder.list()
