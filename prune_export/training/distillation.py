"""Distillation as a stage's objective: the teacher's outputs at a temperature, and its hidden states.

Outputs: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2: cross entropy with the teacher's
softened distribution, times T², so that its gradients stay as large as those of the labels whatever the temperature. The
loss here is the KL divergence, which differs by the teacher's own entropy, a constant.

Hidden states: Jiao et al. 2020, "TinyBERT", equations 8 and 9 and section 3.1: the student's hidden states (times a learnt
matrix where the widths differ) are brought near to those of the teacher's layer g(m) by squared error; the mapping at even
distances is g(m) = m · (teacher's layers) / (student's layers), embeddings to embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from exporters.errors import UsageError
from prune_export.checkpoint.load import Checkpoint
from prune_export.tasks import SPECS
from prune_export.training.recipe import Distillation, Recipe
from prune_export.training.stage import Context, MakeObjective, Objective
from prune_export.training.teacher import HiddenStates, Teacher, layers_of, load_teacher

_PROJECTION = "distillation_projection"  # the name in the student's state dict


class Distiller:
    """The loss task_weight · task + weight · logits + hidden_weight · hidden states; `task_weight` None is 1 - weight."""

    def __init__(
        self, settings: Distillation, student: Checkpoint, teacher: Teacher, *, task_weight: float | None = None
    ) -> None:
        self.settings, self.student, self.teacher = settings, student, teacher
        self.task_weight = 1 - settings.weight if task_weight is None else task_weight
        self._states: HiddenStates | None = None
        self._projection: nn.Linear | None = None
        self._model: nn.Module | None = None

    def attach(self, model: nn.Module) -> None:
        self._model = model
        if not self.settings.hidden_weight:
            return
        layers = layers_of(self.student, model)
        self._map = check_map(self.settings.layer_map, len(layers), self.teacher.layers)
        self._states = HiddenStates(model, layers)
        width = self.student.encoder.hidden_size
        if width != self.teacher.hidden_size:
            self._projection = nn.Linear(width, self.teacher.hidden_size, bias=False)
            self._projection.to(next(model.parameters()).device)
            model.add_module(_PROJECTION, self._projection)  # trained and saved with the student

    def loss(self, task_loss: Tensor, outputs: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        mask = inputs["attention_mask"]
        targets = self.teacher(inputs)
        parts: dict[str, Tensor] = {"task": task_loss.detach()}
        total = self.task_weight * task_loss
        if self.settings.weight:
            part = SPECS[self.student.task].divergence(outputs, targets, mask, self.settings.temperature)
            total, parts["logits"] = total + self.settings.weight * part, part.detach()
        if self._states is not None:
            assert self.teacher.states is not None
            states = self._states.states[: len(self._map)]
            part = hidden_loss(states, self.teacher.states.states, self._map, mask, self._projection)
            total, parts["hidden"] = total + self.settings.hidden_weight * part, part.detach()
        return total, parts

    def detach(self) -> None:
        if self._states is not None:
            self._states.remove()
        if self._projection is not None:
            assert self._model is not None
            delattr(self._model, _PROJECTION)
        self._states = self._projection = self._model = None


def distiller(settings: Distillation, *, teacher: str | None = None, task_weight: float | None = None) -> MakeObjective:
    """Returns a stage's objective; `teacher` None is the recipe's teacher, or its model where it names none."""

    def make(context: Context, checkpoint: Checkpoint) -> Objective:
        name = teacher or context.recipe.teacher or context.recipe.model
        loaded = load_teacher(name, checkpoint, device=context.device, with_states=settings.hidden_weight > 0)
        return Distiller(settings, checkpoint, loaded, task_weight=task_weight)

    return make


def distiller_of(recipe: Recipe) -> MakeObjective | None:
    """Returns the objective of the recipe's `[distillation]`; None without that section."""
    return None if recipe.distillation is None else distiller(recipe.distillation)


# --- hidden states ----------------------------------------------------------------------------------------------------


def even_map(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """Returns the index of the teacher's hidden state for each of the student's: 0 is the embeddings', then the layers'.

    Indices are rounded where the teacher's layers are no multiple of the student's. The last layers always correspond.
    """
    return tuple(round(layer * teacher_layers / student_layers) for layer in range(student_layers + 1))


def check_map(layer_map: Sequence[int], student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """Returns `layer_map`, or the even one where it is empty.

    Raises:
        UsageError: it lacks an entry for the student's embeddings or one of its layers, or names a layer that the teacher
            lacks.
    """
    if not layer_map:
        return even_map(student_layers, teacher_layers)
    sound = all(-1 <= layer <= teacher_layers for layer in layer_map) and max(layer_map) >= 0
    if len(layer_map) != student_layers + 1 or not sound:
        raise UsageError(
            f"distillation.layer_map: expected {student_layers + 1} numbers (the student's embeddings and {student_layers} "
            f"layers) from -1 to {teacher_layers} (the teacher's layers), not all of them -1; found {list(layer_map)}"
        )
    return tuple(layer_map)


def hidden_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    layer_map: Sequence[int],
    attention_mask: Tensor,
    projection: nn.Module | None = None,
) -> Tensor:
    """Returns the mean over compared layers of the mean squared error over all dimensions of all non-padding tokens.

    `student` and `teacher` are hidden states `[batch, sequence, width]`: embeddings, then each layer's.
    """
    tokens = attention_mask.float()
    count = tokens.sum().clamp(min=1)
    errors = []
    for states, layer in zip(student, layer_map, strict=True):
        if layer < 0:
            continue
        projected = states if projection is None else projection(states.float())
        squared = (projected.float() - teacher[layer].float()).square().mean(dim=-1)  # [batch, sequence]
        errors.append((squared * tokens).sum() / count)
    total = errors[0]
    for error in errors[1:]:
        total = total + error
    return total / len(errors)
