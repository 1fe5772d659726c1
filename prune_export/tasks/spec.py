"""The specification of a task: one object, with pure functions on tensors and arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.encoder import TaskHead
from exporters.tasks import Task

Outputs = Mapping[str, NDArray[np.float32]]  # a network's outputs by name
Labels = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The number of `questions` to which two networks give the `same` answer; a tie in the reference counts as the same.

    `least` is the fraction that has to be the same.
    """

    questions: int
    same: int
    least: float = 1.0

    @property
    def enough(self) -> bool:
        return self.same >= self.least * self.questions


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a model, in order, and its `problem_type`, both from config.json.

    An answer names the `top_k` best of them (None: all), a single one outside a list.
    """

    labels: Sequence[str]
    problem_type: str | None
    top_k: int | None


class Agree(Protocol):
    """Counts the answers that two networks share; see `TaskSpec`."""

    def __call__(
        self, reference: Outputs, candidate: Outputs, counts: NDArray[np.bool_], *, tie: float, least: float = 1.0
    ) -> Agreement: ...


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task.

    Its models:

    - `head`: the class of its heads in a description, which names the outputs.
    - `suffix`: the end of the name of transformers' class; `output_class`: the class of its outputs
      (`transformers.modeling_outputs`).
    - `base_model`: transformers' class is the base model itself, whose tensors have no prefix.
    - `has_classes`: config.json names the classes of the logits.

    Their inputs:

    - `usual_length`: the default length of a sequence in tokens, for models with as many positions.
    - `takes_questions`: a question and its context, which may be long; otherwise a text, or a pair of texts.
    - `label_names`: the names of the labels in a batch, which are those of transformers' class.
    - `has_readers`: there are readers of labelled data, and official metrics. `metric` is the one that decides; None: the
      first one of the data.

    Functions of their outputs:

    - `split(tensor)` returns the head's tensor as the outputs, in order.
    - `loss(outputs, labels, config)` returns the loss of transformers' class; None without labels.
    - `sample_losses(outputs, batch, generator)` returns the loss of each sample, `[batch]`, independent of other samples:
      padding cannot be an answer. Where the task has no readers, or the batch no labels, targets are drawn with `generator`
      from the network's own predictions. The gradients' second moment is then the true Fisher information (Kunstner et al.
      2019).
    - `divergence(student, teacher, attention_mask, temperature)` returns T² · KL(teacher ‖ student), a scalar, without
      padding.
    - `agree(reference, candidate, counts, tie=, least=)` counts the answers that both networks give. `counts` `[batch,
      sequence]` marks the tokens that an answer may hold. Different answers count as the same only where the reference
      itself scores both within `tie` logits of each other. None: the outputs hold no answers.
    - `decode(outputs, text, offsets, classes)` returns a Pipeline's answer for one text. `offsets` `[length, 2]` are the
      character ranges of its tokens, (-1, -1) for special ones; None unless `needs_offsets`. `decode` is None where a
      Pipeline takes no texts for the task.
    """

    name: Task
    head: type[TaskHead]
    suffix: str
    output_class: str
    loss: Callable[[Mapping[str, Tensor], Labels, Any], Tensor | None]
    sample_losses: Callable[[Any, Labels, torch.Generator], Tensor]
    divergence: Callable[[Any, Any, Tensor, float], Tensor]
    agree: Agree | None
    split: Callable[[Tensor], Iterable[Tensor]] = lambda tensor: (tensor,)
    decode: Callable[[Outputs, str, NDArray[np.int64] | None, Classes], Any] | None = None
    label_names: tuple[str, ...] = ("labels",)
    usual_length: int = 128
    metric: str | None = None
    has_readers: bool = False
    takes_questions: bool = False
    needs_offsets: bool = False
    has_classes: bool = False
    base_model: bool = False

    @property
    def in_pipeline(self) -> bool:
        return self.takes_questions or self.decode is not None

    def outputs_of(self, tensor: Tensor) -> dict[str, Tensor]:
        """Returns the outputs by name, made of the head's tensor."""
        return dict(zip(self.head.outputs, self.split(tensor), strict=True))

    def length_for(self, longest: int) -> int:
        """Returns the default length of a sequence in tokens, for a model that takes at most `longest`."""
        return min(self.usual_length, longest)

    def real_tokens(self, values: NDArray[np.float32], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the part of an output that belongs to non-padding tokens.

        That is `[tokens, …]` of `[batch, sequence, …]`. Where the head answers once per sequence, it is the rows of
        `[batch, …]` whose first token is no padding.
        """
        real = attention_mask == 1
        return np.asarray(values[real if self.head.answers_per_token else real[:, 0]])
