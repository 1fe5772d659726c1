"""`prune_export.load_slim`: a slim network from disk."""

from __future__ import annotations

from pathlib import Path

from exporters.errors import CheckpointError
from prune_export.arguments import checked
from prune_export.checkpoint.load import load_checkpoint
from prune_export.slim_model.model import SlimModel, module_of


@checked
def load_slim(folder: str | Path) -> SlimModel:
    """Loads a slim network that `SlimModel.save_pretrained` wrote.

    Raises:
        CheckpointError: the folder holds no slim checkpoint, or a damaged one.
    """
    checkpoint = load_checkpoint(folder)
    if checkpoint.form != "slim":
        raise CheckpointError(f"'{folder}' is no slim checkpoint; prune_export.slim makes one of it")
    return module_of(checkpoint, checkpoint.encoder)
