"""Keep the memory that a step frees: giving it back costs a CPU step up to a third of its time in page faults."""

import ctypes
import ctypes.util

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc, malloc.h
FOR_EVER = 2**31 - 1


def keep_freed_memory() -> None:
    """From now on this process reuses freed memory instead of returning it; without effect where there is no glibc."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, FOR_EVER)
