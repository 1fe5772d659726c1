"""Gradual pruning: the one-shot method in steps, with training of the slim network between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from exporters.encoder import Encoder
from exporters.errors import UsageError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.weights import read_weights
from prune_export.options.option import Option
from prune_export.options.ranges import PROPER_FRACTION
from prune_export.pruning.costs import flops_costs
from prune_export.pruning.gates import slim_layers
from prune_export.pruning.obs import block_moments, obs_scores
from prune_export.pruning.pruned_network import PrunedNetwork
from prune_export.pruning.pruner import PrunerSettings, prune_step
from prune_export.pruning.scores import LayerGradients, LayerScores, fisher_scores, gate_gradients, taylor_scores
from prune_export.pruning.selection import Rules, select
from prune_export.slim_model.model import SlimModel, slim_module
from prune_export.tasks import LABELLED, SPECS
from prune_export.training.distillation import distiller_of
from prune_export.training.importance import budget_length, training_calibration
from prune_export.training.keys import Count, CountOrZero, Epochs, Positive, SomeExamples
from prune_export.training.network import full_size_weights, remaining_network
from prune_export.training.recipe import MethodConfig, Recipe
from prune_export.training.stage import Context, Stage, TrainingMethod


@dataclass(frozen=True, slots=True)
class GradualConfig(MethodConfig):
    """`[method]` with `kind = "gradual"`: prune a step, train what is left, and again, to each of the budget's `flops`.

    Each step is what `prune-export prune` does once. Training follows it: `recovery_*` after a step on the way, the
    schedule's length after one that reaches a budget; each time the learning rate begins anew.
    """

    score: Annotated[
        Literal["obs", "fisher", "taylor"],
        Option(
            "loss after a refit (optimal brain surgeon), Fisher information of each sample, or the first-order change"
        ),
    ] = "obs"
    answers: Annotated[
        Literal["data", "network"],
        Option("whose answers scores are gradients of: the data's, or some drawn from the network's predictions"),
    ] = "data"
    step: Annotated[
        Annotated[float, PROPER_FRACTION],
        Option("the least fraction of the FLOPs that a step leaves of those before it; steps to a budget are alike"),
    ] = 0.8
    learning_rates: Annotated[
        tuple[Positive, ...],
        Option(
            "the highest learning rate on the way to each budget, in the order of `budget.flops`; empty: the recipe's"
        ),
    ] = ()
    recovery_steps: Annotated[
        Count | None,
        Option("training after a step on the way; instead of `recovery_epochs`; none: the schedule's length"),
    ] = None
    recovery_epochs: Annotated[Epochs | None, Option("the same in epochs; instead of `recovery_steps`")] = None
    recovery_learning_rate: Annotated[
        Positive | None, Option("the highest learning rate of these; none: that of the budget")
    ] = None
    rearrangement: Annotated[bool, Option("looks for pairs of heads or columns to exchange after selection")] = True
    reconstruction: Annotated[
        Literal["full", "scales", "none"],
        Option("least squares after each step: all weights that are left, or one scale each"),
    ] = "full"
    samples: Annotated[SomeExamples, Option("training examples that scores and reconstruction see")] = 512
    align: Annotated[Count, Option("columns of a layer stay in multiples of this")] = 1
    keep_layers: Annotated[tuple[CountOrZero, ...], Option("layers that lose nothing, from 0")] = ()
    drop_blocks: Annotated[bool, Option("whole blocks may go")] = True


def stages(recipe: Recipe, config: GradualConfig) -> tuple[Stage, ...]:
    """Returns one stage per step; those that reach a budget are published under its name.

    Raises:
        UsageError: the budgets or another number are out of range.
    """
    if recipe.budget.heads is not None or recipe.budget.columns is not None:
        raise UsageError("budget: gradual pruning takes fractions of FLOPs; found heads or columns")
    budgets, rates = recipe.budget.flops, config.learning_rates
    if rates and len(rates) != len(budgets):
        raise UsageError(
            f"method.learning_rates: expected one per budget of budget.flops, {len(budgets)}; found {len(rates)}"
        )

    def learning_rate(fraction: float, *, is_budget: bool) -> float | None:
        if not is_budget and config.recovery_learning_rate is not None:
            return config.recovery_learning_rate
        return rates[budgets.index(max(budget for budget in budgets if budget <= fraction))] if rates else None

    objective = distiller_of(recipe)
    return tuple(
        Stage(
            name=f"flops-{fraction:g}" if is_budget else f"flops-{fraction:.3f}-on-the-way",
            prepare=partial(_prune, config=config, fraction=fraction),
            objective=objective,
            slim=True,
            steps=None if is_budget else config.recovery_steps,
            epochs=None if is_budget else config.recovery_epochs,
            learning_rate=learning_rate(fraction, is_budget=is_budget),
            publish=is_budget,
            flops_fraction=fraction,
            check=partial(_check, config=config, fraction=fraction),
        )
        for fraction, is_budget in flops_schedule(budgets, config.step)
    )


def flops_schedule(budgets: Sequence[float], step: float) -> tuple[tuple[float, bool], ...]:
    """Returns the target fractions of the FLOPs in descending order, each with whether it is one of `budgets`.

    All steps between two budgets (and before the first) keep the same fraction of the step before. There are as few of them
    as possible with that fraction at `step` or above.

    Raises:
        UsageError: no budget, one that is not between 0 and 1, or two that are the same.
    """
    if not budgets or not all(0 < budget < 1 for budget in budgets) or len(set(budgets)) < len(budgets):
        given = ", ".join(f"{budget:g}" for budget in budgets) or "none"
        raise UsageError(f"budget.flops: expected one or more different fractions between 0 and 1; found {given}")
    schedule: list[tuple[float, bool]] = []
    before = 1.0
    for budget in sorted(budgets, reverse=True):
        count = max(1, math.ceil(math.log(budget / before) / math.log(step) - 1e-9))
        factor = (budget / before) ** (1 / count)
        schedule += [(before * factor**power, False) for power in range(1, count)]
        schedule.append((budget, True))
        before = budget
    return tuple(schedule)


METHOD = TrainingMethod("gradual", GradualConfig, stages, lengths=("recovery",))


# --- a step -----------------------------------------------------------------------------------------------------------


def _prune(start: Path, folder: Path, context: Context, *, config: GradualConfig, fraction: float) -> None:
    """Prunes the checkpoint in `start` to `fraction` of the original's FLOPs, and writes it, masked, into `folder`.

    Scores are those of the network in `start`, which is also the reference of the reconstruction.

    Raises:
        UsageError: the budget cannot be met, or the loss is not finite.
        DataError: too few examples.
    """
    checkpoint = load_checkpoint(start, task=context.original.task)
    network = remaining_network(checkpoint)
    rules = _rules(config, network)
    calibration = training_calibration(context, config.samples)
    costs = flops_costs(context.original.encoder, sequence_length=budget_length(context.recipe, context.original))
    model = slim_module(checkpoint, network.encoder)
    context.progress.stage(f"Scoring for {fraction:.3g}", calibration.samples)
    scores, gradients = _scores(
        model,
        network.encoder,
        calibration.batches if config.answers == "data" else without_labels(calibration.batches),
        context,
        config.score,
    )
    step = prune_step(
        network,
        network.encoder,
        scores,
        gradients,
        select(scores, costs, fraction * costs.dense, rules),
        calibration.batches,
        fraction=fraction,
        settings=PrunerSettings(
            method=config.score,
            rearrangement=config.rearrangement,
            reconstruction=config.reconstruction,
            rules=rules,
            device=context.device,
        ),
        progress=context.progress,
    )
    weights = read_weights(checkpoint.source.folder, checkpoint.family)
    record: dict[str, Any] = {
        "method": METHOD.kind,
        "score": config.score,
        "answers": config.answers,
        "fraction": fraction,
        "data": {"samples": calibration.samples, "sha256": calibration.digest},
        "held_out_errors": step.held_out_errors(),
    }
    changed = full_size_weights(checkpoint, weights, step.network)
    write_masked(checkpoint, step.network.plan, folder, changed=changed, **record)


def _scores(
    model: SlimModel, encoder: Encoder, batches: Sequence[Mapping[str, Tensor]], context: Context, score: str
) -> tuple[tuple[LayerScores, ...], tuple[LayerGradients, ...] | None]:
    """Returns the scores of the network's units, and for "fisher" and "taylor" the gradients that they come from."""
    measure: Callable[..., Any] = block_moments if score == "obs" else gate_gradients
    measured = measure(
        model,
        slim_layers(model),
        encoder.task,
        encoder.inputs,
        batches,
        seed=context.recipe.seed,
        device=context.device,
        progress=context.progress,
    )
    if score == "obs":
        return obs_scores(encoder, measured), None
    return (fisher_scores if score == "fisher" else taylor_scores)(measured), measured


def without_labels(batches: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Returns `batches` without the labels of any task."""
    labels = {name for task in LABELLED for name in SPECS[task].label_names}
    return [{name: value for name, value in batch.items() if name not in labels} for batch in batches]


def _check(context: Context, *, config: GradualConfig, fraction: float) -> None:
    """Checks that the recipe's model can be pruned to `fraction` of its FLOPs.

    Raises:
        UsageError: the budget cannot be met, or the model lacks a layer of `keep_layers`.
    """
    costs = flops_costs(context.original.encoder, sequence_length=budget_length(context.recipe, context.original))
    equal = tuple(
        LayerScores(torch.ones(len(heads) - 1).double(), torch.ones(len(columns) - 1).double())
        for heads, columns in zip(costs.heads, costs.columns, strict=True)
    )
    select(equal, costs, fraction * costs.dense, _rules(config, remaining_network(context.original)))


def _rules(config: GradualConfig, network: PrunedNetwork) -> Rules:
    """Returns the rules for `network`; its `keep_layers` are indices among the distinct layers."""
    indices = network.encoder.layer_indices
    wrong = [layer for layer in config.keep_layers if not 0 <= layer < len(indices)]
    if wrong:
        raise UsageError(f"method.keep_layers: the network has layers 0 to {len(indices) - 1}; found {wrong[0]}")
    return Rules(config.align, frozenset(indices[layer] for layer in config.keep_layers), config.drop_blocks)
