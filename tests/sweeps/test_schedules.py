"""Schedules from generators: always valid, and the published ones where the grid is theirs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_dist.presets import TINY, squares
from mars_dist.scales import MOST_TOKENS, ScaleSchedule, Size
from mars_dist.sweeps.schedules import (
    IMAGE_FOLDER,
    VAR,
    Generator,
    Schedule,
    geometric,
    image_folder,
    linear,
    one_column,
    var,
    within,
)

grids = st.builds(Size, st.integers(1, 40), st.integers(1, 40))
generators = st.sampled_from([linear, geometric])


def tokens(schedule: Schedule) -> int:
    return sum(size.area for size in schedule)


def require_valid(schedule: Schedule, grid: Size) -> None:
    assert schedule[-1] == grid
    if tokens(schedule) <= MOST_TOKENS:
        ScaleSchedule(schedule)


@given(generators, grids, st.integers(2, 20))
def test_a_number_of_scales_from_1x1_to_the_grid(make: Generator, grid: Size, num_scales: int) -> None:
    schedule = make(grid, num_scales)
    require_valid(schedule, grid)
    assert len(schedule) == num_scales


@given(st.sampled_from([var, image_folder]), grids)
def test_published_schedules_stretch_to_any_grid(make: object, grid: Size) -> None:
    assert callable(make)
    schedule = make(grid)
    require_valid(schedule, grid)
    require_valid(one_column(schedule), grid)
    assert {size.w for size in one_column(schedule)[:-1]} <= {1}


def test_published_schedules_are_themselves_on_their_own_grids() -> None:
    assert var(Size(16, 16)) == squares(*VAR)
    assert image_folder(Size(11, 11)) == squares(*IMAGE_FOLDER)
    assert var(Size(4, 4)) == squares(1, 2, 3, 4)
    assert len(image_folder(Size(4, 4))) == len(set(image_folder(Size(4, 4)))) + 2


def test_what_linear_and_geometric_are() -> None:
    assert linear(Size(9, 5), 5) == (Size(1, 1), Size(3, 2), Size(5, 3), Size(7, 4), Size(9, 5))
    assert geometric(Size(16, 4), 5) == (Size(1, 1), Size(2, 1), Size(4, 2), Size(8, 3), Size(16, 4))
    assert one_column(geometric(Size(16, 4), 5)) == TINY.tokenizer.tokenizer.scales


@given(generators, grids, st.integers(0, 1000))
def test_a_budget_of_tokens_is_kept_and_used(make: Generator, grid: Size, spare: int) -> None:
    budget = grid.area + 1 + spare
    schedule = within(budget, make, grid)
    require_valid(schedule, grid)
    assert len(set(schedule)) == len(schedule) and tokens(schedule) <= budget
    longer = make(grid, len(schedule) + 1)
    assert len(set(longer)) < len(longer) or tokens(longer) > budget


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scales: a 8x8 grid has more than 64 tokens: allow more"):
        within(64, linear, Size(8, 8))
    with pytest.raises(ValueError, match=r"scales: 1 of them do not lead from 1x1 to 8x8"):
        geometric(Size(8, 8), 1)
