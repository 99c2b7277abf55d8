"""The rows of one split of a data set, read by the row group, wherever they lie."""

from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mars_dist.dataset import MANIFEST, ROWS_IN_GROUP, Columns, DatasetInfo, from_table
from mars_dist.storage import Folder, LocalFolder, read_ahead


class Group(NamedTuple):
    """Rows that are read together: one row group of a shard."""

    shard: str
    row_group: int
    num_rows: int


class Known(NamedTuple):
    """Of a shard in a store."""

    file: pa.NativeFile
    """Open: its length is known. Safe to share among threads."""
    contents: pa.Buffer
    """Parquet's table of contents, as it is stored: what is made of it takes nine times as much."""


class Rows:
    """Random access to the row groups of one split. Safe to share among threads.

    Where many are made of one data set, each is given its `info`: to read dataset.json takes the longer the more shards
    there are. Raises ValueError where the folder holds no finished data set, or no such split.
    """

    def __init__(self, folder: str | Path, split: str, info: DatasetInfo | None = None) -> None:
        self.folder = Folder.open(folder)
        self.info = info or DatasetInfo.load(self.folder)
        self.split = split
        self.known: dict[str, Known] = {}
        """Of the shards in a store that were read: to ask for either is a request."""
        if not self.info.counts.get(split):
            have = ", ".join(name for name, rows in self.info.counts.items() if rows) or "none"
            raise ValueError(
                f"{folder}: holds no split {split!r}, it has {have}: name one of these, or preprocess notes that have "
                "it (in a labels.csv the column split says so)"
            )

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Known from dataset.json alone, so a thousand shards open at once."""
        return tuple(
            Group(shard.name, index, min(ROWS_IN_GROUP, shard.rows - index * ROWS_IN_GROUP))
            for shard in self.info.shards
            if shard.split == self.split
            for index in range(-(-shard.rows // ROWS_IN_GROUP))
        )

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The number, through the split, of each group's first row; and at the end that of all rows."""
        return np.cumsum([0, *(group.num_rows for group in self.groups)])

    @property
    def num_rows(self) -> int:
        return self.info.counts[self.split]

    def group_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which group each row is in."""
        return np.searchsorted(self.starts, numbers, side="right") - 1

    def read_group(self, group: Group, columns: Sequence[str]) -> Columns:
        """Arrays (n, *shape), numbers (n,) and strings (n,) of a row group.

        Raises ValueError where the shard is missing or damaged.
        """
        return self.read_groups([group], columns)

    def read_groups(self, groups: Sequence[Group], columns: Sequence[str]) -> Columns:
        """The same of several of one shard."""
        shard, num_rows = groups[0].shard, sum(group.num_rows for group in groups)
        try:
            with self.reader(shard) as reader:
                wanted = [group.row_group for group in groups]
                table = reader.read_row_groups(wanted, columns=list(columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"{self.folder.name}/{shard}: cannot be read ({error}): "
                "delete it and run the command that makes the data set again, which remakes this shard alone, "
                "unless its store is only away"
            ) from error
        lacking = [name for name in columns if name not in table.column_names]
        if lacking or table.num_rows != num_rows:
            told = f"no column {lacking[0]!r}" if lacking else f"{table.num_rows} rows in groups of {num_rows}"
            raise ValueError(
                f"{self.folder.name}/{shard}: is not the shard that {MANIFEST} tells of ({told}): "
                "make the data set again in another folder"
            )
        return from_table(table.select(list(columns)))

    def reader(self, shard: str) -> pq.ParquetFile:
        """For one read: it is not safe to share among threads. Raises OSError, ArrowException."""
        options = {"page_checksum_verification": True, "pre_buffer": True}
        path, files = self.folder.at(shard), self.folder.files
        if isinstance(self.folder, LocalFolder):
            return pq.ParquetFile(path, filesystem=files, **options)
        if known := self.known.get(shard):
            return pq.ParquetFile(known.file, metadata=pq.read_metadata(pa.BufferReader(known.contents)), **options)
        reader, contents = pq.ParquetFile(file := files.open_input_file(path), **options), pa.BufferOutputStream()
        reader.metadata.write_metadata_file(contents)
        self.known[shard] = Known(file, contents.getvalue())
        return reader

    def in_turn(self, groups: Iterable[Group], columns: Sequence[str]) -> Generator[Columns, None, None]:
        """One group after the other, the next ones read meanwhile: no more than are read at once wait."""
        return read_ahead(lambda group: self.read_group(group, columns), groups, self.folder.at_once)

    def take(self, numbers: NDArray[np.int64], columns: Sequence[str]) -> Columns:
        """The rows of these numbers, in their order."""
        groups, rows = self.group_of(numbers), dict[int, dict[str, Any]]()
        needed = np.unique(groups)
        for index, found in zip(needed, self.in_turn((self.groups[i] for i in needed), columns), strict=True):
            for number in numbers[groups == index]:  # copied, or each would keep its whole group in memory
                rows[number] = {name: values[number - self.starts[index]].copy() for name, values in found.items()}
        return {name: np.stack([rows[number][name] for number in numbers]) for name in columns}

    def read(self, columns: Sequence[str]) -> Columns:
        """The columns of the whole split, in order: meant for small columns."""
        shards = [list(groups) for _, groups in groupby(self.groups, key=attrgetter("shard"))]
        with ThreadPoolExecutor(self.folder.at_once) as readers:
            parts = list(readers.map(lambda groups: self.read_groups(groups, columns), shards))
        return {name: np.concatenate([part[name] for part in parts]) for name in columns}


def evenly(num_rows: int, num: int) -> NDArray[np.int64]:
    """`num` rows that lie evenly over all, from the first to the last; where there are fewer, some several times."""
    return np.linspace(0, num_rows - 1, num).round().astype(np.int64)
