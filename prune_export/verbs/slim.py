"""`prune_export.slim` makes the slim network of a checkpoint, for PyTorch."""

from __future__ import annotations

from prune_export.checkpoint.beside import check_beside
from prune_export.checkpoint.inspection import operate_on
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.facts.file_names import CONFIG
from prune_export.facts.plan import Plan
from prune_export.options.inspect import SlimOptions
from prune_export.options.keywords import from_keywords
from prune_export.progress import SILENT
from prune_export.slim_model.model import SlimModel, slim_module


@from_keywords(SlimOptions, Plan=Plan)
def slim(options: SlimOptions) -> SlimModel:
    """Returns the slim PyTorch network of the checkpoint `model`, in evaluation mode.

    The network can be trained further, and saved with `save_pretrained`.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        PlanError: the plan does not fit it.
    """
    source = resolve(options.model, options)
    SILENT.stage("Reading the checkpoint")
    checkpoint = load_checkpoint(source, task=options.task, plan=options.plan)
    inspection = operate_on(checkpoint)
    check_beside(source.folder, (CONFIG,))  # save_pretrained writes what it says
    return slim_module(checkpoint, inspection.slim)
