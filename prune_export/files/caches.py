"""Caches in the user's cache folder. Nothing depends on them: without one, everything is made anew."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from platformdirs import user_cache_path


def cache_folder(name: str) -> Path | None:
    """Returns the folder `name` of our part of the user's cache (XDG_CACHE_HOME or its default), made if needed.

    None without such a place, as for a user without a home, or if it cannot be written.
    """
    try:
        path = user_cache_path("prune-export", appauthor=False) / name
    except RuntimeError:  # no home is known
        return None
    if not path.is_absolute():  # with older versions of platformdirs, the path begins with "~"
        return None
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return path if os.access(path, os.R_OK | os.W_OK | os.X_OK) else None


@contextmanager
def kept(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that becomes `path` at the end of the block, and leaves nothing if that fails."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with aside.open("xb") as file:
            yield file
        aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
