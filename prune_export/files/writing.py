"""The writer of a single file in one step: a kill leaves the old file or the new one, never half of it."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_file(path: Path, content: bytes, *, overwrite: bool, mode: int = 0o666) -> None:
    """Writes `content` to `path`, through a file aside; the umask is taken from `mode`.

    With `overwrite` it replaces an existing file. A link is replaced itself, not followed.

    Raises:
        FileExistsError: something is there, and `overwrite` is not given.
        OSError: it cannot be written.
    """
    aside = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(aside, flags, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            aside.replace(path)
        else:
            _place_new(aside, path)
    finally:
        with suppress(OSError):
            aside.unlink()
    sync_folder(path.parent)


def _place_new(aside: Path, path: Path) -> None:
    """Moves `aside` to `path`, and replaces nothing."""
    try:
        os.link(aside, path)  # unlike a rename it replaces nothing
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(f"{path} is there already") from None
        aside.rename(path)


def sync_files(folder: Path) -> None:
    """Writes the files in `folder`, and in folders there, to the disk."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path | int) -> None:
    """Writes the names in `folder`, a path or a descriptor, to the disk if its file system can do that."""
    with suppress(OSError):
        if isinstance(folder, int):
            os.fsync(folder)
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
