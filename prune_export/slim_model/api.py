"""Slim networks for users: made from a checkpoint, or loaded from disk."""

from __future__ import annotations

from pathlib import Path

from exporters.encoder import Encoder
from exporters.errors import CheckpointError
from prune_export.arguments import checked
from prune_export.checkpoint.beside import check_beside
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.inspection import inspect
from prune_export.outputs.kinds import CONFIG
from prune_export.plan import Plan
from prune_export.slim_model.model import SlimModel


@checked
def slim(
    model: str | Path,
    *,
    task: str | None = None,
    plan: str | Path | Plan | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
) -> SlimModel:
    """The slim PyTorch network of the checkpoint `model` (a folder or a hub id), in evaluation mode.

    Arguments and errors as for `inspect`. The result trains on, and saves with `save_pretrained`.
    """
    found = inspect(model, task=task, plan=plan, revision=revision, cache_dir=cache_dir, token=token)
    check_beside(found.checkpoint.source.folder, (CONFIG,))  # save_pretrained writes what it says
    return module_of(found.checkpoint, found.slim)


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


def module_of(checkpoint: Checkpoint, encoder: Encoder) -> SlimModel:
    """`encoder` as a module with the configuration of `checkpoint`."""
    return SlimModel(encoder, checkpoint.config, checkpoint.family.dimensions(checkpoint.config))
