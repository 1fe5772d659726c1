"""Gradual pruning as stages: each prunes a step, and trains what is left as a slim network."""

from __future__ import annotations

from functools import partial

from exporters.errors import UsageError
from prune_export.training.distillation.distiller import distiller
from prune_export.training.gradual.config import GradualConfig
from prune_export.training.gradual.rungs import rungs
from prune_export.training.gradual.step import check_step, prune_step
from prune_export.training.recipe import Recipe
from prune_export.training.stage import Stage


def stages(recipe: Recipe, config: GradualConfig) -> tuple[Stage, ...]:
    """A stage for every step; those that reach a budget are published under its name.

    Raises:
        UsageError: the budgets or another number are out of range.
    """
    if recipe.budget.heads is not None or recipe.budget.columns is not None:
        raise UsageError("budget: gradual pruning takes fractions of FLOPs; found heads or columns")
    objective = None if recipe.distillation is None else distiller(recipe.distillation)
    found = []
    for fraction, is_budget in rungs(recipe.budget.flops, config.step):
        found.append(
            Stage(
                name=f"flops-{fraction:g}" if is_budget else f"flops-{fraction:.3f}-on-the-way",
                prepare=partial(prune_step, config=config, fraction=fraction),
                objective=objective,
                slim=True,
                steps=None if is_budget else config.recovery_steps,
                epochs=None if is_budget else config.recovery_epochs,
                learning_rate=None if is_budget else config.recovery_learning_rate,
                publish=is_budget,
                share=fraction,
                check=partial(check_step, config=config, fraction=fraction),
            )
        )
    return tuple(found)
