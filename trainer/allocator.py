"""The C library's memory on a CPU: large blocks kept for the next step instead of given back."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; whether its C library can (glibc).

    By default glibc maps each block above 32 MiB anew and unmaps it when it is freed, so that every activation of
    every step costs a fault for each of its pages: copying one was measured at 4 times the time.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))
