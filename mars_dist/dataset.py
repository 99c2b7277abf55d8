"""A data set on disk: a folder of Parquet shards and a dataset.json, written last: its presence means complete.

A row is a note; an array column is FixedSizeBinary, its shape and dtype
in the field's metadata: any Parquet reader opens it, and numpy reads it without a copy.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mars_dist.config import SpectrogramConfig
from mars_dist.scales import Size
from mars_dist.serialize import as_json, from_plain, to_plain
from mars_dist.storage import Folder

FORMAT_VERSION = 1
MANIFEST = "dataset.json"
ROWS_IN_GROUP = 64
"""Rows that are read at once: a row group of a shard."""
LOOKS_AT_ONCE = 16
"""Shards whose heads are read at the same time."""
MANY_ALIKE = ("instrument_str",)
"""Columns stored as a dictionary."""

Columns = dict[str, NDArray[Any]]


# ---- dataset.json


@dataclass(frozen=True)
class Shard:
    """A Parquet file of the folder."""

    name: str
    split: str
    rows: int
    fingerprint: str = ""
    """Of what it was made from, and how; the shard's own metadata says the same."""

    def __post_init__(self) -> None:
        """Raises ValueError for a name that may lead out of the folder: a dataset.json may be a stranger's."""
        if not self.name or self.name.startswith(".") or set(self.name) & set("/\\\0"):
            raise ValueError(
                f"shard {self.name!r}: is no plain name of a file in the data set's folder: give one without "
                "/, \\ and NUL that does not begin with a dot"
            )


@dataclass(frozen=True)
class Rejected:
    """A note of the source that is not in the data set."""

    note_str: str
    """Or the row of a table of labels."""
    split: str
    """Or the table."""
    reason: str


@dataclass(frozen=True)
class Array:
    """A column that holds an array a row."""

    name: str
    shape: tuple[int, ...]
    """Of one row."""
    dtype: str


@dataclass(frozen=True)
class DatasetInfo:
    """What dataset.json says."""

    kind: Literal["pictures", "codes"]
    spectrogram: SpectrogramConfig
    arrays: tuple[Array, ...]
    shards: tuple[Shard, ...]
    source: str
    """Fingerprint of the notes that it was made from."""
    notice: str = ""
    """What is to be said wherever a number from it appears, such as the soundfont that it was rendered from."""
    rejected: tuple[Rejected, ...] = ()
    tokenizer: str | None = None
    """Codes: fingerprint of the tokenizer that made them."""
    scales: tuple[Size, ...] = ()
    """Codes: the scales, coarse to fine, whose codes a row holds."""
    codebook_size: int | None = None
    """Codes: V."""

    @cached_property
    def counts(self) -> dict[str, int]:
        """Rows by split."""
        counts: Counter[str] = Counter()
        for shard in self.shards:
            counts[shard.split] += shard.rows
        return dict(counts)

    def save(self, folder: Folder) -> None:
        """Declare the folder complete. Raises OSError where the disk refuses."""
        head = {"format_version": FORMAT_VERSION, "counts": self.counts}
        folder.write(MANIFEST, as_json(head | to_plain(self)))

    @classmethod
    def load(cls, folder: Folder) -> "DatasetInfo":
        """Raises ValueError where the folder is missing, unfinished, damaged or of a newer format."""
        try:
            text = read_manifest(folder)
        except OSError as error:
            raise ValueError(f"{folder.name}: cannot be read: {error}") from error
        try:
            values = json.loads(text)
            version = values.pop("format_version")
            values.pop("counts", None)
            if version <= FORMAT_VERSION:
                return from_plain(cls, values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder.name}/{MANIFEST}: damaged ({error}): delete it and run the command that makes it again"
            ) from error
        raise ValueError(
            f"{folder.name}: has format {version}, newer than {FORMAT_VERSION}, the newest known here: update mars-dist"
        )


def read_manifest(folder: Folder) -> bytes:
    """Raises ValueError where there is none, OSError. (A folder is listed by a request for each thousand shards.)"""
    try:
        return folder.read(MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        if not folder.list():
            told = "no data set there: check the path, or make one with mars preprocess"
        else:
            told = (
                f"has no {MANIFEST}, so it is half-written or no data set: run the command that makes it again to "
                "finish it"
            )
        raise ValueError(f"{folder.name}: {told}") from None


def require_pictures(expected: SpectrogramConfig, info: DatasetInfo, where: str) -> None:
    """Raises ValueError where a data set holds no pictures, or other ones than those expected but for their CMX."""
    if info.kind != "pictures":
        raise ValueError(f"{where}: holds {info.kind}, not pictures: give the --out of mars preprocess")
    require_same(replace(expected, cmx=info.spectrogram.cmx), info)


def require_same(expected: SpectrogramConfig, info: DatasetInfo) -> None:
    """Raises ValueError, naming the field, where a data set was made with other settings than those expected."""
    for field in fields(expected):
        wanted, found = getattr(expected, field.name), getattr(info.spectrogram, field.name)
        if wanted != found:
            raise ValueError(
                f"spectrogram.{field.name}: {wanted} is asked for, the data set was made with {found}: "
                f"set --spectrogram.{field.name.replace('_', '-')} {found}, or preprocess again into another folder"
            )


# ---- shards


def to_table(columns: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Columns of n rows -> a table; an array (n, *shape) becomes FixedSizeBinary, without a copy where contiguous."""
    arrays, schema = [], []
    for name, values in columns.items():
        if values.ndim == 1:
            arrays.append(pa.array(values.tolist() if values.dtype.kind == "U" else values))
            schema.append(pa.field(name, arrays[-1].type))
            continue
        metadata = {"shape": json.dumps(values.shape[1:]), "dtype": str(values.dtype)}
        values = np.ascontiguousarray(values)
        binary = pa.binary(values[0].nbytes)
        arrays.append(pa.FixedSizeBinaryArray.from_buffers(binary, len(values), [None, pa.py_buffer(values)]))
        schema.append(pa.field(name, binary, metadata=metadata))
    return pa.table(arrays, schema=pa.schema(schema))


def from_table(table: pa.Table) -> Columns:
    """The inverse of `to_table`; numbers and arrays are views of its memory, not to be written to."""
    columns: Columns = {}
    for field in table.schema:
        chunked = table[field.name]
        values = chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()
        if pa.types.is_fixed_size_binary(field.type):
            shape, dtype = json.loads(field.metadata[b"shape"]), field.metadata[b"dtype"].decode()
            raw = np.frombuffer(values.buffers()[1], np.uint8)
            raw = raw[values.offset * field.type.byte_width :][: len(values) * field.type.byte_width]
            columns[field.name] = raw.view(dtype).reshape(len(values), *shape)
        elif pa.types.is_string(field.type) or pa.types.is_dictionary(field.type):
            columns[field.name] = np.array(values.to_pylist(), dtype=np.str_)
        else:
            columns[field.name] = np.from_dlpack(values)  # to_numpy would import pandas: a fifth of a second
    return columns


def shard_bytes(columns: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> pa.Buffer:
    """A Parquet file; the same input gives the same bytes."""
    table = to_table(columns).replace_schema_metadata(dict(metadata))
    scalars = [field.name for field in table.schema if not pa.types.is_fixed_size_binary(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROWS_IN_GROUP,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in MANY_ALIKE if name in columns],
        write_statistics=scalars,
        write_page_checksum=True,
    )
    return sink.getvalue()


def write_shard(folder: Folder, name: str, columns: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Whole or not at all. Raises OSError where the disk refuses."""
    folder.write(name, shard_bytes(columns, metadata))


class Head(NamedTuple):
    """What a shard says of itself."""

    rows: int
    metadata: dict[str, str]
    """What `write_shard` was given."""

    @property
    def fingerprint(self) -> str:
        return self.metadata.get("fingerprint", "")


def read_head(folder: Folder, name: str) -> Head:
    """Without rows and metadata where the shard is missing or damaged."""
    try:
        found = pq.read_metadata(folder.at(name), filesystem=folder.files)
    except (OSError, pa.ArrowInvalid):
        return Head(0, {})
    # Arrow's own key holds the schema.
    metadata = {key.decode(): value.decode() for key, value in (found.metadata or {}).items() if key != b"ARROW:schema"}
    return Head(found.num_rows, metadata)


def read_heads(folder: Folder, names: Sequence[str]) -> list[Head]:
    """Many at once: a store that is far away takes its time for each."""
    with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
        return list(pool.map(partial(read_head, folder), names))


def require_shards(folder: Folder, shards: Sequence[Shard]) -> None:
    """Raises ValueError where one in the folder is not the one that was made: the last look before dataset.json."""
    for shard, head in zip(shards, read_heads(folder, [shard.name for shard in shards]), strict=True):
        if (head.rows, head.fingerprint) != (shard.rows, shard.fingerprint):
            raise ValueError(
                f"{folder.name}/{shard.name}: has changed since it was made (then {shard.rows} rows, now {head.rows}): "
                "run the same command again, which makes it anew"
            )
