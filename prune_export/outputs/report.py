"""Single files beside a result: JUnit, predictions, benchmarks, pictures. They replace nothing but their own kind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from exporters.errors import OutputError
from prune_export.files.errors import kind_of
from prune_export.files.reading import LARGE_FILE, ReadingError, read_bytes, user_path
from prune_export.files.writing import write_file


def check_report(path: Path, *, mark: bytes | None = None, overwrite: bool = False) -> Path:
    """Finds out before the work whether a report can be written to `path`; makes the folder that it goes into.

    A regular file that is there is replaced only with `overwrite`, or if it holds `mark`, as our reports of that kind do.

    Returns:
        The path, `~` replaced.

    Raises:
        OutputError: something else is there, or the place cannot be written.
    """
    try:
        path = user_path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
    except ReadingError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error}; choose another file name") from error
    except OSError as error:
        raise OutputError(f"cannot make {path.parent}: {error.strerror or error}; choose another file name") from error
    mode = path.lstat().st_mode if os.path.lexists(path) else None
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"cannot write {path}: it is {kind_of(mode)}; expected a file name, of a file or of nothing")
    if not path.name or not os.access(path.parent if mode is None else path, os.W_OK):
        raise OutputError(f"cannot write {path}: expected a file name in a folder that can be written")
    if mode is not None and not overwrite and not _holds(path, mark):
        raise OutputError(
            f"{path} is there already"
            + (
                "; choose another name, or give --overwrite"
                if mark is None
                else ", and is no earlier report; choose another name"
            )
        )
    return path


def write_report(path: Path, content: bytes, *, mark: bytes | None = None, overwrite: bool = False) -> Path:
    """Writes a report in one step; returns its path.

    Raises:
        OutputError: as for `check_report`.
    """
    path = check_report(path, mark=mark, overwrite=overwrite)
    try:
        write_file(path, content, overwrite=path.exists())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _holds(path: Path, mark: bytes | None) -> bool:
    try:
        return mark is not None and mark in read_bytes(path, limit=LARGE_FILE)
    except ReadingError:
        return False
