"""The writer of safetensors files, with the operating system's own errors."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes `tensors` to `path`, marked as PyTorch's.

    Raises:
        OSError: it cannot be written.
    """
    with safetensors_errors(path):
        save_file({name: value.contiguous() for name, value in tensors.items()}, path, {"format": "pt"})


@contextmanager
def safetensors_errors(path: Path) -> Iterator[None]:
    """Turns what safetensors raises while it writes to `path` into the operating system's error behind it.

    Raises:
        OSError: it cannot be written.
    """
    try:
        yield
    except SafetensorError as error:
        match = re.search(r"os error (\d+)", str(error))
        number = int(match[1]) if match else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
