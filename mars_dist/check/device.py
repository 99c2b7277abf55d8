"""What a worker computes on: GPUs by name, or this machine's CPU, whose rates are measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Literal

import psutil
import torch

from mars_dist.config import Precision
from mars_dist.cpus import own_cpus
from mars_dist.dryrun import Work
from mars_dist.precision import cpu_multiplies_bf16, settled
from mars_dist.products import product

GIB = 2**30
ROUNDS, ROUND_SECONDS = 40, 0.004
SIDE, EMULATED_SIDE, LENGTH, SHORT = 1024, 128, 2**20, 8
"""Of the matrices, and of the vectors, that are timed; of matrices in what the CPU only emulates."""
MATRIX_SHARE, BYTES_SHARE, OPERATIONS = 0.75, 0.14, 21.0
"""What a training step reaches of the rates of bare operations on a CPU: of the matrix products and of the memory; and
how many bare operations one of a step takes, with autograd, FSDP and the loop. Found on debug and tiny with one process
(docs/check.md)."""
GLOO = 1e9
"""Bytes a second between two processes of a machine: an assumption."""
LAUNCH = 1e-5
"""Seconds to start a kernel from Python: an assumption."""
RESERVE = 0.1
"""Share of a GPU that CUDA, NCCL and the allocator take for themselves: an assumption."""
UTILISATION = 0.3
"""Of a GPU's peak, where nobody states another: an assumption. What is reached is told by the first lines of a run."""


@dataclass(frozen=True)
class Gpu:
    """From its maker's data sheet."""

    name: str
    words: str
    """All of them are in CUDA's name of one."""
    peak: float
    """FLOP/s in bf16, without sparsity."""
    float32: float
    """FLOP/s in float32, without TF32, which training does not round to."""
    memory: int
    """Bytes."""
    utilisation: float = UTILISATION
    """The share of these that training reaches; memory and network count as what is not reached."""
    kind: Literal["cuda"] = "cuda"

    @property
    def usable(self) -> int:
        """Bytes."""
        return round(self.memory * (1 - RESERVE))

    def seconds(self, work: Work, moved: int, sent: int) -> float:
        """Of a step that does so much work: a small one waits for Python to start its kernels."""
        peak = self.peak if torch.bfloat16 in work.flops else self.float32
        return max(work.total_flops / (peak * self.utilisation), work.num_operations * LAUNCH)

    def __str__(self) -> str:
        return f"{self.name}, {self.peak / 1e12:.0f} TFLOP/s in bf16 and {self.memory / GIB:.0f} GiB each"


GPUS = {
    "a10g": Gpu("A10G", "A10G", 70e12, 35e12, 22 * GIB),
    "l4": Gpu("L4", "L4", 121e12, 30e12, 22 * GIB),
    "l40s": Gpu("L40S", "L40S", 362e12, 91e12, 44 * GIB),
    "a100-40g": Gpu("A100 40 GB", "A100 40GB", 312e12, 19.5e12, 39 * GIB),
    "a100": Gpu("A100 80 GB", "A100 80GB", 312e12, 19.5e12, 79 * GIB),
    "h100": Gpu("H100 SXM", "H100", 989e12, 67e12, 79 * GIB),
    "h100-pcie": Gpu("H100 PCIe", "H100 PCIe", 756e12, 51e12, 79 * GIB),
    "h100-nvl": Gpu("H100 NVL", "H100 NVL", 835e12, 60e12, 93 * GIB),
    "h200": Gpu("H200 SXM", "H200", 989e12, 67e12, 139 * GIB),
    "b200": Gpu("B200", "B200", 2250e12, 75e12, 178 * GIB),
}
"""By the names that --device takes. Memory is what a driver reports, rounded down. Of those whose words
are in CUDA's name the last one counts."""


def gpu(name: str, utilisation: float) -> Gpu:
    """Raises ValueError for one that is not in the table."""
    if name not in GPUS:
        raise ValueError(f"--device: {name} is not known: choose {', '.join(GPUS)}; without one it is this machine's")
    return replace(GPUS[name], utilisation=utilisation)


@dataclass(frozen=True)
class Cpu:
    """One worker's share of this machine: rates of bare operations, measured in so many threads."""

    threads: int
    flops: Mapping[torch.dtype, float]
    """A second, of matrix products."""
    num_bytes: float
    """A second, read and written by a sum of vectors."""
    operation: float
    """Seconds, of one on next to nothing."""
    memory: int
    """Bytes."""
    kind: Literal["cpu"] = "cpu"

    @property
    def usable(self) -> int:
        """Bytes."""
        return self.memory

    @property
    def peak(self) -> float:
        """FLOP/s in what training computes in unless told otherwise."""
        return self.flops[torch.bfloat16 if self.precision == "bf16" else torch.float32]

    @property
    def precision(self) -> Precision:
        return settled("auto", "cpu")

    def seconds(self, work: Work, moved: int, sent: int) -> float:
        """Of a step that does so much work, moves so many bytes besides, and sends so many to the other workers."""
        products = sum(flops / self.flops[dtype] for dtype, flops in work.flops.items()) / MATRIX_SHARE
        memory = (work.num_bytes + moved) / self.num_bytes / BYTES_SHARE
        return products + memory + work.num_operations * self.operation * OPERATIONS + sent / GLOO

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return (
            f"{threads} of this CPU, {self.peak / 1e9:.0f} GFLOP/s in {self.precision} (measured) "
            f"and {self.memory / GIB:.0f} GiB each"
        )


Device = Gpu | Cpu


def this_cpu(workers: int) -> Cpu:
    """As each of so many workers on this machine has it: its share of cores and memory. Takes about a second."""
    threads, before = max(1, own_cpus() // workers), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        flops = {}
        for dtype in (torch.bfloat16, torch.float32):
            side = SIDE if dtype == torch.float32 or cpu_multiplies_bf16() else EMULATED_SIDE
            square = torch.ones(side, side, dtype=dtype)
            flops[dtype] = 2 * side**3 / seconds_of(partial(product, square, square))
        long, short = torch.ones(LENGTH), torch.ones(SHORT)
        num_bytes = 2 * long.nbytes / seconds_of(lambda: long + 1)
        return Cpu(threads, flops, num_bytes, seconds_of(lambda: short + 1), psutil.virtual_memory().total // workers)
    finally:
        torch.set_num_threads(before)


def seconds_of(operation: Callable[[], object]) -> float:
    """The least of many rounds of some milliseconds: what the machine can do where nothing else disturbs it."""
    times = 1
    while timed(operation, times) < ROUND_SECONDS:
        times *= 2
    return min(timed(operation, times) for _ in range(ROUNDS)) / times


def timed(operation: Callable[[], object], times: int) -> float:
    start = perf_counter()
    for _ in range(times):
        operation()
    return perf_counter() - start
