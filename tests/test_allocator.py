"""Freed memory is kept: pages of the next tensor are not cleared once more."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

_FAULTS = """
import ctypes, resource, sys
from prune_export.cli.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(2**26)
    libc.memset(block, 1, 2**26)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    os.name != "posix" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt"
)
@pytest.mark.parametrize("settings", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}])
def test_freed_memory_is_kept_unless_the_environment_decides(settings: dict[str, str]) -> None:
    found = {}
    for word in ("keep", "leave"):
        command = [sys.executable, "-c", _FAULTS, word]
        environment = {**os.environ, **settings}
        found[word] = int(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)
    assert found["leave"] >= 2**26 // 2**21  # pages of 2 MiB at the most
    assert (found["keep"] < found["leave"] / 5) is (not settings)
