"""Weights of others: read, fitted, named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mars_dist.autoregressor import Autoregressor
from mars_dist.classifier import Classifier
from mars_dist.config import AutoregressorConfig, ClassifierConfig, SpectrogramConfig, TokenizerConfig
from mars_dist.scales import Size
from mars_dist.tokenizer import Tokenizer
from mars_dist.weights import build_with, fingerprint, fit, read_weights

SPECTROGRAM = SpectrogramConfig(num_samples=2000, n_fft=256, hop=125, cmx=Size(8, 4))
TOKENIZER = TokenizerConfig(
    patch=Size(4, 2), scales=(Size(1, 1), Size(3, 2)), codebook_size=16, code_width=6, width=16, depth=1, head_width=8
)
SMALL = AutoregressorConfig(width=16, depth=1, head_width=8)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tokenizer": lambda: Tokenizer(TOKENIZER, SPECTROGRAM),
    "with a stem and SimVQ": lambda: Tokenizer(replace(TOKENIZER, stem=1, codebook_projection=True), SPECTROGRAM),
    "autoregressor": lambda: Autoregressor(SMALL, TOKENIZER, {"pitch": 128}),
    "rotary, with modulations shared": lambda: Autoregressor(
        replace(SMALL, positions="rotary", modulation="shared"), TOKENIZER, {"pitch": 128}
    ),
    "classifier": lambda: Classifier(ClassifierConfig(frames=8, width=8, features=24), SPECTROGRAM),
}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_network_is_built_with_the_weights_of_a_file(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    trained = build()
    save_file(trained.state_dict(), tmp_path / "it.safetensors")
    loaded = build_with(build, tmp_path / "it.safetensors")
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    for kept in (nn.Module.named_parameters, nn.Module.named_buffers):
        found, wanted = dict(kept(loaded)), dict(kept(trained))
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.equal(found[name], tensor), name


def test_what_is_loaded_is_float32_and_not_the_file_itself(tmp_path: Path) -> None:
    path, build = tmp_path / "it.safetensors", NETWORKS["tokenizer"]
    halves = {name: tensor.half() for name, tensor in build().state_dict().items()}
    save_file(halves, path)
    loaded = build_with(build, path)
    whole = {name: tensor.float() for name, tensor in halves.items()}
    save_file(whole, path)
    as_read = build_with(build, path)
    with path.open("r+b") as file:
        file.seek(-1000, 2)
        file.write(bytes(1000))
    assert any(not torch.equal(tensor, whole[name]) for name, tensor in load_file(path).items())
    for one in (loaded, as_read):
        assert all(torch.equal(tensor, whole[name]) for name, tensor in one.state_dict().items())
        assert {tensor.dtype for tensor in one.state_dict().values()} == {torch.float32}


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
