"""Training that starts from a trained model, and training that ends early."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mars_dist.autoregressor import Autoregressor
from mars_dist.config import AutoregressorRunConfig, TokenizerRunConfig
from mars_dist.model import Mars
from mars_dist.training.fine_tuning import matched, require_same_autoregressor, start_autoregressor
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun

Train = Callable[[Plan], None]


@pytest.fixture(params=["trained_tokenizer", "trained_autoregressor"])
def trained(request: pytest.FixtureRequest) -> Plan:
    plan: Plan = request.getfixturevalue(request.param)
    return plan


def changed(plan: Plan, part: str, **settings: Any) -> Plan:
    return replace(plan, config=replace(plan.config, **{part: replace(getattr(plan.config, part), **settings)}))


def test_a_stage_starts_with_the_folders_weights(trained: Plan, tmp_path: Path) -> None:
    stage = replace(trained, folder=tmp_path, init_from=trained.folder).stage(LocalRun(tmp_path))
    weights = load_file(trained.folder / "model.safetensors")
    assert stage.model.state_dict().keys() == weights.keys()
    for name, tensor in stage.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_fine_tuning_goes_on_from_where_the_model_stood(trained: Plan, train_here: Train, tmp_path: Path) -> None:
    """With next to no learning rate the first validation is the trained model's last."""
    plan = changed(replace(trained, folder=tmp_path, init_from=trained.folder), "optim", lr=1e-12)
    train_here(changed(plan, "train", steps=6, validate_every=6))
    [again] = read_metrics(plan.folder, "valid")
    best = "mse" if trained.tokenizer is None else "loss"
    before = min(line[best] for line in read_metrics(trained.folder, "valid"))
    assert again[best] == pytest.approx(before, rel=1e-3)


def test_a_born_codebook_is_not_born_again(trained_tokenizer: Plan, train_here: Train, tmp_path: Path) -> None:
    """Although the steps pass start_step."""
    plan = changed(replace(trained_tokenizer, folder=tmp_path, init_from=trained_tokenizer.folder), "optim", lr=1e-12)
    train_here(changed(changed(plan, "codebook", restart_every=0), "train", steps=6))
    name = "quantizer.codebook_Rc"
    before = load_file(trained_tokenizer.folder / "model.safetensors")[name]
    torch.testing.assert_close(load_file(tmp_path / "model.safetensors")[name], before)


def test_instruments_are_matched_by_name() -> None:
    own_ND, other_ND = torch.zeros(4, 2), torch.arange(6.0).view(3, 2)
    table_ND = matched(own_ND, ("new", "flute", "oboe"), other_ND, ("oboe", "flute"))
    assert table_ND.tolist() == [[0, 0], [2, 3], [0, 1], [4, 5]]


def test_other_data_have_other_instruments(trained_autoregressor: Plan) -> None:
    """Those that both have keep what was learnt of them."""
    config = trained_autoregressor.config
    assert isinstance(config, AutoregressorRunConfig)
    mars = Mars.from_pretrained(trained_autoregressor.folder)
    before = mars.vocabulary.instruments
    vocabulary = replace(mars.vocabulary, instruments=("a new one", before[3]))
    model = Autoregressor(config.autoregressor, mars.tokenizer.config, vocabulary.cardinalities)
    start_autoregressor(model, vocabulary, trained_autoregressor.folder)
    weights = load_file(trained_autoregressor.folder / "model.safetensors")
    table_ND = model.state_dict()["conditions.instrument.weight"]
    assert torch.equal(table_ND[1:], weights["conditions.instrument.weight"][[3, -1]])
    assert torch.equal(model.head.weight, weights["head.weight"])


def test_codes_of_another_shape_are_refused(trained_autoregressor: Plan, tokenizer_with_options: Plan) -> None:
    config = trained_autoregressor.config
    assert isinstance(config, AutoregressorRunConfig)
    with pytest.raises(ValueError, match=r"its model has tokenizer.scales = .*, not "):
        require_same_autoregressor(trained_autoregressor.folder, config, tokenizer_with_options.folder)


def test_what_is_no_shape_may_change(trained_autoregressor: Plan, tmp_path: Path) -> None:
    plan = replace(trained_autoregressor, folder=tmp_path, init_from=trained_autoregressor.folder)
    changed(plan, "autoregressor", drop_path=0.5, corrupt_codes=0.0, drop_each_condition=0.3).check(1)


def test_how_codes_are_chosen_may_change(trained_tokenizer: Plan, tmp_path: Path) -> None:
    plan = replace(trained_tokenizer, folder=tmp_path, init_from=trained_tokenizer.folder)
    changed(plan, "tokenizer", last_scale="nearest").check(1)


def test_another_shape_is_refused(trained: Plan, tmp_path: Path) -> None:
    plan = replace(trained, folder=tmp_path, init_from=trained.folder)
    plan.check(1)
    part = "tokenizer" if isinstance(trained.config, TokenizerRunConfig) else "autoregressor"
    with pytest.raises(ValueError, match=rf"--init-from {trained.folder}: its model has {part}.depth = \d, not 3"):
        changed(plan, part, depth=3).check(1)


def test_a_folder_of_the_other_kind_is_refused(trained_tokenizer: Plan, trained_autoregressor: Plan) -> None:
    plan = replace(trained_tokenizer, init_from=trained_autoregressor.folder)
    with pytest.raises(ValueError, match="holds a model of kind 'autoregressor', wanted is 'tokenizer'"):
        plan.check(1)


def test_training_ends_when_patience_does(trained_tokenizer: Plan, train_here: Train, tmp_path: Path) -> None:
    """Without learning no validation is better than the first with a codebook, that of step 4."""
    plan = changed(replace(trained_tokenizer, folder=tmp_path), "optim", lr=1e-12)
    plan = changed(changed(plan, "codebook", restart_every=0), "train", validate_every=2, patience=3, steps=40)
    for _ in range(2):  # what was saved last knows that it is the end
        train_here(plan)
        assert read_metrics(plan.folder, "train")[-1]["step"] == 10
    assert sorted(path.name for path in (tmp_path / "training").glob("step_*")) == ["step_00000010"]


def test_only_the_last_phase_ends_early(trained_tokenizer: Plan, train_here: Train, tmp_path: Path) -> None:
    """Without learning the latents alone, before the codebook is born at step 14, get no better either."""
    plan = changed(replace(trained_tokenizer, folder=tmp_path), "optim", lr=1e-12)
    plan = changed(changed(plan, "codebook", restart_every=0, start_step=14), "train", validate_every=2, patience=3)
    plan = changed(plan, "train", steps=40)
    train_here(plan)
    assert read_metrics(plan.folder, "train")[-1]["step"] == 20


def test_phases_of_training_do_not_compare(tokenizer_with_options: Plan, tmp_path: Path) -> None:
    """The codebook is born at step 4; with an adversary, which takes part from the start, newer is better."""
    config = tokenizer_with_options.config
    assert isinstance(config, TokenizerRunConfig)
    plans = (tokenizer_with_options, changed(tokenizer_with_options, "adversary", start=0.5))
    stages = [replace(plan, folder=tmp_path).stage(LocalRun(tmp_path)) for plan in plans]
    assert [[stage.phase(step) for step in (0, 3, 4, 9, 10)] for stage in stages] == [[1, 1, 2, 2, 2], [0, 0, 1, 1, 2]]
    assert stages[0].better({"mse": 2.0}, {"mse": 1.0})
    plain = replace(changed(plans[0], "adversary", weight=0.0), folder=tmp_path).stage(LocalRun(tmp_path))
    assert plain.better({"mse": 1.0}, {"mse": 2.0}) and not plain.better({"mse": 2.0}, {"mse": 2.0})
