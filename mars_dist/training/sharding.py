"""The only file that knows how a model is spread over workers: FSDP2, its precision, its collectives.

The same wrapping serves one process and many, over gloo on CPUs and NCCL on GPUs.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._composable import checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mars_dist.autoregressor import Autoregressor, ConditionedBlock
from mars_dist.classifier import Classifier
from mars_dist.config import TrainConfig
from mars_dist.layers import Block
from mars_dist.quantizer import MultiScaleQuantizer
from mars_dist.tokenizer import Decoder, Encoder, Tokenizer

T = TypeVar("T")
BLOCKS = (Block, ConditionedBlock)
LARGE = 1_000_000
"""Parameters from which a block is gathered on its own: a smaller one saves less memory than the call costs time."""
LOW_PRECISION = (Encoder, Decoder, Autoregressor, Classifier)
FLOAT32 = (MultiScaleQuantizer, Tokenizer)


def shard(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Shard parameters, gradients and optimizer state over all workers, or over those of each replica, in place.

    bf16: parameters are gathered and activations kept in bf16, gradients reduced in float32; the quantizer in float32.
    """
    low = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = low if config.precision == "bf16" else MixedPrecisionPolicy()
    device = next(model.parameters()).device.type
    shape = (config.replicas, dist.get_world_size() // config.replicas)
    mesh = init_device_mesh(device, shape, mesh_dim_names=("replicate", "shard")) if config.replicas > 1 else None
    for module in reversed(list(model.modules())):  # the inner ones first
        if config.recompute and isinstance(module, BLOCKS):
            checkpoint(module)
        large = isinstance(module, BLOCKS) and sum(p.numel() for p in module.parameters()) >= LARGE
        if large or isinstance(module, LOW_PRECISION):
            fully_shard(module, mesh=mesh, mp_policy=policy)
        elif isinstance(module, FLOAT32):
            fully_shard(module, mesh=mesh)
    return model


def locals_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This worker's shards."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def whole(tensor: Tensor) -> Tensor:
    """The unsharded tensor, on every worker."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The unsharded parameters on the CPU of rank 0; empty elsewhere."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))


@torch.no_grad()
def write_rows(parameter: Tensor, rows_R: Tensor, values: Tensor | float) -> None:
    """parameter[rows] = values. Every worker calls it with the same arguments."""
    full = whole(parameter).clone()
    full[rows_R] = values
    if isinstance(parameter, DTensor):
        parameter.copy_(distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None))
    else:
        parameter.copy_(full)


def gather(x_B: Tensor) -> Tensor:
    """The rows of all workers, in the order of the global batch."""
    parts = [torch.empty_like(x_B) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x_B.contiguous())
    return torch.cat(parts)


def mean_over_workers(values: dict[str, float]) -> dict[str, float]:
    """The mean of each figure over the workers."""
    packed = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(packed)
    return dict(zip(values, (packed / dist.get_world_size()).tolist(), strict=True))


def sum_over_workers(x: Tensor) -> Tensor:
    """The sum over the workers, in place."""
    dist.all_reduce(x)
    return x


def highest_over_workers(value: int) -> Callable[[], int]:
    """The highest value of all workers, found while they work on: call what is returned to wait for it."""
    highest = torch.tensor(value)
    work = dist.all_reduce(highest, dist.ReduceOp.MAX, async_op=True)

    def wait() -> int:
        work.wait()
        return int(highest)

    return wait


def gather_objects(value: T) -> list[T]:
    """What each worker has, by rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def num_workers() -> int:
    return dist.get_world_size()


def average_gradients(model: nn.Module) -> None:
    """Set the gradients of a model that every worker holds whole to their mean over the workers."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    mean = sum_over_workers(torch.cat([gradient.flatten() for gradient in gradients])) / dist.get_world_size()
    for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
