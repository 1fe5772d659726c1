"""The teacher of a distillation: in evaluation mode, without gradients, and not saved with the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from exporters.errors import CheckpointError, PruneExportError
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.checkpoint.source import resolve
from prune_export.checkpoint.tokenizer import load_tokenizer, read_config
from prune_export.data.glue_tasks import normalized_name
from prune_export.data.model_classes import class_names
from prune_export.files.reading import clipped
from prune_export.slim_model.model import SlimModel, slim_module
from prune_export.tasks import SPECS


class HiddenStates:
    """Keeps the hidden states of `model`'s last forward pass: the first layer's input, then each layer's output.

    `layers` are its layers in the order in which they run; a shared layer gives a state at each application. It works for
    transformers models and slim ones, and leaves both as they were after `remove`. With gradient checkpointing, the outputs
    of layers that run again for the backward pass come after those of the forward pass.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        self.states: list[Tensor] = []
        self._handles = [
            model.register_forward_pre_hook(self._on_start),
            layers[0].register_forward_pre_hook(self._on_first, with_kwargs=True),
            *(layer.register_forward_hook(self._on_layer) for layer in dict.fromkeys(layers)),
        ]

    def remove(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()

    def _on_start(self, _module: nn.Module, _inputs: tuple[Any, ...]) -> None:
        self.states = []

    def _on_first(self, _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not self.states:
            self.states.append(inputs[0] if inputs else named["hidden_states"])

    def _on_layer(self, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        self.states.append(output if isinstance(output, Tensor) else output[0])


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """The teacher's network; `states` is None where only its outputs are used.

    `classes` are the indices of the teacher's classes in the student's order (None: the order is the same). `separator` is
    the id of the token that ends a segment, where only the teacher has token types (BERT for DistilBERT).
    """

    model: nn.Module
    inputs: tuple[str, ...]
    layers: int
    hidden_size: int
    states: HiddenStates | None
    classes: tuple[int, ...] | None = None
    separator: int | None = None

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        """Returns the outputs for a batch; labels in it are ignored."""
        given = {name: inputs[name] for name in self.inputs if name in inputs}
        if self.separator is not None:
            given["token_type_ids"] = segments(inputs["input_ids"], self.separator)
        with torch.no_grad():
            outputs = self.model(**given)
        if self.classes is not None:
            outputs["logits"] = outputs["logits"][..., list(self.classes)]
        return outputs


def segments(input_ids: Tensor, separator: int) -> Tensor:
    """Returns BERT's token types for `[batch, length]` token ids: 0 up to the first separator, 1 after it."""
    ends = (input_ids == separator).long()
    return ((ends.cumsum(dim=1) - ends) > 0).long()


def load_teacher(name: str, student: Checkpoint, *, device: str, with_states: bool) -> Teacher:
    """Loads the teacher `name` (a folder or a hub id) for `student`.

    Raises:
        CheckpointError: it cannot be read, has other classes, splits texts into other tokens, or is sliced and its hidden
            states are needed.
    """
    checkpoint = read_teacher(name, student)
    is_slim = checkpoint.form == "slim"
    model: nn.Module = slim_module(checkpoint, checkpoint.encoder) if is_slim else load_reference_model(checkpoint)
    model = model.to(device).eval().requires_grad_(False)
    if with_states and checkpoint.encoder.is_sliced:
        raise CheckpointError(
            f"the teacher '{name}' has a sliced residual stream, whose hidden states have several widths: expected one that "
            "is not sliced, or hidden_weight = 0"
        )
    states = HiddenStates(model, layers_of(checkpoint, model)) if with_states else None
    encoder = checkpoint.encoder
    tells_segments = "token_type_ids" in encoder.inputs and "token_type_ids" not in student.encoder.inputs
    separator = load_tokenizer(checkpoint.source.folder).sep_token_id if tells_segments else None
    classes = _class_order(checkpoint, student)
    return Teacher(model, encoder.inputs, len(encoder.layers), encoder.hidden_size, states, classes, separator)


def layers_of(checkpoint: Checkpoint, model: nn.Module) -> list[nn.Module]:
    """Returns the layers of `checkpoint`'s transformers model, or of a slim network made of it, in the order they run.

    A norm of the last hidden states stands for the last layer: its output is the last state, as in transformers.
    """
    family = checkpoint.family
    layers: list[nn.Module]
    final_norm: nn.Module | None
    if isinstance(model, SlimModel):
        layers, final_norm = [model.layers[index] for index in model.layer_indices], model.final_norm
    else:
        paths = family.layer_paths(checkpoint.config, task=checkpoint.task)
        layers, final_norm = [model.get_submodule(path) for path in paths], None
        if family.final_norm:
            module = family.final_norm["weight"].module
            final_norm = model.get_submodule(family.body(module, task=checkpoint.task))
    return layers if final_norm is None else [*layers[:-1], final_norm]


def _class_order(teacher: Checkpoint, student: Checkpoint) -> tuple[int, ...] | None:
    """Returns the indices of the student's classes among the teacher's; None unless the same names have another order."""
    if not SPECS[student.task].has_classes:
        return None
    of_teacher, of_student = (
        [normalized_name(name) for name in class_names(read_config(checkpoint.source.folder))]
        for checkpoint in (teacher, student)
    )
    if of_teacher == of_student or len(set(of_student)) < len(of_student) or sorted(of_teacher) != sorted(of_student):
        return None
    return tuple(of_teacher.index(name) for name in of_student)


def read_teacher(name: str, student: Checkpoint) -> Checkpoint:
    """Reads the teacher `name`, a folder or a hub id.

    Raises:
        CheckpointError: it cannot be read, is for another task, has other classes, or splits texts into other tokens.
    """
    try:
        source = resolve(name)
        listed = read_config(source.folder).get("architectures")
        saved = [str(name) for name in listed] if isinstance(listed, list) else []
        if saved and not any(name.endswith(SPECS[student.task].suffix) for name in saved):
            raise CheckpointError(
                f"it is a {clipped(', '.join(saved))}; expected one for {student.task}, as '{student.source.name}' is"
            )
        checkpoint = load_checkpoint(source, task=student.task)
    except PruneExportError as error:
        raise CheckpointError(f"the teacher '{name}' cannot be used: {error}") from error
    check_teacher(checkpoint, student)
    return checkpoint


def check_teacher(teacher: Checkpoint, student: Checkpoint) -> None:
    """Checks that `teacher` can teach `student`.

    Raises:
        CheckpointError: it has other classes, or splits texts into other tokens.
    """
    classes, expected = (checkpoint.family.dimensions(checkpoint.config).labels for checkpoint in (teacher, student))
    if SPECS[student.task].has_classes and classes != expected:
        raise CheckpointError(
            f"the teacher '{teacher.source.name}' has {classes} classes; expected the model's {expected}"
        )
    if teacher.source.folder == student.source.folder:
        return
    vocabulary, expected_vocabulary = (
        load_tokenizer(checkpoint.source.folder).get_vocab() for checkpoint in (teacher, student)
    )
    if vocabulary != expected_vocabulary:
        raise CheckpointError(
            f"the teacher '{teacher.source.name}' has another vocabulary ({len(vocabulary)} tokens) than "
            f"'{student.source.name}' ({len(expected_vocabulary)}); a teacher has to read the same tokens"
        )
