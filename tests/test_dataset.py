"""The data set's folder: shards, dataset.json, and reading by row groups."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import (
    MANIFEST,
    Array,
    Columns,
    DatasetInfo,
    Head,
    Rejected,
    Shard,
    from_table,
    read_head,
    require_same,
    to_table,
    write_shard,
)
from mars_dist.rows import Group, Rows, evenly
from mars_dist.scales import Size
from mars_dist.storage import Folder

CONFIG = SpectrogramConfig()
PICTURES = DatasetInfo(
    kind="pictures",
    spectrogram=CONFIG,
    arrays=(Array("picture", (2, 3, 4), "float16"),),
    shards=(Shard("train-00000.parquet", "train", 150), Shard("train-00001.parquet", "train", 20)),
    source="abc",
    rejected=(Rejected("a", "train", "truncated"),),
)
CODES = replace(PICTURES, kind="codes", tokenizer="def", scales=(Size(1, 1), Size(2, 4)), codebook_size=64)


def columns(num_rows: int, first: int = 0) -> Columns:
    rng = np.random.default_rng(first)
    return {
        "note_str": np.array([f"note {i}" for i in range(first, first + num_rows)]),
        "picture": rng.standard_normal((num_rows, 2, 3, 4)).astype(np.float16),
        "pitch": np.arange(first, first + num_rows),
        "instrument_str": np.array(["bass", "flute"] * num_rows)[:num_rows],
    }


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A data set of 170 rows in two shards."""
    folder = Folder.open(tmp_path / "pictures")
    write_shard(folder, "train-00000.parquet", columns(150), {})
    write_shard(folder, "train-00001.parquet", columns(20, first=150), {})
    PICTURES.save(folder)
    return tmp_path / "pictures"


def same(a: Columns, b: Columns) -> bool:
    return list(a) == list(b) and all(a[name].dtype == b[name].dtype and (a[name] == b[name]).all() for name in a)


dtypes = st.sampled_from(["float16", "float32", "uint8", "int16", "int64"])


@given(some.arrays(dtypes, some.array_shapes(min_dims=2, max_dims=4), elements={"allow_nan": False}), st.data())
def test_a_table_gives_its_arrays_back(array: np.ndarray[Any, Any], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(array) - 1))
    table = to_table({"array": array, "row": np.arange(len(array))})
    assert same(from_table(table), {"array": array, "row": np.arange(len(array))})
    assert same(from_table(table.slice(start)), {"array": array[start:], "row": np.arange(start, len(array))})


def test_a_shard_of_the_same_rows_has_the_same_bytes(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path)
    for name in ("a.parquet", "b.parquet"):
        write_shard(folder, name, columns(70), {"fingerprint": "x"})
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert read_head(folder, "a.parquet").fingerprint == "x"


def test_any_parquet_reader_finds_shape_and_dtype(pictures: Path) -> None:
    table = pq.read_table(pictures / "train-00000.parquet")
    field = table.schema.field("picture")
    assert json.loads(field.metadata[b"shape"]) == [2, 3, 4]
    first = np.frombuffer(table["picture"][0].as_py(), field.metadata[b"dtype"].decode()).reshape(2, 3, 4)
    assert (first == columns(150)["picture"][0]).all()


def test_rows_are_read_by_groups(pictures: Path) -> None:
    rows = Rows(pictures, "train")
    assert rows.groups == (
        Group("train-00000.parquet", 0, 64),
        Group("train-00000.parquet", 1, 64),
        Group("train-00000.parquet", 2, 22),
        Group("train-00001.parquet", 0, 20),
    )
    assert rows.num_rows == 170
    found = rows.read_group(rows.groups[1], ["pitch", "picture", "note_str"])
    assert same(found, {name: columns(150)[name][64:128] for name in ("pitch", "picture", "note_str")})
    everything = rows.read(["pitch", "instrument_str"])
    assert (everything["pitch"] == np.arange(170)).all()


def test_rows_are_taken_in_any_order_and_more_than_once(pictures: Path) -> None:
    rows, names = Rows(pictures, "train"), ["pitch", "picture", "note_str"]
    wanted = np.array([169, 3, 150, 63, 64, 3, 0, 127, 128, 149])
    found, all_of_them = rows.take(wanted, names), rows.read(names)
    assert found["pitch"].tolist() == wanted.tolist()
    assert same(found, {name: values[wanted] for name, values in all_of_them.items()})


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_rows_that_lie_evenly(num_rows: int, num: int) -> None:
    numbers = evenly(num_rows, num)
    steps = np.diff(numbers)
    assert len(numbers) == num and numbers[0] == 0 and (num == 1 or numbers[-1] == num_rows - 1)
    assert num == 1 or steps.max() - steps.min() <= 2
    assert num > num_rows or num == 1 or steps.min() > 0  # none twice where there are enough


def test_a_few_groups_are_read_ahead_and_no_more(pictures: Path) -> None:
    """Nobody asks for more than the first two."""
    begun = list[Group]()

    class Counted(Rows):
        def read_group(self, group: Group, columns: Sequence[str]) -> Columns:
            begun.append(group)
            return super().read_group(group, columns)

    rows = Counted(pictures, "train")
    with closing(rows.in_turn(rows.groups * 10, ["pitch"])) as groups:
        found = [next(groups)["pitch"][0], next(groups)["pitch"][0]]
    assert found == [0, 64] and len(begun) == 2 + rows.folder.at_once
    assert [len(found["pitch"]) for found in rows.in_turn(rows.groups, ["pitch"])] == [64, 64, 22, 20]


def test_threads_may_share_a_store(pictures: Path) -> None:
    rows = Rows(pictures, "train")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda i: rows.read_group(rows.groups[i % 4], ["pitch", "picture"]), range(64)))
    for i, group in enumerate(found):
        assert same(group, rows.read_group(rows.groups[i % 4], ["pitch", "picture"]))


@pytest.mark.parametrize("info", [PICTURES, CODES], ids=["pictures", "codes"])
def test_dataset_json_gives_the_info_back(info: DatasetInfo, tmp_path: Path) -> None:
    folder = Folder.open(tmp_path)
    info.save(folder)
    assert DatasetInfo.load(folder) == info
    assert json.loads((tmp_path / MANIFEST).read_text())["counts"] == {"train": 170}


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        values = json.loads((folder / MANIFEST).read_text())
        change(values)
        (folder / MANIFEST).write_text(json.dumps(values))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "half-written.*again to finish"),
        (lambda folder: os.truncate(folder / MANIFEST, 200), "damaged"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe"), "damaged"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "damaged"),
        (edit(lambda values: values.pop("shards")), "damaged.*shards"),
        (edit(lambda values: values["shards"][0].pop("rows")), "damaged.*rows"),
        (edit(lambda values: values["shards"][0].update(name="a/../../x.parquet")), r"damaged \(shard 'a/\.\./\.\./x"),
        (edit(lambda values: values.update(format_version=2, news=1)), "format 2, newer than 1.*update"),
        (lambda folder: folder.rename(folder.parent / "elsewhere"), "no data set there"),
    ],
)
def test_a_folder_that_is_no_finished_data_set_is_refused(
    damage: Callable[[Path], Any], message: str, pictures: Path
) -> None:
    damage(pictures)
    with pytest.raises(ValueError, match=message) as raised:
        Rows(pictures, "train")
    assert "pictures" in str(raised.value)


@pytest.mark.parametrize("name", ["", ".", "..", ".lease.json", "/x", "a/../../x", "..\\x", "a\\x", "x\0"])
def test_a_shard_lies_in_its_data_sets_folder(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no plain name of a file in the data set's folder: give one"):
        Shard(name, "train", 150)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="nowhere://x: no folder's address"):
        Folder.open("nowhere://x")


def test_a_split_that_is_not_there_is_refused(pictures: Path) -> None:
    """Notes of one's own may be too few for their hashes to make any of them valid."""
    with pytest.raises(ValueError, match=r"no split 'test', it has train.*: name one .* the column split says so"):
        Rows(pictures, "test")


@pytest.mark.parametrize("damage", [Path.unlink, lambda shard: os.truncate(shard, 2000)], ids=["missing", "truncated"])
def test_a_shard_that_cannot_be_read_is_named(damage: Callable[[Path], Any], pictures: Path) -> None:
    damage(pictures / "train-00001.parquet")
    rows = Rows(pictures, "train")
    rows.read_group(rows.groups[0], ["pitch"])
    with pytest.raises(ValueError, match=r"train-00001\.parquet: cannot be read"):
        rows.read_group(rows.groups[3], ["pitch"])
    assert read_head(rows.folder, "train-00001.parquet") == Head(0, {})


def test_a_shard_that_is_another_one_is_named(pictures: Path) -> None:
    manifest = json.loads((pictures / MANIFEST).read_text())
    manifest["shards"][0]["rows"] -= 1
    (pictures / MANIFEST).write_text(json.dumps(manifest))
    rows = Rows(pictures, "train")
    with pytest.raises(ValueError, match=r"parquet: is not the shard that dataset.json tells of \(\d+ rows"):
        rows.read(["pitch"])
    with pytest.raises(ValueError, match=r"parquet: is not the shard .* \(no column 'wave'\)"):
        rows.read_group(rows.groups[0], ["wave"])


def test_a_flipped_bit_is_noticed(pictures: Path) -> None:
    """Wherever it is among the rows."""
    path = pictures / "train-00001.parquet"
    rows, content = Rows(pictures, "train"), path.read_bytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # where the footer begins
    noticed = 0
    for position in range(100, end, 31):
        path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        try:
            columns = rows.read_group(rows.groups[3], ["note_str", "picture", "pitch", "instrument_str"])
        except ValueError as error:
            assert "train-00001.parquet: cannot be read" in str(error)
            noticed += 1
        else:  # in what a reader passes over, such as the bounds of a page
            path.write_bytes(content)
            assert same(columns, rows.read_group(rows.groups[3], list(columns)))
    assert noticed > 20


def test_settings_that_differ_are_named() -> None:
    require_same(CONFIG, PICTURES)
    with pytest.raises(ValueError, match=r"spectrogram\.n_fft: 2048 .* made with 1024: set --spectrogram\.n-fft 1024"):
        require_same(replace(CONFIG, n_fft=2048), PICTURES)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        folder.write("taken", b"bytes")
    assert folder.list() == {"taken"}
