"""What is pruned in a checkpoint, and what surgery leaves of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.encoder import Encoder
from prune_export.arguments import checked
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.plan import Plan, plan_from_zeros
from prune_export.progress import SILENT, Progress
from prune_export.report.summary import Summary, summarize
from prune_export.surgeon import operate


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint, the plan that its zeros give, and the slim network."""

    checkpoint: Checkpoint
    plan: Plan
    slim: Encoder
    summary: Summary


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


def operate_on(checkpoint: Checkpoint, *, progress: Progress = SILENT) -> Inspection:
    """The surgeon's work on a checkpoint that has been read."""
    progress.stage("Removing what is pruned")
    found = checkpoint.given_plan or plan_from_zeros(checkpoint.encoder)
    slim = operate(checkpoint.encoder, found)
    return Inspection(checkpoint, found, slim, summarize(checkpoint, slim, found))


def source_to_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """Where the network came from, for records and `--json`."""
    return {
        "model": checkpoint.source.name,
        "revision": checkpoint.source.revision,
        "form": checkpoint.form,
        "model_type": checkpoint.family.model_type,
    }
