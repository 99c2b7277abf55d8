"""Small trainings in several real processes."""

import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from mars_dist.config import AdversaryConfig, AutoregressorRunConfig, TokenizerRunConfig
from mars_dist.scales import Size
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan

from .worker import Asked, work

EVERY_CODEBOOK = {
    "scales": (Size(1, 1), Size(2, 1), Size(2, 2), Size(4, 2)),
    "stem": 1,
    "codebooks": "per_scale",
    "branches": 2,
    "codebook_projection": True,
}
# Workers are forks of one process that has imported torch: seconds less for each of a hundred.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([work.__module__])
SECONDS = 300
RunWorkers = Callable[..., list[int | None]]


@pytest.fixture(scope="session")
def tokenizer_with_options(
    tokenizer_plan: Plan, train_here: Callable[[Plan], None], tmp_path_factory: pytest.TempPathFactory
) -> Plan:
    """20 steps with what a tokenizer does not have by default, all at once."""
    config = tokenizer_plan.config
    assert isinstance(config, TokenizerRunConfig)
    config = replace(
        config,
        tokenizer=replace(config.tokenizer, **EVERY_CODEBOOK),
        loss=replace(config.loss, multi_resolution=0.1, mel=0.1, delta=0.1),
        codebook=replace(config.codebook, gradient="rotation", dropout=0.5),
        adversary=AdversaryConfig(weight=0.5, start=0.0, width=4, resolutions=2),
        optim=replace(config.optim, optimizer="muon"),
    )
    plan = replace(tokenizer_plan, config=config, folder=tmp_path_factory.mktemp("options") / "tokenizer")
    train_here(plan)
    return plan


@pytest.fixture(scope="session")
def autoregressor_with_options(
    autoregressor_plan: Plan,
    tokenizer_with_options: Plan,
    encode_here: Callable[[Plan], str],
    train_here: Callable[[Plan], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Plan:
    """20 steps, on that tokenizer's codes, with what an autoregressor does not have by default."""
    config = autoregressor_plan.config
    assert isinstance(config, AutoregressorRunConfig)
    options = {"positions": "rotary", "modulation": "own", "scale_weight": 1.0, "condition_on_qualities": True}
    optim = replace(config.optim, optimizer="muon")
    config = replace(config, autoregressor=replace(config.autoregressor, **options), optim=optim)
    folder = tmp_path_factory.mktemp("options") / "autoregressor"
    plan = Plan(config, encode_here(tokenizer_with_options), folder, tokenizer_with_options.folder)
    train_here(plan)
    return plan


@pytest.fixture(scope="session")
def run_workers(tmp_path_factory: pytest.TempPathFactory) -> RunWorkers:
    """Run a plan in so many real processes; returns their exit codes, 3 where training failed."""

    def run(plan: Plan, world_size: int, **asked: Any) -> list[int | None]:
        scratch = tmp_path_factory.mktemp("workers")
        ranks = range(world_size)
        workers = [PROCESSES.Process(target=work, args=(plan, r, world_size, scratch, Asked(**asked))) for r in ranks]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(SECONDS)
        exits = [worker.exitcode for worker in workers]  # before those that hang are killed: their death is no answer
        for worker in workers:
            worker.kill()
        errors = "\n".join(path.read_text() for path in sorted(scratch.glob("errors-*.txt")))
        assert all(code in (0, 3, -signal.SIGKILL) for code in exits), f"{exits}\n{errors}"
        return exits

    return run


def state_of(plan: Plan, step: int, scratch: Path) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint holds, flat."""
    whole = scratch / "whole.pt"
    dcp_to_torch_save(plan.folder / "training" / f"step_{step:08d}", whole)
    flat: dict[str, torch.Tensor] = {}

    def flatten(value: object, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                flatten(inner, f"{name}/{key}")
        elif isinstance(value, torch.Tensor):
            flat[name] = value

    flatten(torch.load(whole, weights_only=True), "")
    return flat


@pytest.fixture
def final_state(tmp_path: Path) -> Callable[[Plan], dict[str, torch.Tensor]]:
    return lambda plan: state_of(plan, 20, tmp_path)


@pytest.fixture(scope="session")
def losses() -> Callable[[Plan], list[float]]:
    """The loss of each step."""
    return lambda plan: [line["loss"] for line in read_metrics(plan.folder, "train")]
