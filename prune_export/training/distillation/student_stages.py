"""A student of fewer layers as stages: intermediate layers, prediction layer, fine-tuning."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from exporters.errors import UsageError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.training.distillation.config import Distillation
from prune_export.training.distillation.distiller import distiller
from prune_export.training.distillation.student import even_layers, write_student
from prune_export.training.distillation.student_config import EPOCHS, LAYERS, StudentConfig
from prune_export.training.recipe import Recipe
from prune_export.training.stage import Context, Stage


def stages(recipe: Recipe, config: StudentConfig) -> tuple[Stage, ...]:
    """The trainings that are longer than 0.

    Raises:
        UsageError: all of them are 0, or a setting is out of range.
    """
    layer_map = () if recipe.distillation is None else recipe.distillation.layer_map
    hidden = Distillation(weight=0.0, hidden_weight=1.0, layer_map=layer_map)
    logits = Distillation(weight=config.weight, temperature=config.temperature)
    planned = (
        ("intermediate", distiller(hidden, task_weight=0.0)),
        ("prediction", distiller(logits, teacher=config.prediction_teacher)),
        ("fine-tuning", None),
    )
    found: list[Stage] = []
    for name, objective in planned:
        field = name.replace("-", "_")
        steps, epochs = getattr(config, f"{field}_steps"), getattr(config, f"{field}_epochs")
        if steps is None and epochs is None:
            epochs = EPOCHS[field]
        if not (epochs if steps is None else steps):
            continue
        found.append(
            Stage(
                name=name,
                prepare=None if found else partial(_make_student, config=config),
                objective=objective,
                steps=steps,
                epochs=epochs,
                learning_rate=getattr(config, f"{field}_learning_rate"),
            )
        )
    if not found:
        raise UsageError(
            "method: all trainings of the student are of 0 steps; expected intermediate, prediction or fine-tuning"
        )
    return tuple(found)


def _make_student(start: Path, folder: Path, context: Context, *, config: StudentConfig) -> None:
    checkpoint = load_checkpoint(start, task=context.original.task)
    layers = checkpoint.family.dimensions(checkpoint.config).layers
    count = LAYERS if config.layers is None else config.layers
    if not config.keep and count > layers:
        raise UsageError(f"method.layers: expected 1 to {layers}, the model's; found {count}")
    write_student(checkpoint, config.keep or even_layers(count, layers), folder)
