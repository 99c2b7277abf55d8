"""What the autoregressor is trained to be asked for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mars_dist.conditions import QUALITY_CONDITIONS, UNASKED
from mars_dist.config import AutoregressorRunConfig
from mars_dist.model import Mars
from mars_dist.nsynth import QUALITIES
from mars_dist.training.autoregressor_stage import AutoregressorStage
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun

NUM = 20_000


@pytest.fixture
def plan(autoregressor_plan: Plan, tmp_path: Path) -> Plan:
    """Two steps with qualities among the conditions."""
    config = autoregressor_plan.config
    assert isinstance(config, AutoregressorRunConfig)
    model = replace(config.autoregressor, condition_on_qualities=True, drop_all_conditions=0.2, drop_each_condition=0.1)
    steps = replace(config.train, steps=2, checkpoint_every=2, validate_every=2)
    return replace(autoregressor_plan, config=replace(config, autoregressor=model, train=steps), folder=tmp_path)


@pytest.fixture
def stage(plan: Plan) -> AutoregressorStage:
    stage = plan.stage(LocalRun(plan.folder))
    assert isinstance(stage, AutoregressorStage)
    return stage


def test_a_batch_has_each_notes_qualities(stage: AutoregressorStage) -> None:
    """Those of the short notes: pitch p has quality p % 10."""
    batch = stage.batches.load(0, 0, 1)
    for i, pitch in enumerate(batch["pitch"].tolist()):
        assert [int(batch[f"quality_{name}"][i]) for name in QUALITIES] == [int(j == pitch % 10) for j in range(10)]


def test_conditions_are_dropped_all_together_alone_and_qualities_as_one(stage: AutoregressorStage) -> None:
    torch.manual_seed(0)
    conditions = {name: torch.zeros(NUM, dtype=torch.long) for name in stage.vocabulary.cardinalities}
    dropped = stage.drop_conditions(conditions, torch.rand(NUM, 2 + len(conditions)))
    gone = {name: values_B == UNASKED for name, values_B in dropped.items()}

    def share(gone_B: Tensor) -> float:
        return gone_B.float().mean().item()

    qualities_BQ = torch.stack([gone.pop(name) for name in QUALITY_CONDITIONS.values()], dim=1)
    others_BN = torch.stack(list(gone.values()), dim=1)
    assert share(torch.cat([others_BN, qualities_BQ], dim=1).all(dim=1)) == pytest.approx(0.2, abs=0.01)
    for gone_B in others_BN.T:
        assert share(gone_B) == pytest.approx(1 - 0.8 * 0.9, abs=0.01)
    for gone_B in qualities_BQ.T:
        assert share(gone_B) == pytest.approx(1 - 0.8 * 0.9 * 0.9, abs=0.01)
    assert share(qualities_BQ.all(dim=1)) == pytest.approx(1 - 0.8 * 0.9, abs=0.01)
    kept_B = ~qualities_BQ.all(dim=1)
    assert share(others_BN[kept_B, 0]) == pytest.approx(0.1, abs=0.01)


def test_its_folder_knows_the_training_notes(plan: Plan, train_here: Callable[[Plan], None]) -> None:
    train_here(plan)
    mars = Mars.from_pretrained(plan.folder)
    assert mars.histogram.counts_N.tolist() == [1] * 12
    [note] = mars.labels(pitch=52)
    assert note == {
        "pitch": 52,
        "velocity": 100,
        "family": "string",
        "source": "acoustic",
        "instrument": "string_acoustic_052",
        "qualities": ["distortion"],
    }
    assert [note["pitch"] for note in mars.labels(5, qualities=["distortion"])] == [52] * 5
    assert mars.generate(2, qualities=["bright"]).shape == (2, 2000)
