"""Holds an output folder while a long run is at work in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporters.errors import OutputError
from prune_export.files import journal


@contextmanager
def held(folder: Path, work: str) -> Iterator[None]:
    """Holds a lock on `folder` while the block runs; `work` says what is done there, such as "training".

    Raises:
        OutputError: another process holds it.
    """
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:32]
    try:
        lock = journal.lock(f"run-{name}")
    except BlockingIOError:
        raise OutputError(f"another {work} is at work in {folder}; wait for it, or choose another output") from None
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)
