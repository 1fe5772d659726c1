"""The importance of heads and columns on training examples, and initial scores in the order of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from exporters.errors import DataError
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.data.features import Feature
from prune_export.pruning.calibration import Calibration, make_calibration
from prune_export.pruning.costs import Costs, flops_costs
from prune_export.pruning.gates import hugging_face_layers
from prune_export.pruning.scores import LayerScores, fisher_scores, gate_gradients
from prune_export.tasks import usual_length
from prune_export.training.recipe import Recipe
from prune_export.training.stage import Context


def training_calibration(context: Context, samples: int) -> Calibration:
    """Returns `samples` of the training examples, one window of each, drawn by the recipe's seed.

    Raises:
        DataError: there are less than two examples.
    """
    windows = one_window_each(context.features)
    if len(windows) < 2:
        raise DataError(f"data.train: found {len(windows)} examples to score with; expected 2 or more")
    order = np.random.default_rng(context.recipe.seed).permutation(len(windows))[:samples]
    chosen = [windows[int(index)] for index in sorted(order)]
    name, inputs = ", ".join(context.recipe.data.train), context.original.encoder.inputs
    return make_calibration(name, chosen, context.tokenizer, inputs, seed=context.recipe.seed)


def one_window_each(features: Sequence[Feature]) -> list[Feature]:
    """Returns the first window of each example that holds an answer, or its first where none does."""
    chosen: dict[int, Feature] = {}
    for feature in features:
        answered = feature.start is not None and feature.start != feature.cls
        before = chosen.get(feature.example)
        if before is None or (answered and before.start == before.cls):
            chosen[feature.example] = feature
    return list(chosen.values())


def fisher_information(context: Context, checkpoint: Checkpoint, samples: int) -> tuple[LayerScores, ...]:
    """Returns the Fisher information of `samples` of the training examples, one entry per distinct layer.

    Raises:
        DataError: there are less than two examples.
        UsageError: the loss is not finite.
    """
    calibration = training_calibration(context, samples)
    context.progress.stage("Scoring heads and columns", calibration.samples)
    model = load_reference_model(checkpoint)
    return fisher_scores(
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


def initial_scores(
    context: Context, checkpoint: Checkpoint, *, samples: int, spread: float
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Returns `rank_scores` of the Fisher information of `samples` training examples, for FLOPs at the budget's length.

    Raises:
        DataError: there are less than two examples.
        UsageError: the loss is not finite.
    """
    costs = flops_costs(checkpoint.encoder, sequence_length=budget_length(context.recipe, checkpoint))
    return rank_scores(fisher_information(context, checkpoint, samples), costs, spread)


def rank_scores(importance: Sequence[LayerScores], costs: Costs, spread: float) -> tuple[tuple[Tensor, Tensor], ...]:
    """Returns the scores of each layer's heads and columns: from -spread to spread, by their rank in the network.

    The rank is that of the importance per FLOP: of two units, the one that `select` prefers has the higher score.
    """
    per_flop = []
    for index, layer in enumerate(importance):
        per_flop += [layer.heads / costs.heads[index][1], layer.columns / costs.columns[index][1]]
    joined = torch.cat(per_flop)
    ranks = torch.empty(len(joined), dtype=torch.float64)
    ranks[joined.argsort(stable=True)] = torch.linspace(-spread, spread, len(joined), dtype=torch.float64)
    scores = ranks.float().split([len(part) for part in per_flop])
    return tuple(zip(scores[::2], scores[1::2], strict=True))


def budget_length(recipe: Recipe, checkpoint: Checkpoint) -> int:
    """Returns the sequence length, in tokens, at which FLOPs are counted."""
    return recipe.budget.sequence_length or usual_length(checkpoint.encoder)
