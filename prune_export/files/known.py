"""What reports this user's runs wrote, by their content: only such a file is replaced without being asked."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from prune_export.files.reading import LARGE_FILE, ReadingError, read_bytes
from prune_export.files.state import state_folder


def remember(content: bytes) -> None:
    """Notes that `content` was written, as far as that is possible."""
    folder = state_folder("reports")
    if folder is not None:
        with suppress(OSError):
            (folder / _name(content)).touch(mode=0o600)


def is_known(path: Path) -> bool:
    """Says whether the file at `path` is as a run wrote it."""
    folder = state_folder("reports")
    try:
        return folder is not None and (folder / _name(read_bytes(path, limit=LARGE_FILE))).is_file()
    except (ReadingError, OSError):
        return False


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
