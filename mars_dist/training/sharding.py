"""The only file that knows how a model is spread over workers: FSDP2, its precision, its collectives.

The same wrapping serves one process and many, over gloo on CPUs and NCCL on GPUs.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mars_dist.autoregressor import Autoregressor
from mars_dist.classifier import Classifier
from mars_dist.config import Precision, TrainConfig
from mars_dist.errors import TrainingFailed
from mars_dist.precision import settled
from mars_dist.quantizer import MultiScaleQuantizer
from mars_dist.tokenizer import Decoder, Encoder, Tokenizer
from mars_dist.training.compilation import compile_blocks, lacking_compiler
from mars_dist.training.recomputation import BLOCKS, recompute

T = TypeVar("T")
Network = TypeVar("Network", bound=nn.Module)
META = torch.device("meta")
LARGE = 1_000_000
"""Parameters from which a block is gathered on its own: a smaller one saves less memory than the call costs time."""
LOW_PRECISION = (Encoder, Decoder, Autoregressor, Classifier)
FLOAT32 = (MultiScaleQuantizer, Tokenizer)


def on_rank_0(build: Callable[[], Network]) -> Network:
    """The model with its first weights on rank 0, without memory elsewhere: `shard` hands them out."""
    if dist.get_rank() == 0:
        return build()
    with META:
        return build().to(META)


def shard(model: nn.Module, config: TrainConfig, device: torch.device) -> nn.Module:
    """Shard parameters, gradients and optimizer state over all workers, or over those of each replica, in place.

    bf16: parameters are gathered and activations kept in bf16, gradients reduced in float32; the quantizer in float32.
    No worker but rank 0 ever has the whole model, and no GPU more of it than two blocks and what lies outside of
    blocks. Raises TrainingFailed, on every worker, where one is to compile and cannot.
    """
    first_weights = model.state_dict() if dist.get_rank() == 0 else {}
    low = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = low if agreed_precision(config.precision, device) == "bf16" else MixedPrecisionPolicy()
    shape = (config.replicas, dist.get_world_size() // config.replicas)
    whole_mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))
    mesh = whole_mesh if config.replicas > 1 else whole_mesh["shard"]
    recompute(model, config.recompute)
    if config.compile:
        if lacking := next(filter(None, gather_objects(lacking_compiler(device))), None):
            raise TrainingFailed(lacking)
        compile_blocks(model)
    for module in reversed(list(model.modules())):  # the inner ones first
        large = isinstance(module, BLOCKS) and sum(p.numel() for p in module.parameters()) >= LARGE
        if large or isinstance(module, LOW_PRECISION):
            fully_shard(module, mesh=mesh, mp_policy=policy)
        elif isinstance(module, FLOAT32):
            fully_shard(module, mesh=mesh)
    if dist.get_rank() > 0:
        model.to_empty(device=device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, first_weights, options=options)
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)
    return model


def require_replicas(config: TrainConfig, workers: int) -> None:
    """Raises ValueError where the workers are not shared out among the replicas."""
    if workers % config.replicas:
        raise ValueError(
            f"train.replicas: {workers} workers cannot be shared out among {config.replicas} replicas: choose a number "
            "of replicas that divides them, or another --workers"
        )


def agreed_precision(asked: Precision, device: torch.device) -> Precision:
    """float32 or bf16, the same on every worker: with `auto` it is bf16 where it suits the devices of all."""
    mine = settled(asked, "cuda" if device.type == "cuda" else "cpu")
    return "bf16" if all(theirs == "bf16" for theirs in gather_objects(mine)) else "float32"


def locals_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This worker's shards."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Of those that have one."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def let_go(model: nn.Module) -> None:
    """Parameters that were gathered are gathered anew by the next forward pass: their shards have changed.

    FSDP keeps what its outermost module has gathered from a forward pass on to a backward pass.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


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
    parameter.copy_(sharded_as(parameter, full))


def gather(x_B: Tensor) -> Tensor:
    """The rows of all workers, in the order of the global batch; some may have more of them than others."""
    counts = gather_objects(len(x_B))
    padded_B = torch.cat([x_B, x_B.new_zeros(max(counts) - len(x_B), *x_B.shape[1:])])
    parts = [torch.empty_like(padded_B) for _ in counts]
    dist.all_gather(parts, padded_B)
    return torch.cat([part_B[:count] for part_B, count in zip(parts, counts, strict=True)])


def made_by_shares(make: Callable[[Tensor], Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """This worker's shards of what is made of tensors of one shape, stacked and whole: each worker makes its share."""
    stack = torch.stack(list(tensors))
    share = math.ceil(len(stack) / dist.get_world_size())
    mine = torch.arange(share, device=stack.device) + share * dist.get_rank()
    made = make(whole(stack)[mine.clamp(max=len(stack) - 1)])  # past the end the last one again: all make as many
    parts = [torch.empty_like(made) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, made)
    [shards] = locals_of([sharded_as(stack, torch.cat(parts)[: len(stack)])])
    return list(shards.unbind())


def sharded_as(tensor: Tensor, full: Tensor) -> Tensor:
    """A tensor that every worker has whole, sharded like another one."""
    if not isinstance(tensor, DTensor):
        return full
    return distribute_tensor(full, tensor.device_mesh, tensor.placements, src_data_rank=None)


def num_workers() -> int:
    return dist.get_world_size()


def exchange_gradients(model: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass adds up gradients over the workers, or keeps them for one that does."""
    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(wanted)


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


def average_gradients(model: nn.Module) -> None:
    """Set the gradients of a model that every worker holds whole to their mean over the workers."""
    gradients = gradients_of(model.parameters())
    mean = sum_over_workers(torch.cat([gradient.flatten() for gradient in gradients])) / dist.get_world_size()
    for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
