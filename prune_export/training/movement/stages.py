"""Movement pruning as stages: pruning, then, if asked for, the filling of what is left."""

from __future__ import annotations

from functools import partial

from exporters.cost import layer_shape
from exporters.errors import UsageError
from prune_export.checkpoint.load import Checkpoint
from prune_export.pruning.costs import flops_costs
from prune_export.tasks import usual_length
from prune_export.training.distillation.distiller import distiller
from prune_export.training.initial import fisher_order
from prune_export.training.method import Method
from prune_export.training.movement.config import MovementConfig
from prune_export.training.movement.pruning import FlopsBudget, MovementPruning
from prune_export.training.recipe import Recipe
from prune_export.training.stage import Context, Stage


def stages(recipe: Recipe, config: MovementConfig) -> tuple[Stage, ...]:
    """One stage, or two with `fill`.

    Raises:
        UsageError: the budget is of the wrong kind, or a setting is out of range.
    """
    _check(recipe, config)
    objective = None if recipe.distillation is None else distiller(recipe.distillation)
    pruning = Stage(
        "movement",
        method=partial(_movement, config=config),
        begin=partial(_begin, config=config) if config.initial == "fisher" else None,
        objective=objective,
    )
    if not config.fill:
        return (pruning,)
    filling = Stage(
        "fill",
        objective=objective,
        slim=True,
        steps=config.fill_steps,
        epochs=config.fill_epochs,
        learning_rate=config.fill_learning_rate,
        share=recipe.budget.flops[0] if recipe.budget.flops else 1.0,
    )
    return (pruning, filling)


def _check(recipe: Recipe, config: MovementConfig) -> None:
    budget = recipe.budget
    if len(budget.flops) > 1 or budget.heads is not None or budget.columns is not None:
        raise UsageError("budget: movement pruning takes one fraction of FLOPs, or none (a threshold decides then)")
    if budget.flops and config.shape not in ("hybrid", "struct"):
        raise UsageError(
            f"budget.flops with method.shape = '{config.shape}': expected 'hybrid' or 'struct', whose units are heads and "
            "columns; otherwise a threshold decides what stays"
        )
    if config.initial == "fisher" and config.shape not in ("hybrid", "struct"):
        raise UsageError(
            "method.initial = 'fisher': expected shape 'hybrid' or 'struct', whose units are heads and columns"
        )
    if config.selection == "topk":
        for name, fraction in (("initial", config.initial_threshold), ("final", config.final_threshold)):
            if fraction is not None and not 0 <= fraction <= 1:
                raise UsageError(f"method.{name}_threshold = {fraction:g}: topk needs a fraction from 0 to 1")


def _begin(context: Context, checkpoint: Checkpoint, method: MovementPruning, *, config: MovementConfig) -> None:
    method.begin_at(fisher_order(context, checkpoint, samples=config.initial_samples, spread=config.initial_spread))


def _movement(context: Context, checkpoint: Checkpoint, *, config: MovementConfig) -> Method:
    recipe = context.recipe
    length = recipe.budget.sequence_length or usual_length(checkpoint.encoder)
    if config.shape == "hybrid" and (recipe.budget.flops or config.initial == "fisher"):
        head_size = max(layer_shape(layer).query_key_size for layer in checkpoint.encoder.layers)
        if head_size % config.block[0]:
            raise UsageError(
                f"method.block = {list(config.block)}: with a budget of FLOPs, or initial = 'fisher', a block's rows "
                f"have to lie within one head, whose size is {head_size} here"
            )
    budget = None
    if recipe.budget.flops:
        budget = FlopsBudget(recipe.budget.flops[0], flops_costs(checkpoint.encoder, sequence_length=length))
    return MovementPruning(
        config,
        recipe.schedule,
        score_learning_rate=recipe.optimiser.score_learning_rate,
        sequence_length=length,
        budget=budget,
    )
