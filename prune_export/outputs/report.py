"""Single files beside a result: JUnit, predictions, benchmarks, pictures. They replace only earlier ones of their own."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from exporters.errors import OutputError
from prune_export.files.errors import file_type
from prune_export.files.reading import LARGE_FILE, ReadingError, read_bytes, user_path
from prune_export.files.state import state_folder
from prune_export.files.writing import write_file


def check_report(path: Path, *, overwrite: bool = False, read: Iterable[str | Path] = ()) -> Path:
    """Finds out before the work whether a report can be written to `path`; makes the folder that it goes into.

    A regular file that is there is replaced only with `overwrite`, or if it still is what an earlier run wrote; never one
    that is among the files and models `read`, or lies in the folder of one.

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
        raise OutputError(
            f"cannot write {path}: it is {file_type(mode)}; expected a file name, of a file or of nothing"
        )
    if not path.name or not os.access(path.parent if mode is None else path, os.W_OK):
        raise OutputError(f"cannot write {path}: expected a file name in a folder that can be written")
    if mode is not None and not overwrite and not _is_known(path):
        raise OutputError(
            f"{path} is there already, and is not as an earlier run wrote it; choose another name, or give --overwrite"
        )
    if mode is not None and any(_is_read(path, Path(source)) for source in read):
        raise OutputError(
            f"{path} is read by this command, or lies in the folder of a model that is; choose another name"
        )
    return path


def write_report(path: Path, content: bytes, *, overwrite: bool = False) -> Path:
    """Writes a report in one step; returns its path.

    Raises:
        OutputError: as for `check_report`.
    """
    path = check_report(path, overwrite=overwrite)
    try:
        write_file(path, content, overwrite=path.exists())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    _remember(content)
    return path


def _is_read(path: Path, source: Path) -> bool:
    """Says whether the existing `path` is `source`, or a file of the model `source` that is no report of ours."""
    try:
        folder = source if source.is_dir() else source.parent if source.suffix == ".onnx" else None
        beside = folder is not None and path.parent.samefile(folder) and not _is_known(path)
        return path.samefile(source) or beside
    except OSError:
        return False


def _remember(content: bytes) -> None:
    """Notes in the user's state folder that `content` was written, as far as that is possible."""
    folder = state_folder("reports")
    if folder is not None:
        with suppress(OSError):
            (folder / hashlib.sha256(content).hexdigest()).touch(mode=0o600)


def _is_known(path: Path) -> bool:
    """Says whether the file at `path` is as an earlier run wrote it."""
    folder = state_folder("reports")
    try:
        digest = hashlib.sha256(read_bytes(path, limit=LARGE_FILE)).hexdigest()
        return folder is not None and (folder / digest).is_file()
    except (ReadingError, OSError):
        return False
