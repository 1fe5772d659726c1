"""Learning the teacher's hidden states, layer by layer.

Jiao et al. 2020, "TinyBERT", equations 8 and 9 and section 3.1: the student's hidden states (times a learnt matrix
where the widths differ) are brought near to those of the teacher's layer g(m) by squared error; the mapping at even
distances is g(m) = m · (teacher's layers) / (student's layers), embeddings to embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from exporters.errors import UsageError


def even_map(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """The teacher's state for each of the student's: its embeddings' and layers', counted from 0 (the embeddings).

    Rounded where the teacher has no multiple of the student's layers; the last goes with the last.
    """
    return tuple(round(layer * teacher_layers / student_layers) for layer in range(student_layers + 1))


def check_map(layer_map: Sequence[int], student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """`layer_map`, or the even one where it is empty.

    Raises:
        UsageError: it has not an entry for the student's embeddings and each of its layers, or one that the teacher
        has not.
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
    """The mean over compared layers of the mean squared error over all dimensions of all tokens that are no padding.

    `student` and `teacher` are hidden states `[batch, sequence, width]`: embeddings, then each layer's.
    """
    tokens = attention_mask.float()
    count = tokens.sum().clamp(min=1)
    errors = []
    for states, place in zip(student, layer_map, strict=True):
        if place < 0:
            continue
        found = states if projection is None else projection(states.float())
        squared = (found.float() - teacher[place].float()).square().mean(dim=-1)  # [batch, sequence]
        errors.append((squared * tokens).sum() / count)
    total = errors[0]
    for error in errors[1:]:
        total = total + error
    return total / len(errors)


class HiddenStates:
    """Keeps the hidden states of `model`'s last forward pass: what the first layer is given, then what each layer
    returns.

    `layers` are its layers in the order in which they run; one that runs at several places gives a state at each.
    Works for transformers models and slim ones, and leaves both as they were after `remove`. With gradient
    checkpointing, what layers return when they run again for the backward pass comes after the states of the forward
    pass.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        self.states: list[Tensor] = []
        self._handles = [
            model.register_forward_pre_hook(self._on_start),
            layers[0].register_forward_pre_hook(self._on_first, with_kwargs=True),
            *(layer.register_forward_hook(self._on_layer) for layer in dict.fromkeys(layers)),
        ]

    def remove(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _on_start(self, _module: nn.Module, _inputs: tuple[Any, ...]) -> None:
        self.states = []

    def _on_first(self, _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not self.states:
            self.states.append(inputs[0] if inputs else named["hidden_states"])

    def _on_layer(self, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        self.states.append(output if isinstance(output, Tensor) else output[0])
