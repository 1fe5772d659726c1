"""config.json, checked before transformers sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune_export.checkpoint.config_keys import check_config
from prune_export.checkpoint.sizes import check_raw_sizes
from prune_export.files.reading import read_json


def read_raw_config(path: Path) -> dict[str, Any]:
    """Reads the JSON object in `path`, and checks its keys and sizes.

    Raises:
        ReadingError: it cannot be read, or is none.
        CheckpointError: it has sizes beyond the limits, or keys that lead to code, to the network or to another file.
    """
    raw = read_json(path, dict[str, Any])
    check_config(raw, path)
    check_raw_sizes(raw, path)
    return raw
