"""Scores that begin where the Fisher information of the unpruned network puts each head and column."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.pruning.costs import Costs, flops_costs
from prune_export.pruning.gates import hugging_face_layers
from prune_export.pruning.scores import LayerScores, fisher, gate_gradients
from prune_export.tasks import usual_length
from prune_export.training.scoring import training_calibration
from prune_export.training.stage import Context


def fisher_order(
    context: Context, checkpoint: Checkpoint, *, samples: int, spread: float
) -> tuple[tuple[Tensor, Tensor], ...]:
    """`ranked` by the Fisher information of `samples` training examples, for FLOPs at the budget's length.

    Raises:
        DataError: there are less than two examples.
        UsageError: the loss is not finite.
    """
    length = context.recipe.budget.sequence_length or usual_length(checkpoint.encoder)
    costs = flops_costs(checkpoint.encoder, sequence_length=length)
    return ranked(fisher_information(context, checkpoint, samples), costs, spread)


def fisher_information(context: Context, checkpoint: Checkpoint, samples: int) -> tuple[LayerScores, ...]:
    """What the one-shot method scores by, from `samples` of the training examples; an entry for each distinct layer.

    Raises:
        DataError: there are less than two examples.
        UsageError: the loss is not finite.
    """
    calibration = training_calibration(context, samples)
    context.progress.stage("Scoring heads and columns", calibration.samples)
    model = load_reference_model(checkpoint)
    return fisher(
        gate_gradients(
            model,
            hugging_face_layers(checkpoint, model),
            checkpoint.task,
            checkpoint.encoder.inputs,
            calibration.batches,
            seed=context.recipe.seed,
            device=context.device,
            progress=context.progress,
        )
    )


def ranked(found: Sequence[LayerScores], costs: Costs, spread: float) -> tuple[tuple[Tensor, Tensor], ...]:
    """For each layer the scores of its heads and columns, from -spread to spread by their rank in the whole network.

    The rank is that of the information for each FLOP that a unit costs: of two units, the one that `select` keeps first
    begins higher.
    """
    worth = []
    for place, part in enumerate(found):
        worth += [part.heads / costs.heads[place][1], part.columns / costs.columns[place][1]]
    joined = torch.cat(worth)
    ranks = torch.empty(len(joined), dtype=torch.float64)
    ranks[joined.argsort(stable=True)] = torch.linspace(-spread, spread, len(joined), dtype=torch.float64)
    parts = ranks.float().split([len(part) for part in worth])
    return tuple((parts[2 * place], parts[2 * place + 1]) for place in range(len(found)))
