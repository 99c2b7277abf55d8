"""What of held-out notes training does not have. An interval is to say what others of that kind would have given."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mars_dist.dataset import Columns, DatasetInfo
from mars_dist.rows import Rows
from mars_dist.storage import Folder

INSTRUMENTS, PAIRS, NOTES = "instruments", "(instrument, pitch) pairs", "notes"
NAMED_BY = {INSTRUMENTS: ["instrument_str"], PAIRS: ["instrument_str", "pitch"]}
"""The columns that tell one from another."""


def newness_of(data: str, splits: Iterable[str]) -> dict[str, str]:
    """What of each split's notes the split train does not have: instruments, else pairs, else the notes alone."""
    info = DatasetInfo.load(Folder.open(data))
    if not info.counts.get("train"):
        return dict.fromkeys(splits, NOTES)
    training = Rows(data, "train", info).read(NAMED_BY[PAIRS])
    had = {kind: set(named(training, kind)) for kind in NAMED_BY}

    def newness(split: str) -> str:
        own = Rows(data, split, info).read(NAMED_BY[PAIRS])
        new = (kind for kind, names in had.items() if names.isdisjoint(named(own, kind)))
        return next(new, NOTES)

    return {split: newness(split) for split in splits}


def named(columns: Columns, kind: str) -> Iterator[tuple[Any, ...]]:
    """The name of each note's instrument or pair."""
    return zip(*(columns[name].tolist() for name in NAMED_BY[kind]), strict=True)


def numbered(columns: Columns, kind: str) -> NDArray[np.int64] | None:
    """(n,): the number of each note's instrument or pair, from 0; None where each note is its own."""
    if kind == NOTES:
        return None
    known: dict[tuple[Any, ...], int] = {}
    return np.array([known.setdefault(name, len(known)) for name in named(columns, kind)])
