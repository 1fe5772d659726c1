"""Caches in the user's cache folder. Nothing depends on them: without one, everything is made anew."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from platformdirs import user_cache_path


def cache_folder(name: str) -> Path | None:
    """Returns the folder `name` of our part of the user's cache (XDG_CACHE_HOME or its default), made if needed.

    None where there is no such place, as for a user without a home, or it cannot be written, or others can write it, too.
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
    is_ours = all(_is_ours(part.stat()) for part in (path, path.parent))
    return path if is_ours and os.access(path, os.R_OK | os.W_OK | os.X_OK) else None


def _is_ours(status: os.stat_result) -> bool:
    """Says whether nobody else can put files there; a group may, which is often the user's own."""
    return status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWOTH


@contextmanager
def cached_file(path: Path) -> Iterator[BinaryIO]:
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
