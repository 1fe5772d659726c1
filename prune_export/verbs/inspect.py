"""`prune_export.inspect`: what is pruned in a checkpoint."""

from __future__ import annotations

from pathlib import Path

from prune_export.arguments import checked
from prune_export.checkpoint.inspection import Inspection, operate_on
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.facts.plan import Plan
from prune_export.progress import SILENT, Progress


@checked
def inspect(
    model: str | Path,
    *,
    task: str | None = None,
    plan: str | Path | Plan | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    progress: Progress = SILENT,
) -> Inspection:
    """Reads a checkpoint and operates on it in memory; nothing is written.

    `model` is a folder or a hub id, `task` one of optimum's names (None: inferred), `plan` a plan to prune by instead of
    what the checkpoint says.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        PlanError: the plan does not fit it.
    """
    progress.pause()
    source = resolve(model, revision=revision, cache_dir=cache_dir, token=token)
    progress.stage("Reading the checkpoint")
    return operate_on(load_checkpoint(source, task=task, plan=plan), progress=progress)
