"""Losses, divergences and comparisons of logits over classes, of texts or of tokens, which several tasks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from prune_export.tasks.spec import Agreement, Labels, Outputs


def divergence(student: Tensor, teacher: Tensor, temperature: float, left_out: Tensor | None = None) -> Tensor:
    """Returns T² · KL(teacher ‖ student) over the last dimension, `[…]`; elements that are `left_out` count 0.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2: cross entropy with the teacher's softened
    distribution, times T², so that its gradients stay as large as those of the labels whatever the temperature. The
    divergence differs by the teacher's own entropy, a constant.
    """
    log_student = (student / temperature).log_softmax(dim=-1)
    log_teacher = (teacher / temperature).log_softmax(dim=-1)
    terms = log_teacher.exp() * (log_teacher - log_student)
    if left_out is not None:
        terms = terms.masked_fill(left_out, 0.0)  # 0 · (-inf - -inf) is no number
    return terms.sum(dim=-1) * temperature**2


def token_loss(outputs: Mapping[str, Tensor], labels: Labels, _config: Any) -> Tensor | None:
    """Returns the mean cross entropy of the tokens whose label is not -100."""
    if "labels" not in labels:
        return None
    return functional.cross_entropy(outputs["logits"].flatten(0, 1), labels["labels"].flatten())


def drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Returns one class per row of logits `[rows, classes]`, drawn from their distribution: int64 `[rows]`."""
    return torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=generator).flatten().to(logits.device)


def drawn_losses(outputs: Any, batch: Labels, generator: torch.Generator) -> Tensor:
    """Returns each row's mean cross entropy with classes that are drawn from what the network predicts, `[batch]`."""
    logits = outputs["logits"]  # [batch, sequence, classes]
    attended = batch["attention_mask"].bool()  # [batch, sequence]
    every = logits.flatten(0, 1)
    losses = functional.cross_entropy(every, drawn(every, generator), reduction="none")
    return mean_over_tokens(losses.view(attended.shape), attended)


def mean_over_tokens(values: Tensor, attended: Tensor) -> Tensor:
    """Returns each row's mean over its non-padding tokens, `[batch]` of `[batch, sequence]`."""
    return (values * attended).sum(dim=1) / attended.sum(dim=1).clamp(min=1)


def token_divergence(student: Any, teacher: Any, attention_mask: Tensor, temperature: float) -> Tensor:
    """Returns the mean divergence over classes of the non-padding tokens."""
    student_logits, teacher_logits = student["logits"].float(), teacher["logits"].float()
    tokens = attention_mask.to(student_logits.dtype)
    return (divergence(student_logits, teacher_logits, temperature) * tokens).sum() / tokens.sum().clamp(min=1)


def same_classes(
    reference: Outputs, candidate: Outputs, counts: NDArray[np.bool_], *, tie: float, least: float = 1.0
) -> Agreement:
    """Compares the classes that two networks choose; logits `[batch, classes]`, or `[batch, sequence, classes]`."""
    expected, actual = (
        outputs["logits"] if outputs["logits"].ndim == 2 else outputs["logits"][counts]
        for outputs in (reference, candidate)
    )
    behind = expected.max(axis=1) - expected[np.arange(len(expected)), actual.argmax(axis=1)]
    return Agreement(len(expected), int((behind <= tie).sum()), least)


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Returns the probabilities of logits `[classes]`; that of -inf is 0."""
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    return np.asarray(weights / weights.sum())
