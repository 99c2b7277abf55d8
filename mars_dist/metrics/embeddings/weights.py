"""Weights of others: read without running what they hold, fitted to the last tensor, named by a fingerprint."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from a .safetensors file or a state dict of PyTorch. Raises ValueError where it is neither."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        raise ValueError(
            f"{path}: neither .safetensors nor a state dict that PyTorch reads with weights_only"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path}: holds more than tensors by name: save the network's state_dict() alone")
    return state


def fit(network: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Give the network these weights, and freeze it; every one of them has its place.

    Raises ValueError, naming `where` and the tensor, where one is missing, left over, or of another shape.
    """
    # A batch norm counts its training steps, which are of no use here.
    wanted = {name: _size(t) for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = {name: _size(t) for name, t in state.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            found, rule = given.get(name, "missing"), wanted.get(name, "absent")
            raise ValueError(f"{where}: {name} is {found}, must be {rule}: these are the weights of another network")
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    network.eval().requires_grad_(False)


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def fingerprint(network: nn.Module) -> str:
    """Twelve digits of the sha256 of the names and float32 values of the weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if tensor.dtype == torch.float32:
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:12]
