"""`prune_export.load_slim` loads a slim network from disk."""

from __future__ import annotations

from exporters.errors import CheckpointError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.options.keywords import from_keywords
from prune_export.options.session import SlimFolder
from prune_export.slim_model.model import SlimModel, slim_module


@from_keywords(SlimFolder)
def load_slim(options: SlimFolder) -> SlimModel:
    """Loads a slim network that `SlimModel.save_pretrained` wrote.

    Raises:
        CheckpointError: the folder holds no slim checkpoint, or a damaged one.
    """
    checkpoint = load_checkpoint(options.folder)
    if checkpoint.form != "slim":
        raise CheckpointError(f"'{options.folder}' is no slim checkpoint; prune_export.slim makes one of it")
    return slim_module(checkpoint, checkpoint.encoder)
