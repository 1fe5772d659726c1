"""What a task is to the rest of the package: one object, with pure functions on tensors and arrays."""

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

Outputs = Mapping[str, NDArray[np.float32]]  # of a network, by name
Labels = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many of `questions` got the same answer; a tie in the reference counts as the same.

    `least` is the share that has to be the same.
    """

    questions: int
    same: int
    least: float = 1.0

    @property
    def enough(self) -> bool:
        return self.same >= self.least * self.questions


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a model, in order, and its `problem_type`, as config.json has them.

    `top_k`: how many of them are told of a text (None: all), 1 not in a list.
    """

    labels: Sequence[str]
    problem_type: str | None
    top_k: int | None


class Agree(Protocol):
    """Counts the answers that two networks share; see `TaskSpec`."""

    def __call__(
        self, reference: Outputs, found: Outputs, counts: NDArray[np.bool_], *, tie: float, least: float = 1.0
    ) -> Agreement: ...


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task.

    What its models are:

    - `head`: the class of its heads in a description; it names the outputs.
    - `suffix`: how transformers' class for it ends; `output_class`: what that returns (`transformers.modeling_outputs`).
    - `base_model`: that class is the base model itself, whose tensors have no prefix.
    - `has_classes`: config.json names the classes that the logits are for.

    What they read:

    - `usual_length`: the tokens of a sequence where nobody says how many, if the model has as many positions.
    - `takes_questions`: a question and its context, which may be long; otherwise a text, or a pair of texts.
    - `label_names`: names of the labels in a batch, as transformers' class takes them.
    - `has_readers`: there are readers of data with labels, and official metrics. `metric`: the one that decides; None: the
      first that the data gives.

    What is computed of their outputs:

    - `split(tensor)`: the head's tensor as the outputs, in order.
    - `loss(outputs, labels, config)`: the loss of transformers' class; None where the labels are not there.
    - `sample_losses(outputs, batch, generator)`: the loss of each sample, `[batch]`, whatever the other rows are: padding
      is no answer. Tasks without readers need no labels: targets are drawn with `generator` from what the network itself
      predicts. The gradients' second moment is then the Fisher information in its proper sense (Kunstner et al. 2019).
    - `divergence(student, teacher, attention_mask, temperature)`: T² · KL(teacher ‖ student), a scalar; padding has no part.
    - `agree(reference, found, counts, tie=, least=)`: how many answers of `found` are those of `reference`. `counts`
      `[batch, sequence]` marks the tokens that an answer may hold. Another answer than the reference's is the same only
      where the reference itself scores both within `tie` logits of each other: a coin toss in the reference. None: the
      outputs hold no answers.
    - `decode(outputs, text, offsets, classes)`: what a Pipeline says of one text, whose tokens have the character ranges
      `offsets` `[length, 2]`, (-1, -1) for special ones; None unless `needs_offsets`. `decode` is None where a Pipeline
      takes no texts for the task.
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
        """Returns what the head computes as the outputs by name."""
        return dict(zip(self.head.outputs, self.split(tensor), strict=True))

    def length_for(self, longest: int) -> int:
        """Returns the tokens of a sequence where nobody says how many, for a model that takes at most `longest`."""
        return min(self.usual_length, longest)

    def real_tokens(self, values: NDArray[np.float32], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the part of an output that belongs to tokens that are no padding.

        That is `[tokens, …]` of `[batch, sequence, …]`. Of `[batch, …]`, which reads the first token, it is the rows whose
        first token is real.
        """
        real = attention_mask == 1
        return np.asarray(values[real[:, 0] if self.head.reads_first_token_only else real])
