"""Which rows a step trains on, and the noise that it draws."""

import tracemalloc
from concurrent.futures import Future
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mars_dist.config import SpectrogramConfig, TrainConfig
from mars_dist.dataset import Columns, DatasetInfo, Shard, write_shard
from mars_dist.rows import Rows
from mars_dist.storage import Folder
from mars_dist.training.batches import PREFETCH, Batch, Batches, HeldOut, keyed_uniform, require_rows
from mars_dist.training.order import Order

NUM_ROWS = 330


def numbered(path: Path, num_rows: int) -> Rows:
    """Numbered rows in shards of at most 150, and so in row groups of 64, 64 and 22."""
    folder, shards = Folder.open(path), []
    for i, first in enumerate(range(0, num_rows, 150)):
        numbers = np.arange(first, min(first + 150, num_rows))
        shards.append(Shard(f"train-{i:05d}.parquet", "train", len(numbers)))
        names = np.array([f"note {number}" for number in numbers])
        write_shard(folder, shards[-1].name, {"pitch": numbers, "note_str": names}, {})
    DatasetInfo("pictures", SpectrogramConfig(), (), tuple(shards), source="numbers").save(folder)
    return Rows(folder.name, "train")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """330 rows in shards of 150, 150 and 30: seven row groups."""
    return numbered(tmp_path_factory.mktemp("numbered"), NUM_ROWS)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Of 80 row groups, a third of them of 22 rows."""
    return numbered(tmp_path_factory.mktemp("many"), 4000)


def prepare(columns: Columns) -> Batch:
    return {"pitch": torch.from_numpy(columns["pitch"])}


def batches_of(rows: Rows, batch_size: int = 8, seed: int = 0, window_rows: int = 128) -> Batches:
    train = TrainConfig(batch_size=batch_size, seed=seed, shuffle_rows=window_rows)
    return Batches(rows, ["pitch"], prepare, train)


def numbers(batches: Batches, steps: range) -> list[int]:
    return [int(row) for step in steps for row in batches.global_rows(step)]


@given(window_rows=st.integers(1, 500), batch_size=st.sampled_from([1, 2, 3, 10, 110]), seed=st.integers(0, 2**31 - 1))
def test_an_epoch_has_each_row_once(rows: Rows, window_rows: int, batch_size: int, seed: int) -> None:
    steps = NUM_ROWS // batch_size
    batches = batches_of(rows, batch_size, seed, window_rows)
    first, second = numbers(batches, range(steps)), numbers(batches, range(steps, 2 * steps))
    assert sorted(first) == sorted(second) == list(range(NUM_ROWS))
    assert first != second


def test_a_batch_reaches_over_the_end_of_an_epoch(rows: Rows) -> None:
    three_epochs = numbers(batches_of(rows, batch_size=99), range(10))
    assert [sorted(three_epochs[i : i + NUM_ROWS]) for i in (0, NUM_ROWS, 2 * NUM_ROWS)] == [list(range(NUM_ROWS))] * 3


def test_seeds_and_windows_shuffle_otherwise(rows: Rows) -> None:
    usual, other, narrow = (
        numbers(batches_of(rows, **options), range(10)) for options in ({}, {"seed": 1}, {"window_rows": 64})
    )
    assert usual != other and usual != narrow
    assert usual == numbers(batches_of(rows), range(10))


def places_of(batches: Batches, num_passes: int) -> NDArray[np.int64]:
    """(passes, rows): when in a pass each row comes, as a share of it."""
    num_rows = batches.rows.num_rows
    order = np.array(numbers(batches, range(num_passes * num_rows))).reshape(num_passes, num_rows)
    return np.argsort(order, axis=1) / num_rows


def test_where_all_groups_fit_a_window_every_order_is_as_likely(rows: Rows) -> None:
    """Each row anywhere, whatever its group, and neighbours apart from one another."""
    places_PR = places_of(batches_of(rows, 1, window_rows=1000), 200)
    assert np.abs(np.sort(places_PR, axis=0) - np.linspace(0, 1, 200)[:, None]).max() < 0.16  # chance: 330 x 4e-5
    assert abs(np.corrcoef(places_PR[:, :-1].ravel(), places_PR[:, 1:].ravel())[0, 1]) < 0.02


def test_rows_of_a_group_come_within_a_window_and_as_far_apart_as_it_allows(many: Rows) -> None:
    """Round the end of a pass to its start."""
    places_R = places_of(batches_of(many, 1, window_rows=640), 1)[0]
    spans = []
    for first, end in pairwise(many.starts.tolist()):
        turned = np.sort(places_R[first:end])
        gaps = np.diff(np.append(turned, turned[0] + 1))
        spans.append(1 - gaps.max())
    share = 10 / len(many.groups)
    assert 0.7 * share < np.mean(spans) < share and max(spans) < 1.3 * share


@pytest.mark.parametrize(("world_size", "most"), [(1, 1.2), (2, 0.75), (4, 0.55), (8, 0.45)])
def test_workers_share_the_reading(many: Rows, world_size: int, most: float) -> None:
    """A group is read once; by several workers where it is about the border of their slices. What is over is let go."""
    begun, kept = list[int](), list[int]()

    class Counted(Batches):
        def begin(self, group: int) -> Future[Columns]:
            begun.append(group)
            return super().begin(group)

    steps = many.num_rows // 64
    for rank in range(world_size):
        batches = Counted(many, ["pitch"], prepare, TrainConfig(batch_size=64, shuffle_rows=640))
        for step in range(steps):
            expected = batches.global_rows(step)[batches.slice_of(rank, world_size)].tolist()
            assert batches.load(step, rank, world_size)["pitch"].tolist() == expected
            kept.append(len(batches.kept))
    assert len(begun) / len(many.groups) / world_size < most
    assert max(kept) <= 12


def test_an_order_takes_little_memory() -> None:
    """Each worker holds that of all rows, and makes another as a pass ends."""
    num_groups = 2000
    tracemalloc.start()
    try:
        order = Order([64] * num_groups, 1024, seed=0)
        order.batch(0, 64)
        held, most = (num_bytes / (64 * num_groups) for num_bytes in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    assert held < 16 and most < 40


def test_what_fits_the_window_is_read_once_for_all_passes(rows: Rows) -> None:
    batches = batches_of(rows, window_rows=1000)
    for step in range(3 * NUM_ROWS // 8):
        batches.load(step, 0, 1)
    before = dict(batches.kept)
    batches.load(3 * NUM_ROWS // 8, 0, 1)
    assert len(before) == len(rows.groups) and all(batches.kept[i].columns is before[i].columns for i in before)


def test_the_notes_of_a_slice_are_named(rows: Rows) -> None:
    batches = batches_of(rows)
    assert batches.names(3, 1, 2) == [f"note {number}" for number in batches.global_rows(3)[4:]]


def test_a_window_of_one_row_group_mixes_no_groups(rows: Rows) -> None:
    starts = [0, 64, 128, 150, 214, 278, 300, 330]
    found = np.searchsorted(starts, numbers(batches_of(rows, 1, window_rows=64), range(NUM_ROWS)), side="right")
    assert np.count_nonzero(np.diff(found)) == len(set(found)) - 1 == 6


def test_what_is_read_is_what_was_asked_for(rows: Rows) -> None:
    batches = batches_of(rows)
    for step in (0, 1, 41, 100):
        assert batches.load(step, 0, 1)["pitch"].tolist() == batches.global_rows(step).tolist()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_workers_slices_make_the_global_batch(rows: Rows, world_size: int) -> None:
    for step in (0, 41, 42):
        slices = [batches_of(rows).load(step, rank, world_size) for rank in range(world_size)]
        assert torch.cat([part["pitch"] for part in slices]).tolist() == batches_of(rows).global_rows(step).tolist()
        assert torch.cat([part["place"] for part in slices]).tolist() == list(range(8))


def test_batches_are_read_ahead_while_the_loop_works(rows: Rows) -> None:
    """Nobody asks for more than the first."""
    made, enough = list[int](), Event()

    def prepare_and_tell(columns: Columns) -> Batch:
        made.append(len(made))
        if len(made) == 1 + PREFETCH:
            enough.set()
        return prepare(columns)

    train = TrainConfig(batch_size=8, shuffle_rows=128)
    with closing(Batches(rows, ["pitch"], prepare_and_tell, train).stream(0, 0, 1)) as stream:
        first = next(stream)
        assert enough.wait(10)
        assert first.waited > 0 and len(made) == 1 + PREFETCH


@pytest.mark.parametrize("first_step", [0, 7, 41])
def test_a_stream_goes_on_from_any_step(rows: Rows, first_step: int) -> None:
    with (
        closing(batches_of(rows).stream(0, 1, 2)) as undisturbed,
        closing(batches_of(rows).stream(first_step, 1, 2)) as resumed,
    ):
        expected = [timed.batch for timed in islice(undisturbed, first_step, first_step + 5)]
        for before, (now, waited) in zip(expected, islice(resumed, 5), strict=True):
            assert before.keys() == now.keys() and all(torch.equal(before[name], now[name]) for name in now)
            assert waited >= 0


def test_for_a_gpu_batches_are_pinned(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's pin_memory needs a GPU: here a copy stands for it."""
    pinned = list[torch.Tensor]()

    def pin(x: torch.Tensor) -> torch.Tensor:
        pinned.append(x.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    with closing(batches_of(rows).stream(0, 0, 1)) as stream:
        batch = next(stream).batch
    assert all(any(x is one for one in pinned) for x in batch.values())
    expected = batches_of(rows).load(0, 0, 1)
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_validation_rows_lie_evenly_over_the_split(rows: Rows, world_size: int) -> None:
    held_out = HeldOut(rows, ["pitch"], prepare)
    slices = [held_out.evenly(8, rank, world_size)["pitch"] for rank in range(world_size)]
    assert torch.cat(slices).tolist() == [0, 47, 94, 141, 188, 235, 282, 329]


def test_validation_rows_are_read_once(tmp_path: Path) -> None:
    """To read one is to decode its whole group: of a large split, thousands of notes for some hundred."""
    held_out = HeldOut(numbered(tmp_path, 100), ["pitch"], prepare)
    mine, shown = held_out.evenly(8, 1, 2), held_out.evenly(3, 0, 1)
    for shard in tmp_path.glob("*.parquet"):
        shard.unlink()
    assert held_out.evenly(8, 1, 2) is mine and held_out.evenly(3, 0, 1) is shown


@pytest.mark.parametrize("world_size", [2, 3, 5, 7])
def test_validation_rows_are_the_same_for_other_numbers_of_workers(rows: Rows, world_size: int) -> None:
    """But for a few at the end: what is the best so far was measured on them."""
    held_out = HeldOut(rows, ["pitch"], prepare)
    alone = held_out.evenly(64, 0, 1)["pitch"].tolist()
    slices = [held_out.evenly(64, rank, world_size)["pitch"] for rank in range(world_size)]
    together = torch.cat(slices).tolist()
    assert together == alone[: len(together)] and len(alone) - len(together) < world_size


def test_of_fewer_held_out_rows_than_workers_several_have_the_same(rows: Rows, tmp_path: Path) -> None:
    held_out = HeldOut(rows, ["pitch"], prepare)
    assert held_out.num_evenly(2, 3) == 3 and held_out.num_evenly(10, 3) == 9
    slices = [held_out.evenly(2, rank, 3)["pitch"] for rank in range(3)]
    assert [len(pitch_B) for pitch_B in slices] == [1, 1, 1] and torch.cat(slices).unique().numel() == 3
    only_one = HeldOut(numbered(tmp_path, 1), ["pitch"], prepare)
    assert [only_one.evenly(8, rank, 2)["pitch"].tolist() for rank in range(2)] == [[0], [0]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_workers_share_the_batch_whether_they_divide_it_or_not(rows: Rows, world_size: int) -> None:
    slices = [batches_of(rows).load(3, rank, world_size)["place"] for rank in range(world_size)]
    places = torch.cat(slices).tolist()
    assert places == list(range(len(places))) and len(places) == batches_of(rows).batch_size
    lengths = [len(places_B) for places_B in slices]
    assert max(lengths) - min(lengths) <= 1


def test_a_batch_with_too_few_rows_is_refused() -> None:
    require_rows(TrainConfig(batch_size=6, accumulate=2), 3)
    told = r"size: 5 rows are too few for 3 workers with train\.accumulate = 2: choose at least 6, or fewer --workers"
    with pytest.raises(ValueError, match=told):
        require_rows(TrainConfig(batch_size=5, accumulate=2), 3)


def test_noise_depends_on_seed_step_and_place_alone() -> None:
    places = torch.arange(6)
    noise = keyed_uniform(3, 5, places, 4)
    assert noise.shape == (6, 4) and noise.dtype == torch.float32
    torch.testing.assert_close(torch.cat([keyed_uniform(3, 5, places[i : i + 2], 4) for i in (0, 2, 4)]), noise)
    assert torch.equal(keyed_uniform(3, 5, places, 2), noise[:, :2])
    everywhere = torch.cat([keyed_uniform(seed, step, places, 4) for seed in (3, 4) for step in (5, 6)])
    assert len(everywhere.unique()) == everywhere.numel()


def test_noise_is_uniform() -> None:
    noise = keyed_uniform(0, 0, torch.arange(2000), 3).sort(0).values
    expected = torch.linspace(0, 1, 2000)[:, None]
    assert (noise - expected).abs().max() < 0.05  # Kolmogorov-Smirnov: the chance is below 1e-4
