"""Results on disk: one JSON per step, which a kill leaves as it was before or after a change, never in between."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LOG = "run.log"


class ResultError(Exception):
    """The output folder cannot take the results."""


def file_of(output: Path, number: int, step: str) -> Path:
    """Where the results of a step go."""
    return output / f"{number}-{step}.json"


def write(path: Path, data: dict[str, Any]) -> None:
    """Replaces `path` in one go."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    aside.replace(path)


def read(path: Path) -> dict[str, Any]:
    """The results in `path`."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def prepare(output: Path, names: Iterable[str], *, overwrite: bool) -> None:
    """Makes `output` ready for one run, whose files are `names`; those of an earlier run are never mixed with it.

    Raises:
        ResultError: there are results of an earlier run, and `overwrite` was not given.
    """
    output.mkdir(parents=True, exist_ok=True)
    earlier = [output / name for name in names if (output / name).exists()]
    if earlier and not overwrite:
        raise ResultError(
            f"{output} holds results of an earlier run ({', '.join(path.name for path in earlier)}); give another "
            "--output, or --overwrite to remove them"
        )
    for path in earlier:
        path.unlink()
