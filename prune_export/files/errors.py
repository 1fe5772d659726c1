"""Errors of the operating system, in one line."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from exporters.errors import OutputError


def write_error(error: OSError, folder: Path) -> OutputError:
    """Makes one line of an operating-system error while preparing what goes into `folder`."""
    reason = error.strerror or str(error)
    names = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    inside = [name.absolute().is_relative_to(folder.absolute()) for name in names]
    if names and not any(inside) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{names[0]}: {reason}. Nothing was changed in {folder}")
    free = ""
    with suppress(OSError):
        free = f" ({shutil.disk_usage(folder).free / 2**20:,.0f} MiB free)"
    return OutputError(f"cannot write in {folder}: {reason}{free}. Nothing was changed there")


def file_type(mode: int) -> str:
    """Says in words what a file mode means."""
    names = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISLNK, "a link"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((word for test, word in names if test(mode)), "a device")
