"""Shards of codes."""

from pathlib import Path

import pytest

from mars_dist.codes import encode_here
from mars_dist.dataset import DatasetInfo
from mars_dist.rows import Rows
from mars_dist.training.plan import Plan


def test_dataset_json_of_the_pictures_is_read_once_however_many_shards_there_are(
    short_pictures: str, trained_tokenizer: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read for each of them, it would take the longer for each the more there are."""
    loaded, load = list[str](), DatasetInfo.load
    monkeypatch.setattr(DatasetInfo, "load", lambda folder: loaded.append(folder.name) or load(folder))
    encode_here(short_pictures, trained_tokenizer.folder, tmp_path)
    assert loaded == [short_pictures]
    for split in ("train", "valid", "test"):
        names = [Rows(folder, split).read(["note_str"])["note_str"].tolist() for folder in (short_pictures, tmp_path)]
        assert names[0] == names[1]
