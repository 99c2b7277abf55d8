"""Weights of any origin: read without running what they hold, fitted to the last tensor, named by a fingerprint."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)


class Undrawn(TorchFunctionMode):
    """Draws no first values: without memory there is nothing to fill, and torch would import its compiler to see it."""

    def __torch_function__(
        self, function: Callable[..., Any], types: object, arguments: tuple[Any, ...] = (), options: Any = None
    ) -> Any:
        return options["tensor"] if function is nn.init.normal_ else function(*arguments, **(options or {}))


def build_with(build: Callable[[], Network], path: Path) -> Network:
    """The network with the weights of a .safetensors file, frozen, in evaluation mode.

    Raises ValueError where the file is damaged or holds other tensors than the network has: before memory is taken for
    it, for the settings that it is built by may come from anywhere.
    """
    try:
        with torch.device("meta"), Undrawn():
            network = build()
    except (RuntimeError, TypeError) as error:  # sizes beyond what torch counts with
        what = str(error).splitlines()[0]
        raise ValueError(f"{path.parent}: its settings describe no network that can be built ({what})") from error
    try:
        fit(network, load_file(path), str(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged ({error}): copy it again, or give the folder of another model") from error
    return network


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
    state_dict = network.state_dict()
    wanted = {name: _size(t.shape) for name, t in state_dict.items() if not name.endswith("num_batches_tracked")}
    require_same_shapes(wanted, {name: _size(tensor.shape) for name, tensor in state.items()}, where)
    # Copied: what safetensors gives lies in the file as it comes, and changes with it.
    copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in state.items()}
    network.load_state_dict(copies, assign=True)
    network.eval().requires_grad_(False)


def require_same_shapes(wanted: Mapping[str, str], given: Mapping[str, str], where: str) -> None:
    """Raises ValueError for the first tensor that is not the one that is wanted."""
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            found, rule = given.get(name, "missing"), wanted.get(name, "absent")
            raise ValueError(f"{where}: {name} is {found}, must be {rule}: these are the weights of another network")


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def fingerprint(network: nn.Module) -> str:
    """Twelve digits of the sha256 of the names and float32 values of the weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if tensor.dtype == torch.float32:
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:12]
