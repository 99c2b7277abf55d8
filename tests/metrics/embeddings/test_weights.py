"""Weights of others: read, fitted, named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mars_dist.weights import fingerprint, fit, read_weights


def network() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def weights() -> dict[str, Tensor]:
    names = {"0.weight": (2, 3), "0.bias": (2,), "1.weight": (2,), "1.bias": (2,), "1.running_mean": (2,)}
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) for name, shape in names.items()}
    return state | {"1.running_var": torch.tensor([0.5, 2.0])}


def test_a_state_dict_and_safetensors_give_the_same_network(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "a.pth")
    save_file(weights(), tmp_path / "a.safetensors")
    networks = [network(), network()]
    for one, name in zip(networks, ("a.pth", "a.safetensors"), strict=True):
        fit(one, read_weights(tmp_path / name), name)
        assert not one.training and not any(parameter.requires_grad for parameter in one.parameters())
    x = torch.tensor([[1.0, -2.0, 3.0]])
    w = weights()
    by_hand = (x @ w["0.weight"].T + w["0.bias"] - w["1.running_mean"]) / (w["1.running_var"] + 1e-5).sqrt()
    by_hand = by_hand * w["1.weight"] + w["1.bias"]
    for one in networks:
        torch.testing.assert_close(one(x), by_hand)
    assert fingerprint(networks[0]) == fingerprint(networks[1])


def test_the_fingerprint_tells_weights_apart() -> None:
    prints = set()
    for change in ({}, {"0.bias": torch.zeros(2)}, {"1.running_mean": torch.zeros(2)}):
        one = network()
        fit(one, weights() | change, "it")
        prints.add(fingerprint(one))
    assert len(prints) == 3 and all(len(digits) == 12 for digits in prints)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": torch.zeros(2, 4)}, r"^it: 0\.weight is 2x4, must be 2x3: these are the weights of another"),
        ({"0.bias": None}, r"^it: 0\.bias is missing, must be 2:"),
        ({"tail": torch.zeros(())}, r"^it: tail is a scalar, must be absent:"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(change: dict[str, Tensor | None], message: str) -> None:
    state = {name: tensor for name, tensor in (weights() | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        fit(network(), state, "it")


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "empty.pth", "half.pth", "code.pth"])
def test_files_that_hold_no_weights_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.pth").write_text("these are no weights")
    (tmp_path / "text.safetensors").write_text("these are no weights")
    (tmp_path / "empty.pth").touch()
    torch.save(weights(), tmp_path / "half.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "half.pth").read_bytes()[:700])
    torch.save(nn.Linear(2, 2), tmp_path / "code.pth")  # a whole module would run code
    with pytest.raises(ValueError, match=f"{name}: neither .safetensors nor a state dict"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"model": weights()}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "it.pth")
    with pytest.raises(ValueError, match=r"it.pth: holds more than tensors by name"):
        read_weights(tmp_path / "it.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone.pth: there is no such file"):
        read_weights(tmp_path / "gone.pth")
