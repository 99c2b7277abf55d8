"""The last scale's codes, fitted to one another, against the same by brute force."""

from itertools import product

import pytest
import torch
from torch import Tensor

from mars_dist.config import TokenizerConfig
from mars_dist.quantizer import MultiScaleQuantizer
from mars_dist.scales import Size

SCHEDULES = {
    "several of each set": (Size(1, 1), Size(3, 2), Size(7, 5)),
    "one column": (Size(1, 1), Size(5, 1)),
    "smaller than the window": (Size(1, 1), Size(2, 2)),
    "one token": (Size(1, 1),),
}


def quantizer_of(schedule: str, last_scale: str = "fitted", branches: int = 1) -> MultiScaleQuantizer:
    torch.manual_seed(0)
    config = TokenizerConfig(
        scales=SCHEDULES[schedule],
        codebook_size=12,
        code_width=6,
        branches=branches,
        last_scale=last_scale,  # type: ignore[arg-type]
    )
    return MultiScaleQuantizer(config).double()


def latents(quantizer: MultiScaleQuantizer) -> Tensor:
    return torch.randn(4, quantizer.config.code_width, *quantizer.schedule.latent_grid).double()


def distance_B(quantizer: MultiScaleQuantizer, f_BChw: Tensor, codes_BL: Tensor) -> Tensor:
    return (f_BChw - quantizer.decode(codes_BL)).square().sum((1, 2, 3))


@torch.no_grad()
def by_brute_force(quantizer: MultiScaleQuantizer, f_BChw: Tensor, codes_BL: Tensor) -> Tensor:
    """Each code of the last scale in turn takes the value with which decoding comes nearest, the others as they are."""
    height, width = quantizer.schedule.latent_grid
    codes_BhwP = codes_BL.clone()[:, quantizer.config.code_spans[-1]].unflatten(1, (height, width, -1))
    codes_BL = codes_BL.clone()
    for row, column in product(range(3), range(3)):
        for y, x in product(range(row, height, 3), range(column, width, 3)):
            for branch in range(quantizer.config.branches):
                tried = []
                for code in range(quantizer.config.codebook_size):
                    codes_BhwP[:, y, x, branch] = code
                    codes_BL[:, quantizer.config.code_spans[-1]] = codes_BhwP.flatten(1)
                    tried.append(distance_B(quantizer, f_BChw, codes_BL))
                codes_BhwP[:, y, x, branch] = torch.stack(tried).argmin(0)
    codes_BL[:, quantizer.config.code_spans[-1]] = codes_BhwP.flatten(1)
    return codes_BL


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_is_what_brute_force_finds(schedule: str, branches: int) -> None:
    nearest, fitted = (quantizer_of(schedule, last_scale, branches) for last_scale in ("nearest", "fitted"))
    f_BChw = latents(fitted)
    assert torch.equal(fitted.encode(f_BChw), by_brute_force(fitted, f_BChw, nearest.encode(f_BChw)))


def test_it_comes_nearer_and_leaves_coarse_codes_alone() -> None:
    nearest, fitted = (quantizer_of("several of each set", last_scale) for last_scale in ("nearest", "fitted"))
    f_BChw = latents(fitted)
    codes_BL, fitted_BL = nearest.encode(f_BChw), fitted.encode(f_BChw)
    start = fitted.schedule.spans[-1].start
    assert torch.equal(codes_BL[:, :start], fitted_BL[:, :start])
    assert (distance_B(fitted, f_BChw, fitted_BL) < 0.95 * distance_B(nearest, f_BChw, codes_BL)).all()
