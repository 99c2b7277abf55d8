"""The reader of TensorFlow's checkpoints, on checkpoints written here."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mars_dist.metrics.embeddings.bundle import MAGIC, read_bundle

VARIABLES = {
    "conv2d/bias": np.arange(3, dtype=np.float32),
    "conv2d/kernel": np.linspace(-1, 1, 2 * 3 * 300, dtype=np.float32).reshape(2, 3, 1, 300),
    "conv2d_1/bias": np.float32([7]),
    "scalar": np.array(0.5, np.float32),
}


def varint(number: int) -> bytes:
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def entry(array: NDArray[np.generic], offset: int) -> bytes:
    shape = b"".join(field(2, field(1, size)) for size in array.shape)
    kind = 1 if array.dtype == np.float32 else 9
    crc = varint(6 << 3 | 5) + b"\0\0\0\0"
    return field(1, kind) + field(2, shape) + field(4, offset) + field(5, array.nbytes) + crc


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Each key leaves out what it shares with the one before, as LevelDB has it."""
    content, before = b"", b""
    for key, value in entries:
        shared = next((i for i, (a, b) in enumerate(zip(key, before, strict=False)) if a != b), len(before))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return content + struct.pack("<II", 0, 1)


def write(folder: Path, variables: dict[str, NDArray[np.generic]]) -> str:
    entries, data = [(b"", field(1, 1))], b""
    for name, array in variables.items():
        entries.append((name.encode(), entry(array, len(data))))
        data += array.tobytes()
    file, handles = b"", []
    for part in (entries[:3], entries[3:]):  # two blocks
        content = block(part)
        handles.append((part[-1][0], varint(len(file)) + varint(len(content))))
        file += content + b"\0crc!"  # not compressed
    index = block(handles)
    handle = varint(len(file)) + varint(len(index))
    file += index + b"\0crc!" + (varint(0) + varint(0) + handle).ljust(40, b"\0") + struct.pack("<Q", MAGIC)
    (folder / "it.index").write_bytes(file)
    (folder / "it.data-00000-of-00001").write_bytes(data)
    return str(folder / "it")


def test_every_float_variable_is_read_and_nothing_else(tmp_path: Path) -> None:
    read = read_bundle(write(tmp_path, VARIABLES | {"step": np.array([3], np.int64)}))
    assert list(read) == list(VARIABLES)
    for name, array in VARIABLES.items():
        assert read[name].shape == array.shape and (read[name] == array).all()


def test_missing_files_are_named(tmp_path: Path) -> None:
    prefix = write(tmp_path, VARIABLES)
    (tmp_path / "it.data-00000-of-00001").unlink()
    with pytest.raises(ValueError, match=r"it.data-00000-of-00001: cannot be read \(No such file"):
        read_bundle(prefix)


def test_compressed_blocks_are_refused(tmp_path: Path) -> None:
    prefix = write(tmp_path, VARIABLES)
    index = tmp_path / "it.index"
    index.write_bytes(index.read_bytes().replace(b"\0crc!", b"\1crc!"))
    with pytest.raises(ValueError, match=r"it.index: damaged, or no TensorFlow checkpoint: its blocks are compressed"):
        read_bundle(prefix)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    folder = tmp_path_factory.mktemp("bundle")
    return folder, Path(f"{write(folder, VARIABLES)}.index").read_bytes()


@given(st.data())
def test_a_damaged_index_ends_in_an_answer(whole: tuple[Path, bytes], data: st.DataObject) -> None:
    folder, index = whole
    at = data.draw(st.integers(0, len(index) - 1))
    byte = data.draw(st.integers(0, 255))
    (folder / "it.index").write_bytes(index[:at] + bytes([byte]) + index[at + 1 :])
    try:
        read_bundle(str(folder / "it"))
    except ValueError as error:
        assert "it.index: damaged" in str(error)


@given(st.data())
def test_a_truncated_index_is_refused(whole: tuple[Path, bytes], data: st.DataObject) -> None:
    folder, index = whole
    (folder / "it.index").write_bytes(index[: data.draw(st.integers(0, len(index) - 1))])
    with pytest.raises(ValueError, match=r"it.index: damaged"):
        read_bundle(str(folder / "it"))
