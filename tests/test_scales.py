"""Sizes and schedules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_dist.scales import ScaleSchedule, Size

ODD = ScaleSchedule((Size(1, 1), Size(1, 2), Size(1, 2), Size(3, 2)))
positive = st.integers(1, 99)


@given(positive, positive)
def test_a_size_is_read_as_it_is_written(h: int, w: int) -> None:
    assert Size.parse(str(Size(h, w))) == Size(h, w)


def test_one_number_is_a_square() -> None:
    assert Size.parse("8") == Size(8, 8)
    assert Size.parse("8X4") == Size(8, 4)


@pytest.mark.parametrize("text", ["", "x", "8x", "x4", "8x4x2", "0x1", "-1x2", "2.5", "8 x 4", "²", "a"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        Size.parse(text)


def test_an_odd_schedule() -> None:
    assert (len(ODD), ODD.num_tokens, ODD.latent_grid) == (4, 11, (3, 2))
    assert ODD.ends == (1, 3, 5, 11)
    assert ODD.spans == (slice(0, 1), slice(1, 3), slice(3, 5), slice(5, 11))
    assert ODD.scale_of_token.tolist() == [0, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3]


def test_a_token_sees_its_own_scale_and_the_coarser_ones() -> None:
    mask_LL = ODD.mask()
    for k, rows in enumerate(ODD.spans):
        assert mask_LL[rows, : ODD.ends[k]].all()
        assert not mask_LL[rows, ODD.ends[k] :].any()
    assert mask_LL.dtype == np.bool_


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6))
def test_growing_sizes_are_a_schedule_and_their_tokens_are_counted_once(steps: list[tuple[int, int]]) -> None:
    sizes = [Size(1, 1)]
    for h, w in steps:
        sizes.append(Size(sizes[-1].h + h, sizes[-1].w + w))
    schedule = ScaleSchedule(tuple(sizes))
    tokens = [i for span in schedule.spans for i in range(span.start, span.stop)]
    assert tokens == list(range(schedule.num_tokens))
    assert schedule.num_tokens == sum(h * w for h, w in sizes)


@pytest.mark.parametrize(
    "sizes, rule",
    [
        ((), "must be 1x1"),
        ((Size(2, 2),), "the first scale is 2x2"),
        ((Size(1, 1), Size(3, 2), Size(2, 4)), "2x4 follows 3x2"),
        ((Size(1, 1), Size(2, 3), Size(4, 2)), "4x2 follows 2x3"),
    ],
)
def test_a_broken_rule_is_named(sizes: tuple[Size, ...], rule: str) -> None:
    with pytest.raises(ValueError, match=f"scales: .*{rule}"):
        ScaleSchedule(sizes)
