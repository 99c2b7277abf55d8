"""Dry runs: the real modules on torch's meta device, where tensors have shapes but no memory, while somebody counts.

What is counted this way cannot fall behind the modules. Suffixes: B batch, N heads, L tokens, E head width, C channels,
h w a grid.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry

Device = Literal["cpu", "cuda"]
"""Whose way of computing is followed."""
FUSED_ATTENTION = torch.ops.aten._scaled_dot_product_efficient_attention
META = torch.device("meta")
BICUBIC = torch.ops.aten.upsample_bicubic2d.default


@dataclass(frozen=True)
class Flops:
    """Two for a multiplication and its addition."""

    layers: int
    """Matrix products with weights, convolutions."""
    attention: int
    """Products of tokens with tokens, masked ones too."""

    @property
    def total(self) -> int:
        return self.layers + self.attention


@dataclass(frozen=True)
class Work:
    """What some computation asks of a device."""

    flops: Mapping[torch.dtype, int]
    """Of matrix products and convolutions, by what they are computed in."""
    num_bytes: int
    """That all other operations read and write."""
    num_operations: int
    """All of them; those that only look at a tensor in another way do not count."""

    @property
    def total_flops(self) -> int:
        return sum(self.flops.values())

    def times(self, num: int) -> "Work":
        """So often."""
        flops = {dtype: num * flops for dtype, flops in self.flops.items()}
        return Work(flops, num * self.num_bytes, num * self.num_operations)

    def __add__(self, other: "Work") -> "Work":
        flops = Counter(self.flops) + Counter(other.flops)
        return Work(flops, self.num_bytes + other.num_bytes, self.num_operations + other.num_operations)


class DryRun(NamedTuple):
    """What a forward and a backward pass take."""

    peak_bytes: int
    """The most bytes that tensors made by them occupy at one time. What was there before, such as the weights, does not
    count; nor does what an allocator or a kernel adds."""
    work: Work


@torch.no_grad()
def count_flops(compute: Callable[[], object]) -> Flops:
    """Of the matrix products and convolutions; all else is left out, as is usual."""
    with as_on("cuda"), OnceForAlike(), FlopCounterMode(display=False) as counter:
        compute()
    flops = counter.get_flop_counts()["Global"]
    attention = flops.get(FUSED_ATTENTION, 0)
    return Flops(counter.get_total_flops() - attention, attention)


def dry_run(loss: Callable[[], Tensor], device: Device) -> DryRun:
    """Count a forward and a backward pass, recomputation included."""
    with as_on(device), OnceForAlike(), PeakMemory() as memory, WorkCounter() as counter:
        loss().backward()
    return DryRun(memory.peak, counter.work)


class WorkCounter(TorchDispatchMode):
    """Follows what every operation computes, reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[torch.dtype] = Counter()
        self.num_bytes = self.num_operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.is_view:
            return made
        self.num_operations += 1
        tensors = list(tensors_in((args, kwargs, made)))
        if flops_of := flop_registry.get(func._overloadpacket):
            self.flops[tensors[0].dtype] += flops_of(*args, **(kwargs or {}), out_val=made)
        else:
            self.num_bytes += sum(tensor.nbytes for tensor in tensors)
        return made

    @property
    def work(self) -> Work:
        """All so far."""
        return Work(self.flops, self.num_bytes, self.num_operations)


class PeakMemory(TorchDispatchMode):
    """Follows every storage that an operation makes from its birth to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors_in((args, kwargs)):
            self.see(tensor, counts=False)
        made = func(*args, **(kwargs or {}))
        for tensor in tensors_in(made):
            self.see(tensor, counts=True)
        return made

    def see(self, tensor: Tensor, counts: bool) -> None:
        """A storage first seen as an argument is older than the measurement."""
        if (storage := tensor.untyped_storage())._cdata in self.alive:
            return
        self.alive[storage._cdata] = storage.nbytes() if counts else 0
        self.now += self.alive[storage._cdata]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.forget, storage._cdata)

    def forget(self, storage: int) -> None:
        self.now -= self.alive.pop(storage)


class OnceForAlike(TorchDispatchMode):
    """Asks the meta device but once what an operation makes of tensors that are alike, as those of blocks are.

    Its answers come from Python, in tenths of a millisecond, that of a bicubic resampling in a tenth of a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[object, object] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view or func._schema.is_mutable:
            return func(*args, **kwargs)
        asked = (func, described(args), described(tuple(kwargs.items())))
        if asked in self.answers:
            return tree_map_only(Alike, Alike.new, self.answers[asked])
        made = resampled(*args[:2]) if func is BICUBIC and args[0].is_meta else func(*args, **kwargs)
        has_no_values = {tensor.device for tensor in tensors_in(made)} == {META}
        if has_no_values and storages_of(made).isdisjoint(storages_of((args, kwargs))):
            self.answers[asked] = tree_map_only(Tensor, Alike.of, made)
        return made


@dataclass(frozen=True, slots=True)
class Alike:
    """What tensors have in common that operations on the meta device do not tell apart."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> "Alike":
        return cls(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)

    def new(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


def resampled(x_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """What the kernels make: it lies in memory as what it is made of does."""
    layout, shape = suggest_memory_format(x_BChw), (*x_BChw.shape[:2], *size)
    return torch.empty(shape, dtype=x_BChw.dtype, device=META, memory_format=layout)


def described(value: object) -> object:
    """The same for arguments that are alike. (1 is unlike 1.0 and True.)"""
    if isinstance(value, Tensor):
        return Alike.of(value)
    if isinstance(value, list | tuple):
        return tuple(map(described, value))
    return type(value), value


def storages_of(values: object) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors_in(values)}


def tensors_in(values: object) -> Iterator[Tensor]:
    """Those of what an operation takes or makes. (torch's own search takes longer than an operation.)"""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, dict):
        yield from tensors_in(tuple(values.values()))


@contextmanager
def as_on(device: Device) -> Iterator[None]:
    """For a GPU tensors say within the block that they are on one, and attention takes the fused kernel of one.

    By patches, since a TorchFunctionMode is suspended during a backward pass, which computes some things again.
    """
    if device == "cpu":
        yield
        return
    with patch.object(Tensor, "is_cuda", True), patch.object(F, "scaled_dot_product_attention", fused_attention):
        yield


def fused_attention(
    q_BNLE: Tensor, k_BNLE: Tensor, v_BNLE: Tensor, attn_mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """What a GPU computes: the backward pass needs queries, keys, values and the result, but no products of tokens."""
    bias_BNLL = None
    if attn_mask is not None:  # as the kernel takes it: added to the scores
        bias_BNLL = q_BNLE.new_empty(attn_mask.shape).expand(*q_BNLE.shape[:2], -1, -1)
    return FUSED_ATTENTION.default(q_BNLE, k_BNLE, v_BNLE, bias_BNLL, compute_log_sumexp=True, scale=scale)[0]
