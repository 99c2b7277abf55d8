"""Keep the memory that a step frees: giving it back costs a CPU step up to a third of its time in page faults.

Memory that is kept must be used again. For an aligned block, as all tensors are, glibc looks for 96 bytes more than it
hands out (sourceware bug 14581), so the room of a freed tensor is too small for the next one of its size unless it is
merged with what lies beside it. Small blocks that are put aside when they are freed, for small requests (M_MXFAST) or
for their thread (TUNABLES), are in the way of that.
"""

import ctypes
import ctypes.util

M_MXFAST, M_TRIM_THRESHOLD, M_MMAP_MAX = 1, -1, -4  # glibc, malloc.h
FOR_EVER = 2**31 - 1
TUNABLES = "glibc.malloc.tcache_count=0"
"""The environment variable GLIBC_TUNABLES of a process that is to merge what is freed; it is read at its start."""


def keep_freed_memory() -> None:
    """From now on this process reuses freed memory instead of returning it; without effect where there is no glibc."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, FOR_EVER)
        libc.mallopt(M_MXFAST, 0)
