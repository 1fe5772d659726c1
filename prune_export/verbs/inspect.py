"""`prune_export.inspect` finds what is pruned in a checkpoint."""

from __future__ import annotations

from prune_export.checkpoint.inspection import Inspection, operate_on
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.facts.plan import Plan
from prune_export.options.inspect import InspectOptions
from prune_export.options.keywords import from_keywords


@from_keywords(InspectOptions, Plan=Plan)
def inspect(options: InspectOptions) -> Inspection:
    """Reads a checkpoint and operates on it in memory; nothing is written.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        PlanError: the plan does not fit it.
    """
    source = resolve(options.model, options, progress=options.progress)
    options.progress.stage("Reading the checkpoint")
    return operate_on(load_checkpoint(source, task=options.task, plan=options.plan), progress=options.progress)
