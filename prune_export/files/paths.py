"""Paths as a user writes them."""

from __future__ import annotations

from pathlib import Path

from exporters.errors import UsageError


def expanded(path: str | Path) -> Path:
    """`path` with the user's home in place of `~`.

    Raises:
        UsageError: there is no such home.
    """
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: no home is known for {Path(path).parts[0]}; write the whole path") from error
    return found
