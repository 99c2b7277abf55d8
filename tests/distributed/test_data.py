"""Preprocessing over a real Ray runtime."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from time import sleep
from weakref import ReferenceType, ref

import numpy as np
import psutil
import pytest
import soundfile

from mars_dist.codes import encode_here
from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import MANIFEST, DatasetInfo, Shard, write_shard
from mars_dist.distributed import cluster, data
from mars_dist.distributed.cluster import over_cluster
from mars_dist.distributed.data import encode, finish, preprocess
from mars_dist.lease import LEASE, sole_writer
from mars_dist.memory import MALLOC_CONF
from mars_dist.nsynth import Note
from mars_dist.pictures import estimate_bytes
from mars_dist.rows import Rows
from mars_dist.sources.read import read_source
from mars_dist.sources.source import Source
from mars_dist.storage import Folder, LocalFolder
from mars_dist.training.plan import Plan

from ..storage.faulty import FaultyProxy


class Lines(list[str]):
    """Collects what is said."""

    def __call__(self, line: str) -> None:
        self.append(line)


def test_workers_have_our_allocator() -> None:
    assert list(over_cluster(os.environ.get, ["MALLOC_CONF"])) == [MALLOC_CONF]
    [libraries] = over_cluster(Path.read_text, [Path("/proc/self/maps")])
    assert "libjemalloc.so" in libraries


def test_work_that_is_lost_again_and_again_ends_in_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a machine has too little memory for it. Ray Data has tracebacks to tell besides."""
    monkeypatch.setattr(cluster, "MOST_LOSSES", 1)
    monkeypatch.setattr(logging.getLogger("ray.data"), "handlers", [caplog.handler])

    def lose(number: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ValueError, match=r"was lost 2 times with its process or machine: has each machine the memory"):
        list(over_cluster(lose, [0]))
    assert not caplog.text


def test_work_that_ray_ends_for_want_of_memory_is_not_begun_anew_for_ever() -> None:
    """Which Ray counts apart from other losses, by a setting of the process that asks."""
    assert ("RAY_task_oom_retries", str(cluster.MOST_LOSSES)) in os.environ.items()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def spoil(source: Path) -> dict[str, str]:
    """Harm three notes of the train split; their names and the reasons."""
    missing, stereo, text = (wav(source, i) for i in (1, 6, 7))
    missing.unlink()
    soundfile.write(stereo, [[0.0, 0.0]] * 2000, 16_000)
    text.write_text("hello")
    return {missing.stem: "cannot be read", stereo.stem: "2 channels", text.stem: "not a wav file"}


def pack(source: Path, folder: Path) -> Path:
    """The archives of a source's splits."""
    folder.mkdir()
    for split in source.glob("nsynth-*"):
        with tarfile.open(folder / f"{split.name}.jsonwav.tar.gz", "w:gz") as packed:
            packed.add(split, split.name)
    return folder


def wav(source: Path, i: int) -> Path:
    """Of a note of the train split."""
    train = read_source(source).splits["train"]
    return Path(train.folder.at(train.entries[i].file))


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
    notes = [note.note_str for note in read_source(short_notes).splits["train"].notes]
    assert rows["note_str"].tolist() == [name for name in notes if name not in spoiled]
    assert any("shards 5/5 (0 kept) | notes 19/19" in line for line in lines)
    assert sum(line.startswith("rejected ") for line in lines) == 3

    # A second run has nothing to do; a run that was broken off goes on, to the same bytes.
    before = contents(out)
    lines.clear()
    assert preprocess(short_notes, out, short, shard_rows=5, progress=lines) == info
    assert lines == [
        f"{out}: finished already, 9 train, 4 valid, 3 test, 3 rejected (if one is mended now, delete {MANIFEST}): "
        "nothing to do"
    ]
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


def test_of_what_lies_in_the_folder_only_shards_are_deleted(tmp_path: Path) -> None:
    """Somebody's own files, and what a run that was broken off has left."""
    folder, shard = Folder.open(tmp_path), Shard("train-00000.parquet", "train", 3, "x")
    own = {"embeddings.parquet", "train.parquet", "film.mp4.part", ".hidden"}
    for name in (*own, "valid-00007.parquet", ".valid-00007.parquet.0123.part"):
        (tmp_path / name).touch()
    write_shard(folder, shard.name, {"pitch": np.arange(3)}, {"fingerprint": "x"})
    finish(folder, DatasetInfo("pictures", SpectrogramConfig(), (), (shard,), source="s"), lambda: None)
    assert folder.list() == own | {shard.name, MANIFEST}


def test_a_bucket_gets_the_same_bytes(
    short_notes: Path, short: SpectrogramConfig, trained_tokenizer: Plan, bucket: str, tmp_path: Path
) -> None:
    """Pictures and codes, through workers; what is there already is kept."""
    elsewhere = bucket.replace("/folder", "/codes")
    for pictures, codes in ((str(tmp_path / "pictures"), str(tmp_path / "codes")), (bucket, elsewhere)):
        preprocess(short_notes, pictures, short, shard_rows=5, progress=Lines())
        encode(pictures, trained_tokenizer.folder, codes, progress=Lines())
    for local, remote in (("pictures", bucket), ("codes", elsewhere)):
        folder = Folder.open(remote)
        assert {name: folder.read(name) for name in folder.list()} == contents(tmp_path / local)
    lines, folder = Lines(), Folder.open(bucket)
    for name in (MANIFEST, "train-00001.parquet"):
        folder.delete(name)
    preprocess(short_notes, bucket, short, shard_rows=5, progress=lines)
    assert any("shards 5/5 (4 kept)" in line for line in lines)
    assert {name: folder.read(name) for name in folder.list()} == contents(tmp_path / "pictures")


def test_codes_that_are_damaged_are_made_again_as_is_told(
    trained_tokenizer: Plan, short_pictures: str, tmp_path: Path
) -> None:
    """The shard that was deleted alone, where dataset.json stands already."""
    out, lines = tmp_path / "codes", Lines()
    info = encode(short_pictures, trained_tokenizer.folder, str(out), progress=lines)
    before, shard = contents(out), info.shards[0].name
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet") if path.name != shard}
    (out / shard).write_bytes(before[shard][:-1])
    with pytest.raises(ValueError, match=f"{shard}: cannot be read .*: delete it and run the command that makes"):
        Rows(out, "train").read(["codes"])
    (out / shard).unlink()
    assert encode(short_pictures, trained_tokenizer.folder, str(out), progress=lines) == info
    assert contents(out) == before and {path: path.stat().st_mtime_ns for path in kept} == kept
    lines.clear()
    assert encode(short_pictures, trained_tokenizer.folder, str(out), progress=lines) == info
    assert lines == [f"{out}: finished already, 12 train, 4 valid, 3 test: nothing to do"]


def test_a_note_that_was_mended_gets_its_picture_and_its_codes(
    trained_tokenizer: Plan, short_notes: Path, short: SpectrogramConfig, tmp_path: Path
) -> None:
    """Copied again it has the size it had, by which shards are known."""
    pictures, out = tmp_path / "pictures", tmp_path / "codes"
    mended = wav(short_notes, 1)
    whole = mended.read_bytes()
    mended.write_bytes(b"X" + whole[1:])
    for num_train in (11, 12):
        counts = preprocess(short_notes, pictures, short).counts
        assert counts["train"] == num_train
        encode_here(str(pictures), trained_tokenizer.folder, out)
        assert DatasetInfo.load(Folder.open(out)).counts == counts
        assert len(Rows(out, "train").read(["codes"])["codes"]) == num_train
        mended.write_bytes(whole)
        (pictures / MANIFEST).unlink()


@pytest.mark.parametrize("command", ["preprocess", "encode"])
def test_a_folder_has_one_writer(
    command: str,
    short_notes: Path,
    short: SpectrogramConfig,
    trained_tokenizer: Plan,
    short_pictures: str,
    tmp_path: Path,
) -> None:
    run = {
        "preprocess": lambda: preprocess(short_notes, tmp_path / "out", short, progress=Lines()),
        "encode": lambda: encode(short_pictures, trained_tokenizer.folder, str(tmp_path / "out"), progress=Lines()),
    }[command]
    with (
        sole_writer(Folder.open(tmp_path / "out"), print),
        pytest.raises(ValueError, match=r"out: another run writes here \(process \d+ on .*: wait for it, or choose"),
    ):
        run()
    assert not list((tmp_path / "out").iterdir())
    run()
    assert LEASE not in contents(tmp_path / "out") and MANIFEST in contents(tmp_path / "out")


def test_a_source_that_changes_meanwhile_is_refused(
    short_notes: Path, short: SpectrogramConfig, tmp_path: Path
) -> None:
    """A note is replaced once its shard is made."""
    note = wav(short_notes, 0)

    def say(line: str) -> None:
        if line.startswith("shards"):
            soundfile.write(note, [0.0] * 1000, 16_000)

    with pytest.raises(ValueError, match="notes: has changed while it was read: run the same command again"):
        preprocess(short_notes, tmp_path / "out", short, shard_rows=5, progress=say)
    assert MANIFEST not in contents(tmp_path / "out")
    lines = Lines()
    info = preprocess(short_notes, tmp_path / "out", short, shard_rows=5, progress=lines)
    assert [note.reason[:12] for note in info.rejected] == ["1000 samples"]
    assert any("shards 5/5 (4 kept)" in line for line in lines)


def test_labels_are_let_go_before_they_are_read_again(
    short_notes: Path, short: SpectrogramConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten million notes they are 15 GB."""
    read, held = list[ReferenceType[Note]](), list[int]()

    def read_here(name: str) -> Source:
        held.append(sum(note() is not None for note in read))
        source = read_source(name)
        read.extend(ref(entry.note) for entry in source.splits["train"].entries)
        return source

    monkeypatch.setattr(data, "read_source", read_here)
    preprocess(short_notes, tmp_path / "out", short, progress=lambda line: None)
    assert held == [0, 0]


@pytest.mark.parametrize("packed", [False, True], ids=["a folder", "archives"])
def test_a_store_that_is_away_for_a_while_costs_no_note(
    packed: bool, short_notes: Path, short: SpectrogramConfig, bucket: str, s3_server: str, tmp_path: Path
) -> None:
    """Its token expires while the workers read the notes of a split; the next run has another one."""
    notes, proxy, expected, out = Folder.open(bucket), FaultyProxy(s3_server), tmp_path / "expected", tmp_path / "out"
    home = pack(short_notes, tmp_path / "archives") if packed else short_notes
    for path in home.rglob("*.*"):
        notes.sub(str(path.parent.relative_to(home))).send(path)
    source = bucket.replace(s3_server, proxy.address)
    preprocess(source, expected, short, shard_rows=5, progress=Lines())

    def expire(line: str) -> None:
        if "takes about" in line:
            proxy.meant = lambda method, path: "valid" in path.partition("?")[0]
            proxy.faults = ["403"]

    with pytest.raises(ValueError, match=r"^s3://bucket/folder/nsynth-valid.*: cannot be read \(.*ACCESS_DENIED"):
        preprocess(source, out, short, shard_rows=5, progress=expire)
    assert MANIFEST not in contents(out)
    proxy.faults = []
    info = preprocess(source, out, short, shard_rows=5, progress=Lines())
    assert not info.rejected and contents(out) == contents(expected)
    proxy.close()


def test_a_disk_that_is_unmounted_for_a_while_costs_no_note(
    short_notes: Path, short: SpectrogramConfig, tmp_path: Path
) -> None:
    """What was found and then is not there is no missing note."""
    away = tmp_path / "away"

    def unmount(line: str) -> None:
        if "takes about" in line:
            short_notes.rename(away)

    with pytest.raises(ValueError, match=rf"^{short_notes}/nsynth-.*\.wav: cannot be read \(No such file"):
        preprocess(short_notes, tmp_path / "out", short, shard_rows=5, progress=unmount)
    away.rename(short_notes)
    info = preprocess(short_notes, tmp_path / "out", short, shard_rows=5, progress=Lines())
    assert not info.rejected and info.counts == {"train": 12, "valid": 4, "test": 3}


def test_a_worker_that_is_killed_costs_nothing(short_notes: Path, short: SpectrogramConfig, tmp_path: Path) -> None:
    """Once the first shard is there; Ray starts another worker for what this one had."""
    expected, out, killed = tmp_path / "expected", tmp_path / "out", list[int]()
    preprocess(short_notes, expected, short, shard_rows=1, progress=Lines())

    def kill() -> None:
        wait_for_shards(out)
        workers: list[psutil.Process] = []
        while not workers:
            workers = [child for child in psutil.Process().children(recursive=True) if is_working(child)]
        workers[0].kill()
        killed.append(workers[0].pid)

    killer = Thread(target=kill, daemon=True)
    killer.start()
    preprocess(short_notes, out, short, shard_rows=1, progress=Lines())
    killer.join(timeout=10)
    assert killed and contents(out) == contents(expected)


def test_a_driver_that_is_killed_costs_nothing(short_notes: Path, short: SpectrogramConfig, tmp_path: Path) -> None:
    """Once the first shard is there; the next run, though at once, keeps what it made."""
    expected, out, lines = tmp_path / "expected", tmp_path / "out", Lines()
    preprocess(short_notes, expected, short, shard_rows=1, progress=lines)
    settings = [f"--spectrogram.{name}={getattr(short, name)}" for name in ("num_samples", "n_fft", "hop", "cmx")]
    words = ["preprocess", "debug", f"--source={short_notes}", f"--out={out}", "--shard-rows=1", *settings]
    driver = subprocess.Popen([sys.executable, "-c", "from mars_dist.cli import main; main()", *words])
    wait_for_shards(out)
    driver.kill()
    driver.wait()
    assert LEASE in contents(out) and MANIFEST not in contents(out)
    preprocess(short_notes, out, short, shard_rows=1, progress=lines)
    [kept] = [re.findall(r"shards 19/19 \((\d+) kept\)", line) for line in lines[-2:-1]]
    assert int(kept[0]) > 0 and contents(out) == contents(expected)


def wait_for_shards(folder: Path) -> None:
    while not list(folder.glob("*.parquet")):
        sleep(0.002)


def is_working(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.cmdline()[0].startswith("ray::MapBatches")
    return False


def test_a_shard_that_another_wrote_meanwhile_is_refused(
    short_notes: Path, short: SpectrogramConfig, tmp_path: Path
) -> None:
    """As a worker of a killed run may, which had other settings."""
    other = preprocess(short_notes, tmp_path / "other", replace(short, hop=100), shard_rows=5, progress=Lines())
    shard = other.shards[0].name

    def say(line: str) -> None:
        if line.startswith("shards"):
            shutil.copy(tmp_path / "other" / shard, tmp_path / "out" / shard)

    with pytest.raises(ValueError, match=f"out/{shard}: has changed since it was made"):
        preprocess(short_notes, tmp_path / "out", short, shard_rows=5, progress=say)
    assert MANIFEST not in contents(tmp_path / "out")


def test_the_room_that_is_needed_is_told_and_must_be_there(
    short_notes: Path, short: SpectrogramConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = Lines()
    preprocess(short_notes, tmp_path / "out", short, shard_rows=5, progress=lines)
    assert lines[0].startswith(f"{tmp_path}/out: takes about 0.00 GiB, ") and lines[0].endswith("GiB are free")
    taken = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.parquet"))
    estimated = estimate_bytes(read_source(short_notes).splits.values(), short)
    assert 0.5 * taken < estimated < 1.5 * taken
    monkeypatch.setattr(LocalFolder, "free_bytes", lambda self: taken // 2)
    with pytest.raises(ValueError, match=r"are still to be written, 0\.0 GiB are free: free some, or choose another"):
        preprocess(short_notes, tmp_path / "full", short, shard_rows=5, progress=Lines())
    (tmp_path / "out" / "valid-00000.parquet").unlink()
    preprocess(short_notes, tmp_path / "out", short, shard_rows=5, progress=Lines())  # one shard fits


def test_archives_become_the_rows_that_the_folder_becomes(
    short_notes: Path, short: SpectrogramConfig, tmp_path: Path
) -> None:
    """Streamed to the workers; the last shards, which are missing, are made from a second pass."""
    spoil(short_notes)
    pack(short_notes, tmp_path / "archives")
    shutil.copytree(short_notes, tmp_path / "plain")
    shutil.rmtree(short_notes)
    plain = preprocess(tmp_path / "plain", tmp_path / "expected", short, shard_rows=5, progress=Lines())
    out = tmp_path / "out"
    archived = preprocess(tmp_path / "archives", out, short, shard_rows=5, progress=Lines())
    assert {(note.note_str, note.reason.split(" (")[0]) for note in archived.rejected} == {
        (note.note_str, note.reason.split(" (")[0]) for note in plain.rejected
    }
    for split in ("train", "valid", "test"):
        expected, found = (
            Rows(folder, split).read(["note_str", "picture", "pitch"]) for folder in (tmp_path / "expected", out)
        )
        order = np.argsort(found["note_str"])
        assert all((values[order] == expected[name]).all() for name, values in found.items())
    before, lines = contents(out), Lines()
    for name in (MANIFEST, "train-00001.parquet", "test-00000.parquet"):
        (out / name).unlink()
    assert preprocess(tmp_path / "archives", out, short, shard_rows=5, progress=lines) == archived
    assert any("shards 5/5 (3 kept)" in line for line in lines) and contents(out) == before


def test_any_audio_with_labels_becomes_a_data_set(short: SpectrogramConfig, tmp_path: Path) -> None:
    rows = []
    for i in range(12):
        rows.append({"file": f"{i}.flac", "pitch": 40 + i, "family": "reed", "split": "train" if i % 3 else "valid"})
        soundfile.write(
            tmp_path / f"{i}.flac", np.sin(np.arange(3000 + i) * 0.1 * (i + 1))[:, None] * [0.5, 0.3], 22_050
        )
    rows += [rows[0], {"file": "gone.wav", "pitch": 60, "family": "reed"}]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines, out = Lines(), tmp_path / "out"
    info = preprocess(tmp_path, out, short, progress=lines)
    assert info.counts == {"train": 8, "valid": 4} and len(info.rejected) == 2
    assert lines[-1].endswith("8 train, 4 valid from 14 notes, 2 rejected")
    assert any(line.startswith("rejected row 13 (labels.jsonl): file is '0.flac', the name") for line in lines)
    assert any(line.startswith("rejected gone.wav (train): cannot be read") for line in lines)
    assert np.ptp(Rows(out, "train").read(["picture"])["picture"], axis=(1, 2, 3)).min() > 0.5
    (tmp_path / "labels.jsonl").write_text('{"file": "0.flac", "pitch": 200, "family": "reed"}\n')
    with pytest.raises(ValueError, match="none of its 1 notes could be used, the first because: pitch is 200"):
        preprocess(tmp_path, tmp_path / "other", short, progress=lines)


def test_a_source_without_one_good_note_is_refused(short_notes: Path, short: SpectrogramConfig, tmp_path: Path) -> None:
    twice = replace(short, num_samples=4000)
    with pytest.raises(ValueError, match="none of its 19 notes could be used, the first because: 2000 samples"):
        preprocess(short_notes, tmp_path / "out", twice, progress=Lines())
    assert not list((tmp_path / "out").iterdir())


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
