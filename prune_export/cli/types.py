"""Values of options: one line says what was expected."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LARGEST = 1 << 63


def whole_number(text: str) -> int:
    """An integer of 64 bits."""
    return int(_number(int, text, "a whole number"))


def number(text: str) -> float:
    """A number; which ones an option takes, NaN among them, is for the verb to say."""
    return float(_number(float, text, "a number"))


def path(text: str) -> Path:
    """A path, which an empty string is not: it would be the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path; found an empty string")
    return Path(text)


# argparse looks types up by what `add_argument` was given.
TYPES: dict[Any, Callable[[str], Any]] = {int: whole_number, float: number, Path: path}


def _number(kind: Callable[[str], Any], text: str, expected: str) -> Any:
    try:
        found = kind(text)
        if kind is int and not -_LARGEST <= found < _LARGEST:
            raise ValueError
    except ValueError:
        from prune_export.files.reading import shown

        raise argparse.ArgumentTypeError(f"expected {expected}; found {shown(text)}") from None
    return found
