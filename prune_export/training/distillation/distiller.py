"""Distillation as a stage's objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from prune_export.checkpoint.load import Checkpoint
from prune_export.tasks import SPECS
from prune_export.training.distillation.config import Distillation
from prune_export.training.distillation.hidden import HiddenStates, check_map, hidden_loss
from prune_export.training.distillation.teacher import Teacher, layers_of, load_teacher
from prune_export.training.stage import Context, Objective

_PROJECTION = "distillation_projection"  # the name in the student's state dict


class Distiller:
    """task_weight · task + weight · logits + hidden_weight · hidden states; `task_weight` None is 1 - weight."""

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
        wanted = self.teacher(inputs)
        parts: dict[str, Tensor] = {"task": task_loss.detach()}
        total = self.task_weight * task_loss
        if self.settings.weight:
            found = SPECS[self.student.task].divergence(outputs, wanted, mask, self.settings.temperature)
            total, parts["logits"] = total + self.settings.weight * found, found.detach()
        if self._states is not None:
            assert self.teacher.states is not None
            states = self._states.states[: len(self._map)]
            found = hidden_loss(states, self.teacher.states.states, self._map, mask, self._projection)
            total, parts["hidden"] = total + self.settings.hidden_weight * found, found.detach()
        return total, parts

    def detach(self) -> None:
        if self._states is not None:
            self._states.remove()
        if self._projection is not None:
            assert self._model is not None
            delattr(self._model, _PROJECTION)
        self._states = self._projection = self._model = None


def distiller(
    settings: Distillation, *, teacher: str | None = None, task_weight: float | None = None
) -> Callable[[Context, Checkpoint], Objective]:
    """What a stage takes as its objective; `teacher` None is the recipe's, or, without one, the recipe's model."""

    def make(context: Context, checkpoint: Checkpoint) -> Objective:
        name = teacher or context.recipe.teacher or context.recipe.model
        found = load_teacher(name, checkpoint, device=context.device, with_states=settings.hidden_weight > 0)
        return Distiller(settings, checkpoint, found, task_weight=task_weight)

    return make
