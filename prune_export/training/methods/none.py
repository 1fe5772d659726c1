"""No pruning: training or distillation of the network as it is."""

from __future__ import annotations

from prune_export.training.distillation import distiller_of
from prune_export.training.recipe import NoMethod, Recipe
from prune_export.training.stage import Stage, TrainingMethod


def stages(recipe: Recipe, config: NoMethod) -> tuple[Stage, ...]:  # noqa: ARG001
    """Returns one stage; a network that is pruned already is trained as a slim network."""
    return (Stage("training", objective=distiller_of(recipe), slim=None),)


METHOD = TrainingMethod("none", NoMethod, stages, prunes=False, trains_slim=True)
