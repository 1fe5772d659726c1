"""Lets a long-running verb keep the memory that it frees, for its next large tensor."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_BYTES = 2**30


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed, up to 1 GiB, where the user's environment says nothing about it.

    By default glibc returns each tensor of more than 32 MiB to the system, which clears its pages again for the next one:
    a tenth of the time in which a base-size network is pruned. Other C libraries are left as they are.
    """
    settings = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"}
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and not settings & os.environ.keys():
        mallopt(_MMAP_THRESHOLD, _BYTES)
        mallopt(_TRIM_THRESHOLD, _BYTES)
