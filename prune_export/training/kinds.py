"""Which stages a recipe has: one function for each kind of method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prune_export.training.distillation.distiller import distiller
from prune_export.training.distillation.student_config import StudentConfig
from prune_export.training.distillation.student_stages import stages as student_stages
from prune_export.training.gradual.config import GradualConfig
from prune_export.training.gradual.stages import stages as gradual_stages
from prune_export.training.l0.config import L0Config
from prune_export.training.l0.stages import stages as l0_stages
from prune_export.training.movement.config import MovementConfig
from prune_export.training.movement.stages import stages as movement_stages
from prune_export.training.recipe import NoMethod, Recipe
from prune_export.training.stage import Stage


def _none(recipe: Recipe, config: NoMethod) -> tuple[Stage, ...]:  # noqa: ARG001
    """Trains on; with [distillation] that is distillation alone. What is pruned stays so: the rest is a slim network."""
    return (
        Stage("training", objective=None if recipe.distillation is None else distiller(recipe.distillation), slim=None),
    )


_STAGES: dict[type[Any], Callable[[Recipe, Any], tuple[Stage, ...]]] = {
    NoMethod: _none,
    MovementConfig: movement_stages,
    L0Config: l0_stages,
    GradualConfig: gradual_stages,
    StudentConfig: student_stages,
}


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe, one or more.

    Raises:
        UsageError: the method's section, or the budget for it, makes no sense.
    """
    return _STAGES[type(recipe.method)](recipe, recipe.method)
