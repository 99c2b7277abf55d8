"""Muon against torch's own, alone and sharded, and what it is given."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mars_dist.autoregressor import Autoregressor
from mars_dist.config import AutoregressorConfig, OptimConfig, TokenizerConfig
from mars_dist.scales import Size
from mars_dist.training import muon
from mars_dist.training.muon import Muon, orthogonal
from mars_dist.training.optim import make_optimizer, matrices_of, num_moments
from mars_dist.training.run import LocalRun

TOKENIZER = TokenizerConfig(scales=(Size(1, 1), Size(2, 2)), codebook_size=16, code_width=4)
CONFIG = AutoregressorConfig(width=16, depth=2, head_width=8)
OPTIM = OptimConfig(optimizer="muon", lr=1e-2, weight_decay=0.1)


@pytest.fixture
def model(tmp_path: Path) -> Autoregressor:
    LocalRun(tmp_path)  # the process group
    torch.manual_seed(0)
    return Autoregressor(CONFIG, TOKENIZER, {"pitch": 4})


@pytest.mark.parametrize("shape", [(8, 8), (8, 24), (24, 8)])
def test_what_is_orthogonal_has_rows_or_columns_of_about_length_1(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x_NRC = torch.randn(2, *shape) @ torch.diag(torch.logspace(-1, 0, shape[1]))
    y_NRC, x_RC = orthogonal(x_NRC), x_NRC[1]
    assert y_NRC.shape == x_NRC.shape
    y_RC = y_NRC[1]
    assert ((torch.linalg.svdvals(y_RC) > 0.6) & (torch.linalg.svdvals(y_RC) < 1.3)).all()
    u_RS, _, vh_SC = torch.linalg.svd(x_RC, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(y_RC.flatten(), (u_RS @ vh_SC).flatten(), dim=0) > 0.95
    torch.testing.assert_close(orthogonal(1e-4 * x_NRC), y_NRC)
    assert not orthogonal(torch.zeros(1, *shape)).any()


@pytest.mark.parametrize("at_once", [muon.AT_ONCE, 1])
def test_matrices_move_as_by_torch_and_the_rest_as_by_adamw(
    at_once: int, model: Autoregressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.optim.Muon computes in bf16, and one matrix after the other."""
    monkeypatch.setattr(muon, "AT_ONCE", at_once)
    twin = Autoregressor(CONFIG, TOKENIZER, {"pitch": 4})
    twin.load_state_dict(model.state_dict())
    ours = make_optimizer(model, OPTIM, "bf16")
    matrices = matrices_of(twin, OPTIM)
    chosen = set(matrices)
    by_adamw = make_optimizer(twin, OptimConfig(lr=1e-2, weight_decay=0.1), "bf16")
    for group in by_adamw.param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter not in chosen]
    by_muon = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        for optimizer in (ours, by_muon, by_adamw):
            optimizer.step()
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4, msg=name)


def test_it_is_given_the_weights_of_attention_and_mlp_alone(model: Autoregressor) -> None:
    found = {id(parameter) for parameter in matrices_of(model, OPTIM)}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in found]
    layers = ("attention.qkv", "attention.out", "mlp.0", "mlp.2")
    assert names == [f"blocks.{i}.{layer}.weight" for i in range(2) for layer in layers]
    assert not matrices_of(model, OptimConfig())


def test_stacks_are_of_one_shape_and_large_enough_for_all_workers(
    model: Autoregressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrices = matrices_of(model, OPTIM)
    assert [len(alike) for alike in muon.stacks(matrices, 1)] == [2, 2, 2, 2]
    monkeypatch.setattr(muon, "AT_ONCE", 1)
    for workers, num in ((1, 1), (2, 2), (3, 2)):
        found = list(muon.stacks(matrices, workers))
        assert [len(alike) for alike in found] == [num] * (8 // num)
        assert all(len({matrix.shape for matrix in alike}) == 1 for alike in found)


def test_what_it_keeps_is_counted(model: Autoregressor) -> None:
    for optim in (OPTIM, OptimConfig()):
        optimizer = make_optimizer(model, optim, "float32")
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        kept = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
        assert sum(value.numel() for value in kept) == num_moments(model, optim)


def test_a_model_without_blocks_is_adamws(tmp_path: Path) -> None:
    LocalRun(tmp_path)
    model = nn.Linear(3, 3)
    optimizer = make_optimizer(model, OPTIM, "float32")
    assert isinstance(optimizer, Muon) and not optimizer.matrices
    before = model.weight.detach().clone()
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    assert (model.weight < before).all()
