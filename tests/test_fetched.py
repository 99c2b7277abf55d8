"""Copies of models that lie in S3."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mars_dist.fetched import HOUR, on_disk
from mars_dist.storage import Folder

WEIGHTS = os.urandom(3_000_000)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def model(bucket: str) -> Folder:
    folder = Folder.open(bucket)
    for part in (folder, folder.sub("tokenizer")):
        part.write("config.json", b"{}")
        part.write("model.safetensors", WEIGHTS)
    folder.write("metrics.jsonl", b"1\n")
    return folder


def copies(temporary: Path) -> set[Path]:
    """All files there, but for their last folders."""
    return {path.parent for path in temporary.rglob("*") if path.is_file()}


def test_processes_share_a_copy_which_outlives_them(model: Folder, temporary: Path) -> None:
    code = "import os, sys; from mars_dist.fetched import on_disk; print(on_disk(sys.argv[1]), flush=True); os._exit(0)"
    command = [sys.executable, "-c", code, model.name]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    [told] = {process.communicate(timeout=60)[0].strip() for process in processes}
    folder = on_disk(model.name)
    assert str(folder) == told and folder.name == "folder"
    assert copies(temporary) == {folder, folder / "tokenizer"}
    for part in (folder, folder / "tokenizer"):
        assert (part / "model.safetensors").read_bytes() == WEIGHTS and (part / "config.json").read_bytes() == b"{}"
    assert temporary.joinpath(folder.relative_to(temporary).parts[0]).stat().st_mode & 0o777 == 0o700


def test_what_changes_beside_the_weights_is_read_anew_without_them(model: Folder) -> None:
    before = on_disk(model.name)
    weights = (before / "model.safetensors").stat()
    model.write("metrics.jsonl", b"1\n2\n")
    model.write("report.json", b"{}")
    assert on_disk(model.name) == before and (before / "metrics.jsonl").read_bytes() == b"1\n2\n"
    assert os.path.samestat((before / "model.safetensors").stat(), weights)


def test_a_copy_that_was_broken_off_or_cleared_in_part_is_made_whole(model: Folder) -> None:
    folder = on_disk(model.name)
    (folder / "tokenizer" / "model.safetensors").unlink()
    os.truncate(folder / "model.safetensors", 10)
    assert on_disk(model.name) == folder
    assert (folder / "tokenizer" / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_new_weights_drop_copies_that_nobody_has_asked_for_in_an_hour(model: Folder, temporary: Path) -> None:
    first = on_disk(model.name)
    model.write("model.safetensors", WEIGHTS[1:])
    second = on_disk(model.name)
    assert (second / "model.safetensors").read_bytes() == WEIGHTS[1:]
    assert (first / "model.safetensors").read_bytes() == WEIGHTS
    for unasked in (first.parent, second.parent):
        os.utime(unasked, (unasked.stat().st_mtime - HOUR - 1,) * 2)
    on_disk(model.name)
    model.write("model.safetensors", WEIGHTS[2:])
    third = on_disk(model.name)
    assert copies(temporary) == {folder / part for folder in (second, third) for part in ("", "tokenizer")}


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def open_to_readers(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o750)


def a_link(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)


def a_link_to_nothing(folder: Path) -> None:
    folder.symlink_to("nothing")


def a_file(folder: Path) -> None:
    folder.touch(mode=0o600)


def of_another_user(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, os.getuid() + 1, -1)


by_root = pytest.mark.skipif(os.getuid() != 0, reason="only root makes a folder of another user")


@pytest.mark.parametrize(
    "made",
    [open_to_all, open_to_readers, a_link, a_link_to_nothing, a_file, pytest.param(of_another_user, marks=by_root)],
)
def test_a_place_for_copies_that_others_may_have_made_is_refused(
    made: Callable[[Path], None], model: Folder, temporary: Path
) -> None:
    """Its name can be foreseen, and everybody writes to a machine's temporary folder."""
    folder = temporary / f"mars-models-{os.getuid()}"
    made(folder)
    before = set(temporary.rglob("*"))
    with pytest.raises(ValueError, match=rf"{folder}: is \S+ of user \d+, not a folder .* or set TMPDIR to another"):
        on_disk(model.name)
    assert set(temporary.rglob("*")) == before
