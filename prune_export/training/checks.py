"""Whether a recipe makes sense, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from exporters.errors import UsageError
from prune_export.training.distillation.student_config import StudentConfig
from prune_export.training.recipe import Recipe
from prune_export.training.recipe_file import check_no_secret
from prune_export.training.stage import Stage


def check_recipe(recipe: Recipe) -> None:
    """Checks the numbers of the sections that all methods share.

    Raises:
        UsageError: one is out of range, or two contradict each other.
    """
    check_no_secret(asdict(recipe), "recipe")
    schedule, optimiser, budget, data = recipe.schedule, recipe.optimiser, recipe.budget, recipe.data
    scheduled = (schedule.steps is not None) + (schedule.epochs is not None)
    if scheduled != 1 and not (scheduled == 0 and isinstance(recipe.method, StudentConfig)):  # it has its own
        raise UsageError("schedule: expected either steps or epochs")
    for name, number, least in (
        ("schedule.steps", schedule.steps, 1),
        ("data.samples", data.samples, 1),
        ("data.eval_samples", data.eval_samples, 1),
        ("data.max_seq_length", data.max_seq_length, 1),
        ("data.doc_stride", data.doc_stride, 0),
        ("optimiser.batch_size", optimiser.batch_size, 1),
        ("optimiser.accumulation", optimiser.accumulation, 1),
        ("budget.sequence_length", budget.sequence_length, 1),
        ("seed", recipe.seed, 0),
    ):
        if number is not None and number < least:
            raise UsageError(f"{name} = {number}: expected {least} or more")
    for name, value in (
        ("schedule.epochs", schedule.epochs),
        ("optimiser.learning_rate", optimiser.learning_rate),
        ("optimiser.score_learning_rate", optimiser.score_learning_rate),
    ):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{name} = {value:g}: expected a number above 0")
    for name, fraction in (
        ("schedule.warmup", schedule.warmup),
        ("schedule.cooldown", schedule.cooldown),
        ("optimiser.warmup", optimiser.warmup),
        ("optimiser.dropout", optimiser.dropout),
        ("budget.heads", budget.heads),
        ("budget.columns", budget.columns),
        *(("budget.flops", part) for part in budget.flops),
    ):
        if fraction is not None and not 0 <= fraction <= 1:
            raise UsageError(f"{name} = {fraction:g}: expected a fraction from 0 to 1")
    if schedule.warmup + schedule.cooldown > 1:
        raise UsageError(
            f"schedule.warmup + schedule.cooldown = {schedule.warmup + schedule.cooldown:g}: expected at most 1"
        )
    if optimiser.bf16 and optimiser.fp16:
        raise UsageError("optimiser: expected bf16 or fp16, not both")
    for name, value in (("weight_decay", optimiser.weight_decay), ("max_gradient_norm", optimiser.max_gradient_norm)):
        if value < 0:
            raise UsageError(f"optimiser.{name} = {value:g}: expected 0 or more")


def check_stages(stages: Sequence[Stage]) -> None:
    """Checks what a method makes of its own lengths and learning rates.

    Raises:
        UsageError: one is out of range.
    """
    for stage in stages:
        for name, number, fine, expected in (
            ("steps", stage.steps, stage.steps is None or stage.steps >= 1, "1 or more"),
            ("epochs", stage.epochs, stage.epochs is None or stage.epochs > 0, "more than 0"),
            (
                "learning rate",
                stage.learning_rate,
                (stage.learning_rate if stage.learning_rate is not None else 1.0) > 0,
                "a number above 0",
            ),
        ):
            if not fine:
                raise UsageError(f"method: {name} of the stage '{stage.name}': expected {expected}; found {number:g}")
