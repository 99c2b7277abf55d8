"""Small trainings on real pictures, in one process or in several real ones."""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from mars_dist import codes
from mars_dist.config import (
    AutoregressorConfig,
    AutoregressorRunConfig,
    CodebookConfig,
    OptimConfig,
    SpectrogramConfig,
    TokenizerConfig,
    TokenizerRunConfig,
    TrainConfig,
)
from mars_dist.dataset import DatasetInfo, Folder
from mars_dist.scales import Size
from mars_dist.serialize import write_json
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun

WORKER = Path(__file__).with_name("worker.py")
STEPS = TrainConfig(
    steps=20,
    batch_size=4,
    precision="float32",
    shuffle_rows=8,
    log_every=1,
    checkpoint_every=10,
    validate_every=10,
    validation_rows=4,
)
OPTIM = OptimConfig(lr=2e-3, warmup_steps=4, ema=0.9)

RunWorkers = Callable[..., list[int]]


@pytest.fixture(scope="session")
def tokenizer_config() -> TokenizerRunConfig:
    """float32, rectangular scales; the codebook is born at step 4 and restarted from step 8 on."""
    return TokenizerRunConfig(
        spectrogram=SpectrogramConfig(num_samples=2000, n_fft=128, hop=125, cmx=Size(4, 4)),
        tokenizer=TokenizerConfig(
            patch=Size(4, 2),
            scales=(Size(1, 1), Size(2, 1), Size(4, 2)),
            codebook_size=32,
            code_width=8,
            width=32,
            depth=1,
            head_width=16,
        ),
        codebook=CodebookConfig(start_step=4, restart_every=4),
        optim=OPTIM,
        train=STEPS,
    )


@pytest.fixture(scope="session")
def autoregressor_config() -> AutoregressorRunConfig:
    """float32, with every kind of noise that training has."""
    model = AutoregressorConfig(
        width=32, depth=2, head_width=16, drop_path=0.2, condition_on_instrument=True, corrupt_codes=0.3
    )
    return AutoregressorRunConfig(model, replace(OPTIM, weight_decay=0.05), STEPS)


@pytest.fixture(scope="session")
def train_here() -> Callable[[Plan], None]:
    """Run a plan in this process, on one thread, as the workers do."""

    def train(plan: Plan) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        plan.train(LocalRun(plan.folder))
        torch.set_num_threads(threads)

    return train


@pytest.fixture(scope="session")
def run_workers(tmp_path_factory: pytest.TempPathFactory) -> RunWorkers:
    """Run a plan in so many real processes; returns their exit codes."""

    def run(plan: Plan, world_size: int, *options: str) -> list[int]:
        scratch = tmp_path_factory.mktemp("workers")
        write_json(scratch / "plan.json", plan.to_plain())
        words = [sys.executable, str(WORKER), str(scratch / "plan.json")]
        ends = [str(world_size), str(scratch / "store"), *options]
        workers = [subprocess.Popen([*words, str(rank), *ends], stderr=subprocess.PIPE) for rank in range(world_size)]
        errors = [worker.communicate(timeout=300)[1].decode() for worker in workers]
        exits = [worker.returncode for worker in workers]
        assert all(code in (0, -signal.SIGKILL) for code in exits), "\n".join(errors)
        return exits

    return run


@pytest.fixture(scope="session")
def tokenizer_plan(
    tokenizer_config: TokenizerRunConfig, short_pictures: str, tmp_path_factory: pytest.TempPathFactory
) -> Plan:
    return Plan(tokenizer_config, short_pictures, tmp_path_factory.mktemp("tokenizer") / "one")


@pytest.fixture(scope="session")
def trained_tokenizer(tokenizer_plan: Plan, train_here: Callable[[Plan], None]) -> Plan:
    """20 undisturbed steps in one process."""
    train_here(tokenizer_plan)
    return tokenizer_plan


@pytest.fixture(scope="session")
def short_codes(trained_tokenizer: Plan, short_pictures: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pictures as codes of the trained tokenizer, made without Ray. Read only."""
    folder = Folder.open(tmp_path_factory.mktemp("codes") / "codes")
    config = trained_tokenizer.config
    assert isinstance(config, TokenizerRunConfig)
    info = codes.info_of(DatasetInfo.load(Folder.open(short_pictures)), trained_tokenizer.folder, config.tokenizer)
    for shard in info.shards:
        codes.make_shard(shard, short_pictures, trained_tokenizer.folder, folder)
    info.save(folder)
    return folder.name


@pytest.fixture(scope="session")
def autoregressor_plan(
    autoregressor_config: AutoregressorRunConfig,
    trained_tokenizer: Plan,
    short_codes: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Plan:
    folder = tmp_path_factory.mktemp("autoregressor") / "one"
    return Plan(autoregressor_config, short_codes, folder, str(trained_tokenizer.folder))


@pytest.fixture(scope="session")
def trained_autoregressor(autoregressor_plan: Plan, train_here: Callable[[Plan], None]) -> Plan:
    """20 undisturbed steps in one process."""
    train_here(autoregressor_plan)
    return autoregressor_plan


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
