"""Reads TensorFlow checkpoints without TensorFlow: the tensor bundle, NAME.index beside NAME.data-00000-of-00001.

The index is a LevelDB table (tensorflow/core/lib/io/table_format.txt): blocks of sorted keys, whose values are the
protocol buffers of tensorflow/core/protobuf/tensor_bundle.proto. Checksums are not looked at: whoever needs to know
that the weights are the right ones compares their fingerprint.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = 0xDB4775248B80FB57
FOOTER = 48
FLOAT = 1
"""DT_FLOAT of tensorflow/core/framework/types.proto."""


def read_bundle(prefix: str) -> dict[str, NDArray[np.float32]]:
    """Every float32 variable of the checkpoint by its name. Raises ValueError for files that are missing or damaged."""
    try:
        index, data = Path(f"{prefix}.index").read_bytes(), Path(f"{prefix}.data-00000-of-00001").read_bytes()
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be read ({error.strerror})") from error
    try:
        return dict(_variables(index, data))
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"{prefix}.index: damaged, or no TensorFlow checkpoint: {error}") from error


def _variables(index: bytes, data: bytes) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for key, value in _table(index):
        entry = _message(value)
        if key and entry.get(1) == FLOAT:  # the empty key is the bundle's header
            shape = [_message(dim)[1] for number, dim in _fields(entry.get(2, b"")) if number == 2]
            offset, size = entry.get(4, 0), entry[5]
            yield key.decode(), np.frombuffer(data[offset : offset + size], "<f4").reshape(shape)


def _table(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a LevelDB table, in the order of their keys."""
    footer = file[-FOOTER:]
    if len(footer) < FOOTER or struct.unpack("<Q", footer[-8:])[0] != MAGIC:
        raise ValueError("its last eight bytes are not a table's")
    _, at = _handle(footer, 0)  # of the meta index, which is empty
    blocks, _ = _handle(footer, at)
    for _, handle in _block(file, *blocks):
        yield from _block(file, *_handle(handle, 0)[0])


def _handle(buffer: bytes, at: int) -> tuple[tuple[int, int], int]:
    """(offset, size) of a block, and the place behind them."""
    offset, at = _varint(buffer, at)
    size, at = _varint(buffer, at)
    return (offset, size), at


def _block(file: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """A block's entries; each key leaves out what it shares with the one before."""
    if file[offset + size] != 0:
        raise ValueError("its blocks are compressed")
    block = file[offset : offset + size]
    num_restarts = struct.unpack("<I", block[-4:])[0]
    at, end, key = 0, size - 4 * (num_restarts + 1), b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + length]
        at += length


def _message(buffer: bytes) -> dict[int, Any]:
    """A protocol buffer's fields by number; of a repeated one the last."""
    return dict(_fields(buffer))


def _fields(buffer: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(buffer):
        tag, at = _varint(buffer, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(buffer, at)
            yield number, value
        else:
            size, at = _varint(buffer, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            yield number, buffer[at : at + size]
            at += size


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    """The number at a place, seven bits a byte, and the place behind it."""
    number = shift = 0
    while True:
        byte = buffer[at]
        number |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return number, at
