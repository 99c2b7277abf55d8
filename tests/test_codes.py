"""Shards of codes: those of one tokenizer, whatever becomes of its folder meanwhile."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mars_dist import codes
from mars_dist.dataset import MANIFEST, DatasetInfo
from mars_dist.model import load_tokenizer, save_tokenizer
from mars_dist.rows import Rows
from mars_dist.storage import Folder
from mars_dist.training.plan import Plan


def test_a_tokenizer_that_is_trained_on_before_a_worker_has_loaded_it_is_refused(
    trained_tokenizer: Plan, short_pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out, info_of = tmp_path / "tokenizer", Folder.open(tmp_path / "codes"), codes.info_of
    shutil.copytree(trained_tokenizer.folder, folder)

    def info_before_it_is_trained_on(*given: Any) -> DatasetInfo:
        info = info_of(*given)
        tokenizer, run = load_tokenizer(folder)
        save_tokenizer(folder, {name: tensor + 0.1 for name, tensor in tokenizer.state_dict().items()}, run, {})
        return info

    with (
        monkeypatch.context() as meanwhile,
        pytest.raises(ValueError, match="trained on meanwhile: run"),
    ):
        meanwhile.setattr(codes, "info_of", info_before_it_is_trained_on)
        codes.encode_here(short_pictures, folder, out.name)
    assert MANIFEST not in out.list()
    codes.encode_here(short_pictures, folder, out.name)
    assert MANIFEST in out.list()


def test_dataset_json_of_the_pictures_is_read_once_however_many_shards_there_are(
    short_pictures: str, trained_tokenizer: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read for each of them, it would take the longer for each the more there are."""
    loaded, load = list[str](), DatasetInfo.load
    monkeypatch.setattr(DatasetInfo, "load", lambda folder: loaded.append(folder.name) or load(folder))
    codes.encode_here(short_pictures, trained_tokenizer.folder, tmp_path)
    assert loaded == [short_pictures]
    for split in ("train", "valid", "test"):
        names = [Rows(folder, split).read(["note_str"])["note_str"].tolist() for folder in (short_pictures, tmp_path)]
        assert names[0] == names[1]
