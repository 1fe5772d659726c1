"""config.json as it stands, checked before transformers sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporters.errors import UnsupportedError
from prune_export.checkpoint.sizes import check_raw_sizes
from prune_export.files.reading import read_json


def read_raw_config(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        ReadingError: it cannot be read, or is none.
        CheckpointError: it asks for sizes beyond the limits, or for another file in its place.
    """
    raw = read_json(path, dict[str, Any])
    check_raw_sizes(raw, path)
    if "configuration_files" in raw:  # transformers would read the one of these that suits its version
        raise UnsupportedError(f"{path}: names other files in configuration_files; expected one configuration")
    return raw
