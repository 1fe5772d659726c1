"""Paths as a user writes them."""

from __future__ import annotations

from pathlib import Path

from exporters.errors import UsageError
from prune_export.files.reading import ReadingError, clipped, user_path


def expanded(path: str | Path) -> Path:
    """Replaces `~` in `path` by the user's home.

    Raises:
        UsageError: no path can be of that form, as with the home of an unknown user.
    """
    try:
        return user_path(path)
    except ReadingError as error:
        raise UsageError(f"'{clipped(str(path), 300)}': {error}; write the whole path") from error
