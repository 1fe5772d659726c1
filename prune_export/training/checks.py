"""Whether a recipe makes sense, before anything is loaded."""

from __future__ import annotations

from exporters.errors import UsageError
from prune_export.training.distillation.student_config import StudentConfig
from prune_export.training.recipe import ALTERNATIVES, NoMethod, Recipe
from prune_export.training.recipe_file import checked_recipe


def check_recipe(recipe: Recipe) -> Recipe:
    """Checks every value of a recipe, and that none contradicts another; returns it as it would be read from a file.

    Raises:
        UsageError: a value is of the wrong type or out of its range, two contradict each other, or one would do nothing.
    """
    recipe = checked_recipe(recipe)
    schedule, budget = recipe.schedule, recipe.budget
    is_student = isinstance(recipe.method, StudentConfig)
    for section, pairs in ALTERNATIVES.items():
        for one, other in pairs:
            values = [getattr(getattr(recipe, section), name, None) for name in (one, other)]
            if all(value is not None and value is not False and value != () for value in values):
                raise UsageError(f"{section}: expected either {one} or {other}; found both")
    if schedule.steps is None and schedule.epochs is None and not is_student:  # its trainings have their own
        raise UsageError("schedule: expected either steps or epochs; found neither")
    for name in ("steps", "epochs"):
        if is_student and getattr(schedule, name) is not None:
            raise UsageError(
                f"schedule.{name}: method.kind = 'student' has lengths of its own: method.intermediate_{name}, "
                f"prediction_{name} and fine_tuning_{name}"
            )
    if schedule.warmup + schedule.cooldown > 1:
        raise UsageError(
            f"schedule.warmup + schedule.cooldown = {schedule.warmup + schedule.cooldown:g}: expected at most 1"
        )
    if isinstance(recipe.method, NoMethod | StudentConfig):
        for name in ("flops", "heads", "columns"):
            if getattr(budget, name) not in (None, ()):
                raise UsageError(
                    f"budget.{name}: method.kind = '{'student' if is_student else 'none'}' prunes to no budget; expected "
                    "another kind, or no budget"
                )
    if recipe.teacher is not None and recipe.distillation is None and not is_student:
        raise UsageError("teacher: nothing is learnt from it; add the section [distillation], or leave the teacher out")
    if recipe.data.eval is None and recipe.data.eval_samples is not None:
        raise UsageError("data.eval_samples: there is no data.eval to take them from")
    return recipe
