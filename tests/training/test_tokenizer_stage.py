"""What a tokenizer's training draws and tells."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mars_dist.config import TokenizerRunConfig
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun
from mars_dist.training.tokenizer_stage import TokenizerStage

NUM = 20_000


class Telling(LocalRun):
    """Keeps what it is told to say."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def run(tmp_path: Path) -> Telling:
    return Telling(tmp_path)


def stage_of(plan: Plan, run: Telling, **codebook: float) -> TokenizerStage:
    config = plan.config
    assert isinstance(config, TokenizerRunConfig)
    stage = replace(plan, config=replace(config, codebook=replace(config.codebook, **codebook))).stage(run)
    assert isinstance(stage, TokenizerStage)
    return stage


def test_dropout_leaves_out_the_last_scale_of_some_notes(tokenizer_with_options: Plan, run: Telling) -> None:
    """Of four scales three at least: half of the notes are drawn, and of these half have three."""
    counts_B = stage_of(tokenizer_with_options, run, dropout=0.5).num_scales(torch.arange(NUM), step=3)
    assert counts_B is not None and set(counts_B.tolist()) == {3, 4}
    assert (counts_B == 3).float().mean().item() == pytest.approx(0.25, abs=0.01)


def test_without_dropout_every_scale_counts(tokenizer_plan: Plan, run: Telling) -> None:
    assert stage_of(tokenizer_plan, run).num_scales(torch.arange(4), step=3) is None


def test_the_codebooks_health_is_told_with_what_to_try(tokenizer_plan: Plan, run: Telling) -> None:
    """All codes alike: every scale uses one."""
    stage = stage_of(tokenizer_plan, run)
    stage.born = True
    with torch.no_grad():
        stage.model.quantizer.codebook_Rc.zero_()  # type: ignore[union-attr, operator]
    stage.validate()
    health, warning = run.lines
    assert health.startswith("tokenizer: codes in use (perplexity): 0_1x1 ") and "2_4x2 3% (1)" in health
    assert warning.startswith("tokenizer: few codes in use at scales ") and "--codebook.dead-share" in warning


def test_nothing_is_told_of_a_codebook_that_is_not_born(tokenizer_plan: Plan, run: Telling) -> None:
    stage_of(tokenizer_plan, run).validate()
    assert run.lines == []
