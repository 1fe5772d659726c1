"""What is pruned in a checkpoint, and what surgery leaves of it."""

from __future__ import annotations

from dataclasses import dataclass

from exporters.encoder import Encoder
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.summarize import summarize
from prune_export.facts.plan import Plan
from prune_export.facts.summary import Summary
from prune_export.progress import SILENT, Progress
from prune_export.surgeon import operate
from prune_export.surgeon.zeros import plan_from_zeros


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint, the plan that its zeros give, and the slim network."""

    checkpoint: Checkpoint
    plan: Plan
    slim: Encoder
    summary: Summary


def operate_on(checkpoint: Checkpoint, *, progress: Progress = SILENT) -> Inspection:
    """The surgeon's work on a checkpoint that has been read."""
    progress.stage("Removing what is pruned")
    found = checkpoint.given_plan or plan_from_zeros(checkpoint.encoder)
    slim = operate(checkpoint.encoder, found)
    return Inspection(checkpoint, found, slim, summarize(checkpoint, slim, found))
