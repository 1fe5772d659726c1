"""Slim networks for users: made from a checkpoint, or loaded from disk."""

from __future__ import annotations

from pathlib import Path

from prune_export.arguments import checked
from prune_export.checkpoint.beside import check_beside
from prune_export.facts.file_names import CONFIG
from prune_export.facts.plan import Plan
from prune_export.slim_model.model import SlimModel, module_of
from prune_export.verbs.inspect import inspect


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
