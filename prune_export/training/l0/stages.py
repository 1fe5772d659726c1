"""L0 gates as stages: the gates, then retraining of what they leave."""

from __future__ import annotations

from functools import partial

from exporters.errors import UsageError
from prune_export.checkpoint.load import Checkpoint
from prune_export.pruning.costs import flops_costs
from prune_export.tasks import usual_length
from prune_export.training.distillation.distiller import distiller
from prune_export.training.initial import fisher_order
from prune_export.training.l0.config import L0Config
from prune_export.training.l0.method import L0Gates, Target
from prune_export.training.method import Method
from prune_export.training.recipe import Recipe
from prune_export.training.stage import Context, Stage


def stages(recipe: Recipe, config: L0Config) -> tuple[Stage, ...]:
    """One stage, or two with retraining.

    Raises:
        UsageError: the budget is of the wrong kind, or a setting is out of range.
    """
    budget = recipe.budget
    if len(budget.flops) > 1:
        raise UsageError(f"budget.flops: l0 gates lead to one budget; found {list(budget.flops)}")
    target = Target(budget.flops[0] if budget.flops else None, budget.heads, budget.columns)
    if target.flops is None and not target.separate and config.constraint == "lagrangian":
        raise UsageError('budget: a Lagrangian needs a target: flops, or heads and columns; or constraint = "penalty"')
    for name, without in (("heads", "feed_forward"), ("columns", "attention")):
        if getattr(target, name) is not None and config.blocks == without:
            raise UsageError(f"budget.{name} with method.blocks = '{without}': {name} have no gates then")
    objective = None if recipe.distillation is None else distiller(recipe.distillation)
    gates = Stage(
        name="gates",
        method=partial(_gates, config=config, target=target),
        begin=partial(_begin, config=config) if config.initial == "fisher" else None,
        objective=objective if config.distil_gates else None,
    )
    if not (config.retrain_steps or config.retrain_epochs):
        return (gates,)
    retraining = Stage(
        name="retraining",
        objective=objective,
        slim=True,
        steps=config.retrain_steps,
        epochs=config.retrain_epochs,
        learning_rate=config.retrain_learning_rate,
        share=recipe.budget.flops[0] if recipe.budget.flops else 1.0,
    )
    return (gates, retraining)


def _begin(context: Context, checkpoint: Checkpoint, method: L0Gates, *, config: L0Config) -> None:
    method.begin_at(fisher_order(context, checkpoint, samples=config.initial_samples, spread=config.initial_spread))


def _gates(context: Context, checkpoint: Checkpoint, *, config: L0Config, target: Target) -> Method:
    recipe = context.recipe
    length = recipe.budget.sequence_length or usual_length(checkpoint.encoder)
    costs = flops_costs(checkpoint.encoder, sequence_length=length)
    without = {"both": (), "attention": costs.columns, "feed_forward": costs.heads}[config.blocks]
    least = (costs.fixed + sum(part[-1] for part in without)) / costs.dense
    if target.flops is not None and target.flops < least:
        raise UsageError(
            f"budget.flops = {target.flops:g} cannot be met with method.blocks = '{config.blocks}': the blocks without "
            f"gates take {least:.3g} of the FLOPs; ask for more, or put gates on both"
        )
    return L0Gates(
        config,
        target,
        costs,
        learning_rate=recipe.optimiser.score_learning_rate,
        warmup=recipe.schedule.warmup,
        cooldown=recipe.schedule.cooldown,
        seed=recipe.seed,
    )
