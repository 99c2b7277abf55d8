"""Looking through all training notes for those that are most like others.

Suffixes: B the notes that are looked for, F N bins and frames, D cells of a picture.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from mars_dist.devices import own_device
from mars_dist.evaluation.lines import pictures_of
from mars_dist.evaluation.work import Map, Progress
from mars_dist.metrics.neighbours import Nearest, nearest_notes, nearest_of
from mars_dist.rows import Group, Rows

FRAMES_AT_ONCE = 4
"""Averaged before pictures are compared: it takes a quarter of the memory and of the time."""
GROUPS_AT_ONCE = 8
"""Row groups that are searched in a piece of work."""


def likeness_of(picture_B1FN: Tensor) -> Tensor:
    """(B, D), float16: what notes are compared by."""
    return F.avg_pool2d(picture_B1FN, (1, FRAMES_AT_ONCE)).flatten(1).half()


def search(query_BD: Tensor, data: str, progress: Progress, over: Map) -> Nearest:
    """Of each query the nearest training note: its row in the split."""
    training = Rows(data, "train")
    firsts = range(0, len(training.groups), GROUPS_AT_ONCE)
    found, seen, count = dict[int, Nearest](), 0, progress("training notes")
    for first, nearest in over(partial(nearest_among, data=data, query_BD=query_BD), firsts):
        found[first] = nearest
        seen += sum(group.num_rows for group in groups_from(first, training))
        count(seen, training.num_rows)
    return nearest_of([found[first] for first in firsts])


def nearest_among(first: int, data: str, query_BD: Tensor) -> tuple[int, Nearest]:
    """The nearest training notes among some row groups, and the first group."""
    training, device = Rows(data, "train"), own_device()
    read = training.in_turn(groups_from(first, training), ["picture"])
    bank = (likeness_of(pictures_of(columns, training.info.spectrogram).to(device)) for columns in read)
    nearest = nearest_notes(query_BD.to(device), bank, int(training.starts[first]))
    return first, Nearest(*(values_B.cpu() for values_B in nearest))


def groups_from(first: int, training: Rows) -> Sequence[Group]:
    """Those of a piece of work."""
    return training.groups[first : first + GROUPS_AT_ONCE]
