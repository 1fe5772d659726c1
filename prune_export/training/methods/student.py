"""A student of fewer layers: some of the model's layers with the same head, taught in up to three trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from exporters.errors import UsageError
from prune_export.checkpoint.beside import check_beside, copy_beside, files_beside
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.weights import read_weights
from prune_export.facts.even_layers import even_layers
from prune_export.facts.file_names import CONFIG, SAFETENSORS
from prune_export.families.names import Family
from prune_export.files.tensors import save_tensors
from prune_export.files.transaction import transaction
from prune_export.options.option import Option
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.folder_types import DENSE
from prune_export.training.distillation import distiller
from prune_export.training.keys import Count, CountOrZero, EpochsOrZero, Fraction, Positive
from prune_export.training.recipe import Distillation, MethodConfig, Recipe
from prune_export.training.stage import Context, Stage, TrainingMethod

_LAYERS = 6
# The published lengths, where a recipe gives neither steps nor epochs.
_EPOCHS = {"intermediate": 4.0, "prediction": 4.0, "fine_tuning": 2.0}


@dataclass(frozen=True, slots=True)
class StudentConfig(MethodConfig):
    """`[method]` with `kind = "student"`: some of the model's layers, taught in three trainings.

    1. *Intermediate layers*: hidden states only (`intermediate_*`).
    2. *Prediction layer*: logits, and the task's loss with 1 - `weight` (`prediction_*`).
    3. *Fine-tuning*: the task's own loss (`fine_tuning_*`).

    A training of 0 steps or epochs is left out. The defaults are those published for deepset/tinyroberta-6l-768d
    (intermediate), deepset/tinyroberta-squad2 (prediction) and deepset/roberta-base-squad2 (fine-tuning).
    """

    layers: Annotated[
        Count | None, Option("how many layers, at even distances, the last one included; none: 6, or those in `keep`")
    ] = None
    keep: Annotated[
        tuple[CountOrZero, ...], Option("the layers that the student begins with, from 0; instead of `layers`")
    ] = ()
    intermediate_steps: Annotated[CountOrZero | None, Option("length; instead of `intermediate_epochs`")] = None
    intermediate_epochs: Annotated[EpochsOrZero | None, Option("length; none, without steps: 4")] = None
    intermediate_learning_rate: Annotated[Positive, Option("the highest learning rate")] = 1e-4
    prediction_steps: Annotated[CountOrZero | None, Option("length; instead of `prediction_epochs`")] = None
    prediction_epochs: Annotated[EpochsOrZero | None, Option("length; none, without steps: 4")] = None
    prediction_learning_rate: Annotated[Positive, Option("the highest learning rate")] = 3e-5
    prediction_teacher: Annotated[str | None, Option("another teacher than the recipe's, for the prediction layer")] = (
        None
    )
    temperature: Annotated[Positive, Option("softens the logits of both networks")] = 1.5
    weight: Annotated[Fraction, Option("how much the teacher's logits count; the task counts the rest")] = 0.75
    fine_tuning_steps: Annotated[CountOrZero | None, Option("length; instead of `fine_tuning_epochs`")] = None
    fine_tuning_epochs: Annotated[EpochsOrZero | None, Option("length; none, without steps: 2")] = None
    fine_tuning_learning_rate: Annotated[Positive, Option("the highest learning rate")] = 3e-5


def stages(recipe: Recipe, config: StudentConfig) -> tuple[Stage, ...]:
    """Returns the trainings that are longer than 0.

    Raises:
        UsageError: all of them are 0, or a setting is out of range.
    """
    layer_map = () if recipe.distillation is None else recipe.distillation.layer_map
    hidden = Distillation(weight=0.0, hidden_weight=1.0, layer_map=layer_map)
    logits = Distillation(weight=config.weight, temperature=config.temperature)
    objectives = {
        "intermediate": distiller(hidden, task_weight=0.0),
        "prediction": distiller(logits, teacher=config.prediction_teacher),
        "fine_tuning": None,
    }
    trainings: list[Stage] = []
    for name, objective in objectives.items():
        steps, epochs = getattr(config, f"{name}_steps"), getattr(config, f"{name}_epochs")
        if steps is None and epochs is None:
            epochs = _EPOCHS[name]
        if not (epochs if steps is None else steps):
            continue
        trainings.append(
            Stage(
                name=name.replace("_", "-"),
                prepare=None if trainings else partial(_make_student, config=config),
                objective=objective,
                steps=steps,
                epochs=epochs,
                learning_rate=getattr(config, f"{name}_learning_rate"),
            )
        )
    if not trainings:
        raise UsageError(
            "method: all trainings of the student are of 0 steps; expected intermediate, prediction or fine-tuning"
        )
    return tuple(trainings)


def _layers(config: StudentConfig, layers: int) -> int:
    return min(layers, len(config.keep) or config.layers or _LAYERS)


METHOD = TrainingMethod(
    "student",
    StudentConfig,
    stages,
    prunes=False,
    distils=True,
    uses_schedule=False,
    lengths=tuple(_EPOCHS),
    exclusive=(("layers", "keep"),),
    teacher_keys=("prediction_teacher",),
    layers=_layers,
)


# --- the student's checkpoint -----------------------------------------------------------------------------------------


def _make_student(start: Path, folder: Path, context: Context, *, config: StudentConfig) -> None:
    checkpoint = load_checkpoint(start, task=context.original.task)
    layers = checkpoint.family.dimensions(checkpoint.config).layers
    count = _LAYERS if config.layers is None else config.layers
    if not config.keep and count > layers:
        raise UsageError(f"method.layers: expected 1 to {layers}, the model's; found {count}")
    write_student(checkpoint, config.keep or even_layers(count, layers), folder)


def write_student(checkpoint: Checkpoint, keep: Sequence[int], folder: Path) -> None:
    """Writes a checkpoint with the layers `keep` of `checkpoint`, counted from 0, in that order, into a new `folder`.

    Where all layers share their weights (ALBERT), only their number changes.

    Raises:
        UsageError: `keep` names a layer that does not exist, or one twice, or none.
        OutputError: the folder exists already, or cannot be written.
    """
    family, config = checkpoint.family, checkpoint.config
    layers = family.dimensions(config).layers
    if not keep or len(set(keep)) < len(keep) or not all(0 <= layer < layers for layer in keep):
        raise UsageError(
            f"method.keep: expected different layers from 0 to {layers - 1}, at least one; found {list(keep)}"
        )
    _check_kinds_stay(checkpoint, keep)
    check_beside(checkpoint.source.folder, (CONFIG,))  # the student's says the same
    weights = read_weights(checkpoint.source.folder, family)
    sizes: dict[str, Any] = {key: len(keep) for key in family.depth_keys if hasattr(config, key)}
    if getattr(config, "layer_types", None) is not None:
        sizes["layer_types"] = config.layer_types[: len(keep)]
    smaller = type(config).from_dict({**config.to_dict(), **sizes})
    smaller.num_hidden_layers = len(keep)
    with transaction(folder_destination(folder, DENSE, overwrite=False).placement) as aside:
        smaller.to_json_file(aside / CONFIG, use_diff=False)
        copied = [name for name in files_beside(checkpoint.source.folder) if name != CONFIG]
        copy_beside(checkpoint.source.folder, aside, copied)
        save_tensors(tensors_of_layers(weights, family, config, keep), aside / SAFETENSORS)


def _check_kinds_stay(checkpoint: Checkpoint, keep: Sequence[int]) -> None:
    """Checks that the kept layers compute at their new places what they do now.

    Raises:
        UsageError: a layer's place decides on its tensors, its window or its frequencies (ModernBERT).
    """
    family, config = checkpoint.family, checkpoint.config
    paths = family.layer_paths(config)
    for index, layer in enumerate(keep):
        places = (index, layer)
        new, old = (tuple(family.present(family.layers, config, f"{paths[place]}.")) for place in places)
        values, before = (family.scores_values(config, place) for place in places)
        alike = all(_equal(value, before[name]) for name, value in values.items())
        if new != old or not alike:
            raise UsageError(
                f"method.keep: layer {layer} would become layer {index}, where {family.model_type} has another kind of "
                "attention or other norms; expected layer 0 first, and at each place a layer of the kind that belongs there"
            )


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def tensors_of_layers(
    tensors: Mapping[str, Tensor], family: Family, config: Any, keep: Sequence[int]
) -> dict[str, Tensor]:
    """Returns the tensors of a network with the layers `keep` alone, under that network's names."""
    old = [f"{path}." for path in family.layer_paths(config)]
    kept = {name: value for name, value in tensors.items() if not any(name.startswith(path) for path in old)}
    for index, layer in enumerate(keep):
        for name, value in tensors.items():
            if name.startswith(old[layer]):
                kept[old[index] + name.removeprefix(old[layer])] = value
    return kept
