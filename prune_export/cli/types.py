"""Values of options: one line says what was expected. Numbers are `prune_export.cli.options.number`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def path(text: str) -> Path:
    """Parses a path, which an empty string is not: it would be the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path; found an empty string")
    return Path(text)


# argparse looks types up by what `add_argument` was given.
TYPES: dict[Any, Callable[[str], Any]] = {Path: path}
