"""The processors of this machine: how many a process may use, and what they are called."""

import os
import platform
from pathlib import Path


def own_cpus() -> int:
    """Those that this process may run on: SLURM, taskset or a container's cpuset may leave it a part of the machine."""
    return len(os.sched_getaffinity(0))


def cpu() -> str:
    """The processor's name and the number of the machine's cores."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"
