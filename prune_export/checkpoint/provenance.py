"""Where a network came from."""

from __future__ import annotations

from typing import Any

from prune_export.checkpoint.load import Checkpoint


def source_to_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """Where the network came from, for records and `--json`."""
    return {
        "model": checkpoint.source.name,
        "revision": checkpoint.source.revision,
        "form": checkpoint.form,
        "model_type": checkpoint.family.model_type,
    }
