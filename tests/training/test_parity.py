"""One process, two FSDP workers and a run that was killed half-way train the same model: float32, all stages."""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from mars_dist.config import AutoregressorRunConfig, TokenizerRunConfig
from mars_dist.errors import TrainingFailed
from mars_dist.model import Mars, load_tokenizer, save_tokenizer
from mars_dist.tokenizer import Tokenizer
from mars_dist.training.compilation import lacking_compiler
from mars_dist.training.plan import KINDS, Plan
from mars_dist.training.run import LocalRun

from .worker import first_gradients

GOLDEN = Path(__file__).parents[1] / "golden"
STAGES = ("trained_tokenizer", "trained_autoregressor")
WITH_OPTIONS = ("tokenizer_with_options", "autoregressor_with_options")
CLASSIFIER = "trained_classifier"
"""It remembers nothing from step to step, so its gradients tell enough."""

RunWorkers = Callable[..., list[int | None]]
Losses = Callable[[Plan], list[float]]
State = Callable[[Plan], dict[str, torch.Tensor]]


@pytest.fixture(params=[*STAGES, CLASSIFIER])
def one(request: pytest.FixtureRequest) -> Plan:
    """An undisturbed run in one process."""
    plan: Plan = request.getfixturevalue(request.param)
    return plan


@pytest.fixture(params=[*STAGES, *WITH_OPTIONS])
def any_one(request: pytest.FixtureRequest) -> Plan:
    """An undisturbed run in one process, as it is by default or with all that can be chosen."""
    plan: Plan = request.getfixturevalue(request.param)
    return plan


@pytest.fixture
def on_untrained_codes(
    autoregressor_config: AutoregressorRunConfig,
    tokenizer_config: TokenizerRunConfig,
    encode_here: Callable[[Plan], str],
    train_here: Callable[[Plan], None],
    tmp_path: Path,
) -> Plan:
    """20 steps of an autoregressor on the codes of an untrained tokenizer: on another machine a trained one's weights
    are rounded otherwise, and of two codes nearly as near the other one may be chosen."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(tokenizer_config.tokenizer, tokenizer_config.spectrogram, tokenizer_config.codebook)
    made = Plan(tokenizer_config, "", tmp_path / "tokenizer")
    save_tokenizer(tmp_path / "tokenizer", tokenizer.state_dict(), tokenizer_config, {})
    plan = Plan(autoregressor_config, encode_here(made), tmp_path / "autoregressor", made.folder)
    train_here(plan)
    return plan


@pytest.mark.parametrize("one", ["trained_tokenizer", "on_untrained_codes", CLASSIFIER], indirect=True)
def test_golden_losses(one: Plan, losses: Losses) -> None:
    """`make golden` remakes them: read the diff."""
    [name] = [name for name, kind in KINDS.items() if isinstance(one.config, kind)]
    path = GOLDEN / f"{name}.json"
    if "REMAKE_GOLDEN" in os.environ:
        path.write_text(json.dumps(losses(one), indent=1) + "\n")
    golden = json.loads(path.read_text())
    assert len(golden) == 20
    np.testing.assert_allclose(losses(one), golden, rtol=1e-3)


@pytest.mark.parametrize("any_one", [*STAGES, *WITH_OPTIONS, CLASSIFIER], indirect=True)
def test_gradients_of_two_workers_are_those_of_one(any_one: Plan, run_workers: RunWorkers, tmp_path: Path) -> None:
    plan = replace(any_one, folder=tmp_path / "run")
    run_workers(plan, 2, gradients=tmp_path / "2.pt")
    require_near(torch.load(tmp_path / "2.pt"), gradients_here(plan))


def gradients_here(plan: Plan) -> dict[str, torch.Tensor]:
    """On one thread, as the workers do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gradients = first_gradients(plan, LocalRun(Path(plan.folder)))
    torch.set_num_threads(threads)
    return gradients


def test_gradients_of_workers_with_unequal_shares_are_those_of_one(
    tokenizer_with_options: Plan, run_workers: RunWorkers, tmp_path: Path
) -> None:
    """Four rows for three of them."""
    plan = replace(tokenizer_with_options, folder=tmp_path / "run")
    run_workers(plan, 3, gradients=tmp_path / "3.pt")
    require_near(torch.load(tmp_path / "3.pt"), gradients_here(plan))


def test_workers_with_unequal_shares_train_like_one(
    autoregressor_with_options: Plan, run_workers: RunWorkers, losses: Losses, final_state: State, tmp_path: Path
) -> None:
    """Of rows, of parameters, and of the matrices that Muon makes orthogonal."""
    plan = replace(autoregressor_with_options, folder=tmp_path / "run")
    assert run_workers(plan, 3) == [0, 0, 0]
    np.testing.assert_allclose(losses(plan), losses(autoregressor_with_options), rtol=1e-3)
    # The losses hardly tell whether each matrix has moved in its own direction: the weights do.
    found, expected = (
        {name: tensor for name, tensor in final_state(run).items() if name.startswith("/model/")}
        for run in (plan, autoregressor_with_options)
    )
    require_near(found, expected)


@pytest.mark.parametrize("any_one", [*STAGES, "autoregressor_with_options", CLASSIFIER], indirect=True)
@pytest.mark.parametrize("parts", [2, 3])
def test_accumulated_gradients_train_the_same_model(
    any_one: Plan, parts: int, train_here: Callable[[Plan], None], losses: Losses, tmp_path: Path
) -> None:
    train = replace(any_one.config.train, accumulate=parts)
    plan = replace(any_one, config=replace(any_one.config, train=train), folder=tmp_path)
    train_here(plan)
    np.testing.assert_allclose(losses(plan), losses(any_one), rtol=1e-3)


def require_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Gradients or weights, as near as the order of sums allows."""
    assert found.keys() == expected.keys() and len(expected) > 10
    scale = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    assert scale > 1e-3
    for name, gradient in expected.items():
        assert (gradient - found[name]).norm() <= 1e-5 * max(gradient.norm(), 1e-3 * scale), name


@pytest.mark.parametrize("any_one", WITH_OPTIONS, indirect=True)
def test_two_workers_train_like_one_even_when_killed_half_way(
    any_one: Plan, run_workers: RunWorkers, losses: Losses, final_state: State, tmp_path: Path
) -> None:
    """Undisturbed, killed and resumed at two workers, killed at two and resumed at four."""
    undisturbed, killed, moved = (
        replace(any_one, folder=tmp_path / name) for name in ("undisturbed", "killed", "moved")
    )
    assert run_workers(undisturbed, 2) == [0, 0]
    np.testing.assert_allclose(losses(undisturbed), losses(any_one), rtol=1e-3)

    assert run_workers(killed, 2, die_at=10) == [-9, -9]
    assert not (killed.folder / "training" / "step_00000020").exists()
    shutil.copytree(killed.folder, moved.folder)
    assert run_workers(killed, 2) == [0, 0]
    assert losses(killed) == losses(undisturbed)
    require_same(final_state(killed), final_state(undisturbed))

    assert run_workers(moved, 4) == [0] * 4
    np.testing.assert_allclose(losses(moved), losses(any_one), rtol=1e-3)


def test_any_number_of_workers_goes_on_from_the_same_weights(
    tokenizer_with_options: Plan, run_workers: RunWorkers, tmp_path: Path
) -> None:
    """From what one worker has saved, bit for bit."""
    for world_size in (1, 2, 4):
        run_workers(tokenizer_with_options, world_size, resumed=tmp_path / f"{world_size}.pt")
    loaded = [torch.load(tmp_path / f"{world_size}.pt") for world_size in (1, 2, 4)]
    for other in loaded[1:]:
        require_same(other, loaded[0])


@pytest.mark.parametrize("any_one", [*STAGES, "autoregressor_with_options"], indirect=True)
def test_replicas_and_recomputed_activations_train_the_same_model(
    any_one: Plan, run_workers: RunWorkers, losses: Losses, tmp_path: Path
) -> None:
    """Two whole copies in two workers."""
    train = replace(any_one.config.train, replicas=2, recompute="blocks")
    plan = replace(any_one, config=replace(any_one.config, train=train), folder=tmp_path / "run")
    assert run_workers(plan, 2) == [0, 0]
    np.testing.assert_allclose(losses(plan), losses(any_one), rtol=1e-3)
    again = replace(plan, folder=tmp_path / "again")
    run_workers(again, 2, gradients=tmp_path / "2.pt")
    require_near(torch.load(tmp_path / "2.pt"), gradients_here(replace(any_one, folder=tmp_path / "here")))


@pytest.mark.skipif(lacking_compiler(torch.device("cpu")) is not None, reason="no compiler of C++ to test with")
@pytest.mark.filterwarnings("ignore")  # torch.compile asks torch what torch then warns of
@pytest.mark.parametrize("any_one", STAGES, indirect=True)
def test_compiled_blocks_have_the_same_gradients(any_one: Plan, tmp_path: Path) -> None:
    train = replace(any_one.config.train, compile=True)
    plan = replace(any_one, config=replace(any_one.config, train=train), folder=tmp_path / "run")
    counters.clear()
    found = gradients_here(plan)
    assert counters["stats"]["unique_graphs"] > 0
    require_near(found, gradients_here(replace(any_one, folder=tmp_path / "here")))


def test_without_a_compiler_training_says_what_to_install(
    trained_tokenizer: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = replace(trained_tokenizer.config.train, compile=True)
    plan = replace(trained_tokenizer, config=replace(trained_tokenizer.config, train=train), folder=tmp_path / "run")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(TrainingFailed, match=r"^train\.compile: needs g\+\+ or clang\+\+ on every machine: install"):
        plan.train(LocalRun(tmp_path / "run"))


def test_a_killed_run_ends_bit_for_bit_like_an_undisturbed_one(
    any_one: Plan,
    run_workers: RunWorkers,
    train_here: Callable[[Plan], None],
    losses: Losses,
    final_state: State,
    tmp_path: Path,
) -> None:
    killed = replace(any_one, folder=tmp_path / "killed")
    assert run_workers(killed, 1, die_at=10) == [-9]
    train_here(killed)
    assert losses(killed) == losses(any_one)
    require_same(final_state(killed), final_state(any_one))


@pytest.mark.parametrize("any_one", [*STAGES, CLASSIFIER], indirect=True)
def test_validation_leaves_no_trace(
    any_one: Plan,
    train_here: Callable[[Plan], None],
    losses: Losses,
    final_state: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether weights are exported after it or not: the step that follows has the trained ones, not their average."""
    monkeypatch.setattr(any_one.stage(LocalRun(tmp_path)).__class__, "better", lambda *figures: False)
    train = replace(any_one.config.train, validate_every=3, checkpoint_every=20)
    plan = replace(any_one, config=replace(any_one.config, train=train), folder=tmp_path / "run")
    train_here(plan)
    assert losses(plan) == losses(any_one)
    found, expected = final_state(plan), final_state(any_one)
    assert all(torch.equal(found[name], expected[name]) for name in expected if name.startswith("/model/"))


@pytest.mark.parametrize("any_one", [*STAGES, CLASSIFIER], indirect=True)
def test_validation_has_no_more_rows_at_once_than_training(any_one: Plan, tmp_path: Path) -> None:
    """So that what fits into a GPU in training does in validation."""
    train = replace(any_one.config.train, batch_size=4, accumulate=2, validation_rows=3)
    stage = replace(any_one, config=replace(any_one.config, train=train)).stage(LocalRun(tmp_path))
    num_rows = list[int]()
    stage.model.register_forward_pre_hook(lambda _, inputs: num_rows.append(len(inputs[0])))
    stage.model.eval()
    with torch.no_grad():
        stage.validate()
    assert num_rows == [2, 1]


def require_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() and len(expected) > 30
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_codebook_comes_alive(trained_tokenizer: Plan) -> None:
    tokenizer, _ = load_tokenizer(trained_tokenizer.folder)
    lengths = tokenizer.quantizer.codebook_Rc.norm(dim=1)
    assert (lengths > 0).all()
    metrics = json.loads((trained_tokenizer.folder / "metrics.json").read_text())
    assert metrics["codebook/usage_all"] > 0.2


def test_losses_fall(one: Plan, losses: Losses) -> None:
    values = losses(one)
    assert len(values) == 20 and all(map(math.isfinite, values))
    assert np.mean(values[-3:]) < np.mean(values[:3])


@pytest.mark.parametrize("name", ["trained_autoregressor", "autoregressor_with_options"])
def test_a_trained_folder_makes_sound(name: str, request: pytest.FixtureRequest) -> None:
    mars = Mars.from_pretrained(request.getfixturevalue(name).folder)
    waves = mars.generate(2, pitch=50, instrument=mars.vocabulary.instruments[0])
    assert waves.shape == (2, 2000) and np.isfinite(waves).all() and np.abs(waves).max() > 0
