"""Dead codes are counted between two restarts, and a checkpoint may lie between them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mars_dist.config import TokenizerRunConfig
from mars_dist.training.plan import Plan


def test_a_resume_between_two_restarts_changes_nothing(
    tokenizer_plan: Plan, train_here: Callable[[Plan], None], losses: Callable[[Plan], list[float]], tmp_path: Path
) -> None:
    """Restarts at steps 8, 12 and 16; 256 codes, of which many are dead each time."""
    config = tokenizer_plan.config
    assert isinstance(config, TokenizerRunConfig)
    config = replace(config, tokenizer=replace(config.tokenizer, codebook_size=256))
    undisturbed, resumed = (Plan(config, tokenizer_plan.data, tmp_path / name) for name in ("undisturbed", "resumed"))
    train_here(undisturbed)
    shutil.copytree(undisturbed.folder, resumed.folder)
    shutil.rmtree(resumed.folder / "training" / "step_00000020")
    train_here(resumed)
    assert len((resumed.folder / "metrics.jsonl").read_text().splitlines()) == 36  # steps 11 to 20 twice
    assert losses(resumed) == losses(undisturbed)
