"""One step of the loop."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mars_dist.config import TokenizerRunConfig
from mars_dist.training import sharding
from mars_dist.training.checkpoint import Position
from mars_dist.training.loop import update
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun


@pytest.mark.parametrize("share", [0.25, 0.999, 1.001, 4.0])
def test_a_gradient_longer_than_the_limit_is_shortened_to_it(
    share: float, tokenizer_plan: Plan, tmp_path: Path
) -> None:
    """`share`: the limit, of what the gradient's norm is. Plain gradient descent at a rate of 1 moves weights by it."""

    def step(clip: float) -> tuple[float, float]:
        config = tokenizer_plan.config
        assert isinstance(config, TokenizerRunConfig)
        config = replace(config, optim=replace(config.optim, clip=clip, lr=1.0, warmup_steps=0))
        run = LocalRun(tmp_path)
        stage = replace(tokenizer_plan, config=config, folder=tmp_path).stage(run)
        model = sharding.shard(stage.model, stage.train, run.device)
        before = [sharding.whole(parameter.detach()).clone() for parameter in model.parameters()]
        figures = update(stage, stage.batches.load(0, 0, 1), 0, torch.optim.SGD(model.parameters()), run)
        moves = [sharding.whole(p.detach()) - was for p, was in zip(model.parameters(), before, strict=True)]
        return figures["norm"], torch.cat([move.flatten() for move in moves]).double().norm().item()

    norm, moved = step(clip=1e9)
    assert moved == pytest.approx(norm, rel=1e-4)
    again, moved = step(clip=share * norm)
    assert again == norm
    assert moved == pytest.approx(min(share, 1.0) * norm, rel=1e-4)


@pytest.mark.parametrize("warmup_steps, told", [(6, True), (5, False)])
def test_a_warm_up_that_never_ends_is_told(
    warmup_steps: int, told: bool, tokenizer_plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where a long preset's steps alone are lowered, to try it out."""
    config = tokenizer_plan.config
    optim = replace(config.optim, warmup_steps=warmup_steps)
    config = replace(config, optim=optim, train=replace(config.train, steps=5))
    replace(tokenizer_plan, config=config, folder=tmp_path).train(LocalRun(tmp_path))
    line = "tokenizer: optim.warmup_steps = 6 of 5 steps: optim.lr is never reached"
    assert (line in capsys.readouterr().err.splitlines()) == told


def test_the_best_figures_are_those_of_the_phase() -> None:
    """Those of latents alone do not stand for the codes that were born since."""
    position = Position(step=40, best={"mse": 0.1}, phase=0)
    assert (position.best_of(0), position.best_of(1)) == ({"mse": 0.1}, {})
