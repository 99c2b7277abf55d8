"""What one machine is, as a training sees it: its CPUs and GPUs, its network, its versions."""

import os
import platform
import socket
from dataclasses import dataclass
from importlib.metadata import version

import psutil
import torch

from mars_dist import __version__
from mars_dist.cpus import own_cpus

SOCKETS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""What Gloo and NCCL are told of the network interface to use; without it they look for one themselves."""


@dataclass(frozen=True)
class Node:
    """A machine as it finds itself."""

    name: str
    address: str
    """By which the other machines reach it."""
    num_cpus: int
    num_gpus: int
    gpu: str
    """The first one's name, as CUDA has it; empty where there is none."""
    gpu_memory: int
    """Bytes of the first one."""
    interfaces: tuple[str, ...]
    """Those that are up."""
    interface: str
    """Whose address it is; empty where none has it, as behind a translation of addresses."""
    sockets: tuple[tuple[str, str], ...]
    """Of SOCKETS, those that are set."""
    versions: tuple[tuple[str, str], ...]
    id: str = ""
    """Ray's."""

    @classmethod
    def here(cls, address: str = "127.0.0.1") -> "Node":
        """This machine, which the others reach by the address."""
        gpus = torch.cuda.device_count()
        first = torch.cuda.get_device_properties(0) if gpus else None
        return cls(
            name=socket.gethostname(),
            address=address,
            num_cpus=own_cpus(),
            num_gpus=gpus,
            gpu=first.name if first else "",
            gpu_memory=first.total_memory if first else 0,
            interfaces=tuple(name for name, state in psutil.net_if_stats().items() if state.isup),
            interface=interface_of(address),
            sockets=tuple((name, os.environ[name]) for name in SOCKETS if name in os.environ),
            versions=(
                ("Python", platform.python_version()),
                ("Ray", version("ray")),
                ("torch", torch.__version__),
                ("mars_dist", __version__),
            ),
        )


def interface_of(address: str) -> str:
    """The interface that has an address; empty where none has it."""
    for name, addresses in psutil.net_if_addrs().items():
        if address in (one.address for one in addresses):
            return name
    return ""


def workers_by_default(gpus: int, cpus: int) -> int:
    """As training chooses them where nobody says: all GPUs, or else two processes on CPUs."""
    return gpus or min(2, cpus)


def require_enough(workers: int, there: int, kind: str) -> None:
    """Raises ValueError where there are fewer GPUs or CPUs than workers, who take one each."""
    if workers > there:
        raise ValueError(
            f"--workers: {workers} workers need {workers} {kind}s, there are {there}: choose at most {there}"
        )
