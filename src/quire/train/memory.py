"""Keeps freed memory in the process, on Linux with glibc.

A training step frees and allocates the same large blocks again and again. By default glibc returns each of them to the operating
system, which must then clear every page again: a fifth of a step's time on a small CPU.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_NEVER = 2**31 - 1
_TOP_PAD = 256 * 1024 * 1024


def keep_freed_memory() -> None:
    """Asks the allocator of this process to keep large blocks; does nothing without glibc."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_M_MMAP_THRESHOLD, _NEVER), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD)):
            mallopt(option, value)
