"""The published algorithm's surrogate of the error: the loss of a candidate after a few steps of SGD on small batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn

from exporters.errors import UsageError
from prune_export.checkpoint.config_keys import own_attention
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.reference_model import load_reference_model, quiet_transformers
from prune_export.subarchitecture.fptas import Hyperparameters
from prune_export.subarchitecture.plain_config import plain_config
from prune_export.subarchitecture.plain_network import PlainNetwork
from prune_export.subarchitecture.shape import Shape
from prune_export.subarchitecture.state_similarity import answers_divergence
from prune_export.tasks import SPECS

Batch = Mapping[str, Tensor]
Objective = Literal["distillation", "task"]


@dataclass(slots=True, eq=False)
class ShortTraining:
    """ê(f, θ; s) of de Wynter 2020 (arXiv 2010.08512): a callable for `fptas`.

    A candidate is an ordinary Hugging Face model of the parent's class. It begins with the weights of `start(shape)` (None:
    at random, as in the paper), and takes `steps` steps of plain SGD. Gradients are clipped to norm 1 and weights to
    ±`clip`, because the paper assumes bounded gradients and a compact set of weights. The error is the mean loss over
    `held_out`.

    `objective` "distillation" is the divergence from the parent; for feature extraction, where widths differ, it is 1 minus
    the linear CKA of the hidden states (Kornblith et al. 2019, section 3). "task" is the loss by the labels in the batches.
    Batches hold int64 tensors by input name, with a mask; steps draw their rows with `seed`, for each candidate the same.
    """

    parent: Checkpoint
    batches: Sequence[Batch]
    held_out: Sequence[Batch]
    start: Callable[[Shape], PlainNetwork] | None = None
    objective: Objective = "distillation"
    steps: int = 50
    clip: float = 10.0
    seed: int = 0
    device: str = "cpu"
    _teacher: nn.Module | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            UsageError: there is no batch, a number is out of range, or the objective needs labels that are not there.
        """
        if not self.batches or not self.held_out:
            raise UsageError("short training: expected batches to train with and others to judge by; found none")
        if self.steps < 0 or not self.clip > 0:
            raise UsageError(
                f"short training: expected steps of 0 or more and a clip above 0; found {self.steps}, {self.clip}"
            )
        names = SPECS[self.parent.task].label_names
        if self.objective == "task" and not (
            names and all(set(names) <= set(b) for b in (*self.batches, *self.held_out))
        ):
            raise UsageError(
                f"short training: the objective 'task' needs labels, and batches for {self.parent.task} have none"
            )

    def __call__(self, shape: Shape, theta: Hyperparameters) -> float:
        """Returns the error of a candidate; infinite where the loss stops being a number."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = self.candidate(shape)
            optimizer = torch.optim.SGD(model.parameters(), lr=theta.learning_rate)
            order = torch.Generator().manual_seed(self.seed)
            for _ in range(self.steps):
                batch = self._rows(order, theta.batch_size)
                loss = self._loss(model, batch)
                if not loss.isfinite():
                    return math.inf
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.clamp_(-self.clip, self.clip)
            return self._held_out_error(model)

    def candidate(self, shape: Shape) -> nn.Module:
        """Returns the untrained network of `shape`, in evaluation mode: dropout would only add noise to so few steps."""
        model_class: Any = getattr(transformers, self.parent.family.class_name(self.parent.task))
        network = None if self.start is None else self.start(shape)
        config = plain_config(self.parent, shape) if network is None else deepcopy(network.config)
        with quiet_transformers():
            model = model_class(own_attention(config, model_class)).to(torch.float32)
        if network is not None:
            missing, unexpected = model.load_state_dict(dict(network.tensors), strict=False)
            named = dict(model.named_parameters(remove_duplicate=False))
            loaded = {id(value) for name, value in named.items() if name not in missing}  # with those tied to them
            lost = [name for name, value in named.items() if id(value) not in loaded]
            assert not unexpected, unexpected
            assert not lost, lost
        return model.to(self.device).eval()  # type: ignore[no-any-return]

    def _held_out_error(self, model: nn.Module) -> float:
        total, rows = 0.0, 0
        with torch.no_grad():
            for batch in self.held_out:
                count = len(batch["input_ids"])
                total += count * float(
                    self._loss(model, {name: value.to(self.device) for name, value in batch.items()})
                )
                rows += count
        return total / rows if math.isfinite(total) else math.inf

    def _rows(self, order: torch.Generator, size: int) -> dict[str, Tensor]:
        """Draws a small batch: `size` rows of one of the batches, or all of them if it has fewer."""
        batch = self.batches[int(torch.randint(len(self.batches), (), generator=order))]
        rows = torch.randperm(len(batch["input_ids"]), generator=order)[:size]
        return {name: value[rows].to(self.device) for name, value in batch.items()}

    def _loss(self, model: Any, batch: Batch) -> Tensor:
        spec = SPECS[self.parent.task]
        inputs = {name: batch[name] for name in self.parent.encoder.inputs}
        student = model(**inputs)
        if self.objective == "task":
            return spec.sample_losses(student, batch, torch.Generator().manual_seed(self.seed)).mean()
        with torch.no_grad():
            teacher = self._parent_model()(**inputs)
        return answers_divergence(self.parent.task, student, teacher, batch["attention_mask"])

    def _parent_model(self) -> Any:
        if self._teacher is None:
            self._teacher = load_reference_model(self.parent).to(self.device)
        return self._teacher
