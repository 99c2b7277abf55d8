"""How memory is taken and freed: by jemalloc, which holds a training step's tensors in up to a third less than glibc.

For an aligned block, as all tensors are, glibc looks for 96 bytes more than it hands out (sourceware bug 14581), so the
room of a freed tensor is too small for the next one of its size. jemalloc comes with Ray, and has to be there when a
process starts: Ray starts its workers with it (distributed/runtime.py), and `mars` begins anew.
"""

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path

MALLOC_CONF = "oversize_threshold:0,dirty_decay_ms:-1,muzzy_decay_ms:-1"
"""What is freed is kept, large blocks too: giving it back costs a CPU step up to a third of its time in page faults."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc, malloc.h
FOR_EVER = 2**31 - 1


def preloaded() -> dict[str, str]:
    """The environment of a process that begins with jemalloc; empty where Ray is not, or has none for the system."""
    ray = find_spec("ray")
    library = Path(ray.origin).parent / "core" / "libjemalloc.so" if ray and ray.origin else None
    return {"LD_PRELOAD": str(library), "MALLOC_CONF": MALLOC_CONF} if library and library.exists() else {}


def begin_anew() -> None:
    """Start this process once more, with jemalloc. Nothing happens where it, or another allocator, was preloaded."""
    environment = preloaded()
    if environment and "LD_PRELOAD" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment | os.environ)


def keep_freed_memory() -> None:
    """From now on glibc reuses freed memory instead of returning it, in a process that began without jemalloc."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, FOR_EVER)
