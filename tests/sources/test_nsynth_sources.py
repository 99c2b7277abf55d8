"""Sources in NSynth's format: folders, and the archives in which it is published."""

import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mars_dist.audio import write_wav
from mars_dist.sources import archive
from mars_dist.sources.archive import filled
from mars_dist.sources.read import read_source
from mars_dist.sources.source import Split, fingerprint
from mars_dist.storage import Folder

from ..storage.faulty import FaultyProxy

ENTRY = {
    "note": 278915,
    "sample_rate": 16000,
    "instrument_family": 3,
    "qualities": [0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    "instrument_str": "guitar_acoustic_010",
    "pitch": 66,
    "instrument": 10,
    "instrument_source": 0,
    "velocity": 100,
}


def entry(**changes: Any) -> dict[str, Any]:
    return ENTRY | changes


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


def test_splits_are_read_in_order_whatever_the_files(source: Path) -> None:
    splits = read_source(source).splits
    assert list(splits) == ["train", "valid", "test"]
    assert [note.note_str for note in splits["test"].notes] == ["test-a", "test-b"]
    first = splits["test"].entries[0]
    path = source / "nsynth-test" / "audio" / "test-a.wav"
    assert splits["test"].folder.at(first.file) == str(path) and first.size == path.stat().st_size


def test_one_split_is_enough_and_so_is_a_split_itself(source: Path) -> None:
    alone = read_source(source / "nsynth-valid")
    shutil.rmtree(source / "nsynth-train")
    shutil.rmtree(source / "nsynth-test")
    assert alone == read_source(source)
    (source / "nsynth-valid").rename(source / "recordings")
    assert list(read_source(source / "recordings").splits) == ["train"]


@pytest.mark.parametrize("way", [".", "audio/..", "../nsynth-valid"])
def test_a_split_is_known_however_it_is_come_to(source: Path, way: str) -> None:
    assert list(read_source(source / "nsynth-valid" / way).splits) == ["valid"]
    assert list(read_source(f"{source}/nsynth-valid/{way}/").splits) == ["valid"]


def test_a_missing_wav_is_left_to_the_reader(source: Path) -> None:
    (source / "nsynth-test" / "audio" / "test-a.wav").unlink()
    assert [entry.size for entry in read_source(source).splits["test"].entries] == [None, 60]


def test_folders_without_notes_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}/gone: no such folder"):
        read_source(tmp_path / "gone")
    (tmp_path / "something").touch()
    with pytest.raises(ValueError, match="must hold nsynth-train/, nsynth-valid/, nsynth-test/ or"):
        read_source(tmp_path)
    with pytest.raises(ValueError, match=r"something: cannot be read \(.*it must be a folder, or .*\.tar\.gz, .*\.csv"):
        read_source(tmp_path / "something")


def test_a_split_that_lacks_a_part_is_refused_by_name(source: Path) -> None:
    shutil.rmtree(source / "nsynth-test" / "audio")
    with pytest.raises(ValueError, match="nsynth-test: no audio: a split holds"):
        read_source(source)
    (source / "nsynth-valid" / "examples.json").unlink()
    with pytest.raises(ValueError, match=r"nsynth-valid: no examples\.json"):
        read_source(source)


def test_the_fingerprint_follows_the_notes_and_not_the_place(source: Path, tmp_path_factory: Any) -> None:
    def now(folder: Path = source) -> str:
        return fingerprint(read_source(folder))

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


# ---- archives


def pack(source: Path, path: Path, *names: str) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name in names:
            packed.add(source / name, name)
    return path


@pytest.fixture
def packed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three archives, as they are published."""
    folder = tmp_path_factory.mktemp("packed")
    for i, name in enumerate(("train", "valid", "test")):
        for j, wav in enumerate(sorted((source / f"nsynth-{name}" / "audio").iterdir())):
            write_wav(wav, np.full(8, 0.1 * i + 0.01 * j, np.float32), 16_000)
        pack(source, folder / f"nsynth-{name}.jsonwav.tar.gz", f"nsynth-{name}")
    return folder


def contents(split: Split) -> dict[str, bytes | None]:
    return {entry.file.removeprefix("audio/"): entry.content for entry in split.entries}


def test_archives_hold_what_the_folder_holds(source: Path, packed: Path) -> None:
    plain, archived = read_source(source), read_source(packed)
    assert list(archived.splits) == list(plain.splits)
    for name, split in archived.splits.items():
        assert {entry.note for entry in split.entries} == {entry.note for entry in plain.splits[name].entries}
        [(place, whole)] = filled([split])
        audio = source / f"nsynth-{name}" / "audio"
        assert place == 0 and contents(whole) == {path.name: path.read_bytes() for path in audio.iterdir()}
    alone = read_source(packed / "nsynth-valid.jsonwav.tar.gz")
    assert alone.splits == {"valid": archived.splits["valid"]}


@pytest.mark.parametrize("rows", [1, 2])
def test_parts_come_one_by_one_each_whole(packed: Path, rows: int) -> None:
    split = read_source(packed).splits["train"]
    parts = [split.cut(start, start + rows) for start in range(0, 2, rows)]
    found = list(filled(parts))
    assert [place for place, _ in found] == list(range(len(parts)))
    assert [entry.note for _, part in found for entry in part.entries] == list(split.notes)
    assert all(entry.content for _, part in found for entry in part.entries)


def test_splits_may_lie_mixed_in_one_archive(source: Path, tmp_path: Path) -> None:
    names = [f"nsynth-{split}/{rest}" for rest in ("audio", "examples.json") for split in ("test", "train", "valid")]
    splits = read_source(pack(source, tmp_path / "all.tgz", *names)).splits
    assert list(splits) == ["train", "valid", "test"]
    found = dict(filled(list(splits.values())))
    assert {name: found[i].entries[0].note.note_str for i, name in enumerate(splits)} == {
        "train": "train-a", "valid": "valid-a", "test": "test-a"
    }  # fmt: skip


def test_a_note_without_its_wav_comes_last_and_without_content(source: Path, tmp_path: Path) -> None:
    (source / "nsynth-test" / "audio" / "test-a.wav").unlink()
    split = read_source(pack(source, tmp_path / "one.tar.gz", "nsynth-test")).splits["test"]
    assert [(entry.note.note_str, entry.size) for entry in split.entries] == [("test-b", 60), ("test-a", None)]
    [(_, whole)] = filled([split])
    assert [entry.content is None for entry in whole.entries] == [False, True]
    [(_, whole)] = filled([split.cut(1, 2)])
    assert whole.entries[0].content is None


def add(packed: tarfile.TarFile, name: str, content: bytes = b"", **header: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in header.items():
        setattr(info, key, value)
    packed.addfile(info, io.BytesIO(content))


def test_names_that_lead_elsewhere_and_links_are_passed_over(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.tar.gz"
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"secret")
    with tarfile.open(path, "w:gz") as packed:
        for name in (
            "../escaped.wav",
            "/etc/passwd",
            "nsynth-test/audio/../../escaped.wav",
            "nsynth-test/audio/a/b.wav",
        ):
            add(packed, name, b"escaped")
        add(packed, "nsynth-test/audio/test-a.wav", type=tarfile.SYMTYPE, linkname=str(secret))
        add(packed, "nsynth-test/audio/test-b.wav", type=tarfile.LNKTYPE, linkname=str(secret))
        add(packed, "nsynth-test/audio", type=tarfile.FIFOTYPE)
        packed.add(source / "nsynth-test" / "examples.json", "nsynth-test/examples.json")
    before = set(tmp_path.rglob("*"))
    split = read_source(path).splits["test"]
    assert [entry.size for entry in split.entries] == [None, None]
    assert [entry.content for _, part in filled([split]) for entry in part.entries] == [None, None]
    assert set(tmp_path.rglob("*")) == before


def test_the_first_of_two_files_with_one_name_counts(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        packed.add(source / "nsynth-test" / "examples.json", "nsynth-test/examples.json")
        add(packed, "nsynth-test/audio/test-a.wav", b"first")
        add(packed, "nsynth-test/audio/test-a.wav", b"second one")
    split = read_source(path).splits["test"]
    [(_, whole)] = filled([split])
    assert (whole.entries[0].size, whole.entries[0].content) == (5, b"first")


def test_what_is_too_large_is_not_read(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(source, tmp_path / "one.tar.gz", "nsynth-test")
    monkeypatch.setattr(archive, "LARGEST_SOUND", 59)
    assert [entry.size for entry in read_source(path).splits["test"].entries] == [None, None]
    monkeypatch.setattr(archive, "LARGEST_TABLE", 59)
    with pytest.raises(ValueError, match=r"one\.tar\.gz: holds no nsynth-train/examples\.json"):
        read_source(path)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "a flipped bit": lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    "another checksum": lambda content: content[:-8] + bytes([content[-8] ^ 1]) + content[-7:],
    "no archive": lambda content: b"hello",
    "empty": lambda content: b"",
    "no tar": lambda content: gzip.compress(b"hello"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_refused(damage: str, source: Path, tmp_path: Path) -> None:
    path = pack(source, tmp_path / "one.tar.gz", "nsynth-test")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=r"one\.tar\.gz: (damaged|holds no nsynth)") as refusal:
        read_source(path)
    assert "\n" not in str(refusal.value)


def test_a_plain_tar_that_is_cut_off_between_two_files_is_refused(source: Path, tmp_path: Path) -> None:
    """The notes behind the cut would be rejected, as if the archive had no file of theirs."""
    path = tmp_path / "one.tar"
    with tarfile.open(path, "w") as packed:
        for name in ("examples.json", "audio/test-a.wav", "audio/test-b.wav"):
            packed.add(source / "nsynth-test" / name, f"nsynth-test/{name}")
    assert [entry.size for entry in read_source(path).splits["test"].entries] == [60, 60]
    with tarfile.open(path) as packed:
        last = packed.getmember("nsynth-test/audio/test-b.wav").offset
    path.write_bytes(path.read_bytes()[:last])
    with pytest.raises(ValueError, match=r"one\.tar: damaged \(ends early\): copy it again"):
        read_source(path)


@pytest.mark.parametrize("text", ["[]", '{"songs": 3}', '{"what": "mine", "settings": 3}', "hello"])
def test_a_notes_json_that_is_no_record_of_a_render_is_told_both_ways_out(source: Path, text: str) -> None:
    (source / "notes.json").write_text(text)
    with pytest.raises(ValueError, match=r"notes\.json: no record of a render .*call this file something else"):
        read_source(source)


def test_an_archive_that_changes_is_noticed(source: Path, tmp_path: Path) -> None:
    path = pack(source, tmp_path / "one.tar.gz", "nsynth-test")
    split = read_source(path).splits["test"]
    (source / "nsynth-test" / "audio" / "test-a.wav").unlink()
    pack(source, path, "nsynth-test")
    with pytest.raises(ValueError, match=r"one\.tar\.gz: has changed while it was read"):
        list(filled([split]))


def test_a_split_as_a_folder_and_in_an_archive_is_refused(source: Path) -> None:
    pack(source, source / "nsynth-test.jsonwav.tar.gz", "nsynth-test")
    with pytest.raises(ValueError, match="has a split twice, as a folder and in an archive"):
        read_source(source)


def test_sources_may_lie_in_a_bucket(source: Path, packed: Path, bucket: str) -> None:
    for path in [*source.rglob("*.wav"), *source.rglob("*.json")]:
        folder = Folder.open(bucket).sub(str(path.parent.relative_to(source)))
        folder.write(path.name, path.read_bytes())
    found = read_source(bucket)
    assert fingerprint(found) == fingerprint(read_source(source))
    test = found.splits["test"]
    assert test.folder.read(test.entries[0].file) == (source / "nsynth-test/audio/test-a.wav").read_bytes()
    for path in packed.iterdir():
        Folder.open(bucket).sub("packed").write(path.name, path.read_bytes())
    archived = read_source(bucket.replace("/folder", "/folder/packed"))
    assert fingerprint(archived) == fingerprint(read_source(packed))
    assert [len(part.entries) for _, part in filled([archived.splits["train"]])] == [2]
    alone = read_source(bucket.replace("/folder", "/folder/packed/nsynth-valid.jsonwav.tar.gz"))
    assert alone.splits["valid"] == replace(archived.splits["valid"], folder=alone.splits["valid"].folder)
    assert os.path.basename(alone.splits["valid"].folder.path) == "packed"


def test_an_archive_in_a_bucket_is_read_in_few_requests(
    source: Path, tmp_path: Path, bucket: str, s3_server: str
) -> None:
    """Whatever tarfile and gzip ask for at once."""
    (source / "nsynth-train" / "more").write_bytes(os.urandom(2**20))
    path = pack(source, tmp_path / "nsynth-train.jsonwav.tar.gz", "nsynth-train")
    Folder.open(bucket).send(path)
    proxy = FaultyProxy(s3_server)
    read_source(bucket.replace(s3_server, proxy.address).replace("/folder", f"/folder/{path.name}"))
    assert proxy.asked[f"GET /bucket/folder/{path.name}"] == 1
