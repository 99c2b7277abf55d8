"""Looking through all training notes for those that are most like others.

Suffixes: B the notes that are looked for, F N bins and frames, D cells of a picture.
"""

from functools import partial
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from mars_dist.dataset import DatasetInfo
from mars_dist.devices import own_device
from mars_dist.evaluation.lines import pictures_of
from mars_dist.evaluation.work import Map, Progress
from mars_dist.metrics.neighbours import Nearest, nearest_notes, nearest_of
from mars_dist.rows import Group, Rows

FRAMES_AT_ONCE = 4
"""Averaged before pictures are compared: it takes a quarter of the memory and of the time."""
GROUPS_AT_ONCE = 8
"""Row groups that are searched in a piece of work."""


class Piece(NamedTuple):
    """Of work: row groups that are searched."""

    first: int
    """The row that they begin with."""
    groups: tuple[Group, ...]

    @property
    def num_rows(self) -> int:
        return sum(group.num_rows for group in self.groups)


def likeness_of(picture_B1FN: Tensor) -> Tensor:
    """(B, D), float16: what notes are compared by."""
    return F.avg_pool2d(picture_B1FN, (1, FRAMES_AT_ONCE)).flatten(1).half()


def search(query_BD: Tensor, data: str, info: DatasetInfo, progress: Progress, over: Map) -> Nearest:
    """Of each query the nearest training note: its row in the split."""
    training = Rows(data, "train", info)
    firsts = range(0, len(training.groups), GROUPS_AT_ONCE)
    pieces = [Piece(int(training.starts[i]), training.groups[i : i + GROUPS_AT_ONCE]) for i in firsts]
    found, seen, count = dict[int, Nearest](), 0, progress("training notes")
    for piece, nearest in over(partial(nearest_among, data=data, info=info, query_BD=query_BD), pieces):
        found[piece.first] = nearest
        seen += piece.num_rows
        count(seen, training.num_rows)
    return nearest_of([found[piece.first] for piece in pieces])


def nearest_among(piece: Piece, data: str, info: DatasetInfo, query_BD: Tensor) -> tuple[Piece, Nearest]:
    """The nearest training notes among some row groups, and these."""
    training, device = Rows(data, "train", info), own_device()
    read = training.in_turn(piece.groups, ["picture"])
    bank = (likeness_of(pictures_of(columns, info.spectrogram).to(device)) for columns in read)
    nearest = nearest_notes(query_BD.to(device), bank, piece.first)
    return piece, Nearest(*(values_B.cpu() for values_B in nearest))
