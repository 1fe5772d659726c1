"""Text classification; models with one class are regressions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from exporters.encoder import SequenceHead
from prune_export.tasks.classes import divergence, drawn, same_classes, softmax
from prune_export.tasks.spec import Classes, Labels, Outputs, TaskSpec


def _loss(outputs: Mapping[str, Tensor], batch: Labels, config: Any) -> Tensor | None:
    logits, labels = outputs["logits"], batch.get("labels")
    if labels is None:
        return None
    kind = getattr(config, "problem_type", None)
    if kind is None:
        integers = labels.dtype in (torch.long, torch.int)
        kind = "regression" if logits.shape[1] == 1 else "single_label_classification" if integers else "multi_label"
    if kind == "regression":
        return functional.mse_loss(logits.squeeze(), labels.squeeze().to(logits.dtype))
    if kind == "single_label_classification":
        return functional.cross_entropy(logits, labels.flatten())
    return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def _sample_losses(outputs: Any, batch: Labels, generator: torch.Generator) -> Tensor:
    logits = outputs["logits"]
    labels = batch["labels"] if "labels" in batch else _drawn(logits, generator)
    if labels.is_floating_point():
        return functional.mse_loss(logits.squeeze(1), labels, reduction="none")
    return functional.cross_entropy(logits, labels, reduction="none")


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Returns labels drawn from the prediction; a regression's are normally distributed around it, with variance 1."""
    if logits.shape[-1] > 1:
        return drawn(logits, generator)
    return logits.detach()[:, 0] + torch.randn(len(logits), generator=generator).to(logits)


def _divergence(student: Any, teacher: Any, _attention_mask: Tensor, temperature: float) -> Tensor:
    """Returns the mean divergence over classes; the squared error for a regression."""
    student_logits, teacher_logits = student["logits"].float(), teacher["logits"].float()
    if student_logits.shape[-1] == 1:
        return functional.mse_loss(student_logits, teacher_logits)
    return divergence(student_logits, teacher_logits, temperature).mean()


def _decode(outputs: Outputs, _text: str, _offsets: NDArray[np.int64] | None, classes: Classes) -> Any:
    """Returns the best classes with their scores, the best first."""
    logits = outputs["logits"]
    if classes.problem_type == "regression":
        scores = logits.astype(np.float64)
    elif classes.problem_type == "multi_label_classification" or len(logits) == 1:
        scores = np.asarray(np.exp(-np.logaddexp(0, -logits.astype(np.float64))))  # the sigmoid
    else:
        scores = softmax(logits)
    order = np.argsort(-scores, kind="stable")
    best = [{"label": classes.labels[index], "score": float(scores[index])} for index in order[: classes.top_k]]
    return best[0] if classes.top_k == 1 else best


TEXT_CLASSIFICATION = TaskSpec(
    name="text-classification",
    head=SequenceHead,
    suffix="ForSequenceClassification",
    output_class="SequenceClassifierOutput",
    loss=_loss,
    sample_losses=_sample_losses,
    divergence=_divergence,
    agree=same_classes,
    decode=_decode,
    has_readers=True,
    has_classes=True,
)
