"""The methods of `[method]`: each module holds a config, its stages, and its entry in the registry below."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from prune_export.training.methods import gradual, l0, movement, none, student
from prune_export.training.recipe import Recipe
from prune_export.training.stage import Stage, TrainingMethod

METHODS: Mapping[str, TrainingMethod] = MappingProxyType(
    {method.kind: method for method in (none.METHOD, movement.METHOD, l0.METHOD, gradual.METHOD, student.METHOD)}
)

# Keys of a section that exclude each other: one that is set on the command line replaces the others.
ALTERNATIVES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "schedule": (("steps", "epochs"),),
    "budget": (("flops", "heads"), ("flops", "columns")),
    "optimiser": (("bf16", "fp16"),),
    "method": tuple(pair for method in METHODS.values() for pair in method.alternatives),
}


def method_of(recipe: Recipe) -> TrainingMethod:
    """Returns the method of the recipe's `[method]`."""
    return next(method for method in METHODS.values() if type(recipe.method) is method.config)


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """Returns the stages of a recipe, one or more.

    Raises:
        UsageError: the method's section or its budget is wrong.
    """
    return method_of(recipe).stages(recipe, recipe.method)
