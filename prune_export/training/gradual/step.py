"""One step of gradual pruning: what the one-shot method does, to a network that has been trained since the last step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from exporters.errors import UsageError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.weights import read_weights
from prune_export.pruning.costs import flops_costs
from prune_export.pruning.cutting import Pruned, cut
from prune_export.pruning.gates import slim_layers
from prune_export.pruning.latency import usual_length
from prune_export.pruning.rearrangement import rearrange
from prune_export.pruning.reconstruction.layerwise import reconstruct
from prune_export.pruning.scores import LayerScores, fisher, gate_gradients, taylor
from prune_export.pruning.selection import Rules, select
from prune_export.training.gradual.config import GradualConfig
from prune_export.training.scoring import training_calibration
from prune_export.training.slim_network import slim_model, standing, trained_tensors
from prune_export.training.stage import Context


def prune_step(start: Path, folder: Path, context: Context, *, config: GradualConfig, fraction: float) -> None:
    """Prunes the checkpoint in `start` to `fraction` of the original's FLOPs, and writes it, masked, into `folder`.

    Scores are those of the network as it stands; reconstruction brings what is left near to that network, not to the
    original.

    Raises:
        UsageError: the budget cannot be met, or the loss is not finite.
        DataError: too few examples.
    """
    checkpoint = load_checkpoint(start, task=context.original.task)
    network = standing(checkpoint)
    rules = _rules(config, network)
    calibration = training_calibration(context, config.samples)
    sequence_length = context.recipe.budget.sequence_length or usual_length(context.original.encoder)
    costs = flops_costs(context.original.encoder, sequence_length=sequence_length)
    model = slim_model(checkpoint, network)
    context.progress.stage(f"Scoring for {fraction:.3g}", calibration.samples)
    gradients = gate_gradients(
        model,
        slim_layers(model),
        network.encoder.task,
        network.encoder.inputs,
        calibration.batches,
        seed=context.recipe.seed,
        device=context.device,
        progress=context.progress,
    )
    scores = (fisher if config.score == "fisher" else taylor)(gradients)
    kept = select(scores, costs, fraction * costs.dense, rules)
    if config.rearrangement:
        kept = tuple(
            (rearrange(part.heads, heads), rearrange(part.columns, columns))
            for part, (heads, columns) in zip(gradients, kept, strict=True)
        )
    smaller = cut(network, kept)
    context.progress.stage(f"Reconstructing at {fraction:.3g}", len(smaller.encoder.layers))
    encoder, fits = reconstruct(
        network.encoder,
        smaller.encoder,
        calibration.batches,
        method=config.reconstruction,
        device=context.device,
        progress=context.progress,
    )
    smaller = Pruned(encoder, smaller.heads, smaller.columns)
    weights = read_weights(checkpoint.source.folder, checkpoint.family)
    record: dict[str, Any] = {
        "method": "gradual",
        "score": config.score,
        "fraction": fraction,
        "data": {"samples": calibration.samples, "sha256": calibration.digest},
        "held_out_errors": [
            {"layer": part.layer, "part": part.part, "before": part.before, "after": part.after} for part in fits
        ],
    }
    changed = trained_tensors(checkpoint, weights, smaller)
    write_masked(checkpoint, smaller.plan, folder, changed=changed, **record)


def check_step(context: Context, *, config: GradualConfig, fraction: float) -> None:
    """Checks that the recipe's model can be pruned to `fraction` of its FLOPs.

    Raises:
        UsageError: the budget cannot be met, or a layer that is to be kept is not there.
    """
    encoder = context.original.encoder
    length = context.recipe.budget.sequence_length or usual_length(encoder)
    costs = flops_costs(encoder, sequence_length=length)
    alike = tuple(
        LayerScores(torch.ones(len(heads) - 1).double(), torch.ones(len(columns) - 1).double())
        for heads, columns in zip(costs.heads, costs.columns, strict=True)
    )
    select(alike, costs, fraction * costs.dense, _rules(config, standing(context.original)))


def _rules(config: GradualConfig, network: Pruned) -> Rules:
    """With the distinct layers that stand at the places `keep_layers`."""
    order = network.encoder.order
    wrong = [layer for layer in config.keep_layers if not 0 <= layer < len(order)]
    if wrong:
        raise UsageError(f"method.keep_layers: the network has layers 0 to {len(order) - 1}; found {wrong[0]}")
    kept = frozenset(order[layer] for layer in config.keep_layers)
    return Rules(config.align, kept, config.drop_blocks)
