"""Outputs of each task in transformers' classes, with the loss where labels are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from exporters.tasks import Task


def task_output(task: Task, logits: Tensor, labels: Mapping[str, Tensor], config: Any) -> Any:
    """The output object for `task`; the loss is that of transformers' own class.

    `labels` holds `start_positions` and `end_positions` for question answering, `labels` otherwise.
    """
    match task:
        case "feature-extraction":
            return BaseModelOutput(last_hidden_state=logits)  # type: ignore[arg-type]
        case "question-answering":
            start, end = (part.squeeze(-1).contiguous() for part in logits.split(1, dim=-1))
            loss = _span_loss(start, end, labels)
            return QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end)  # type: ignore[arg-type]
        case "text-classification":
            loss = _classification_loss(logits, labels.get("labels"), config)
            return SequenceClassifierOutput(loss=loss, logits=logits)  # type: ignore[arg-type]
        case "token-classification":
            return TokenClassifierOutput(loss=_token_loss(logits, labels.get("labels")), logits=logits)  # type: ignore[arg-type]
        case "fill-mask":
            return MaskedLMOutput(loss=_token_loss(logits, labels.get("labels")), logits=logits)  # type: ignore[arg-type]


def _span_loss(start: Tensor, end: Tensor, labels: Mapping[str, Tensor]) -> Tensor | None:
    if "start_positions" not in labels or "end_positions" not in labels:
        return None
    length = start.shape[1]  # positions outside the sequence are ignored
    losses = [
        functional.cross_entropy(logits, positions.clamp(0, length), ignore_index=length)
        for logits, positions in ((start, labels["start_positions"]), (end, labels["end_positions"]))
    ]
    return (losses[0] + losses[1]) / 2


def _classification_loss(logits: Tensor, labels: Tensor | None, config: Any) -> Tensor | None:
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


def _token_loss(logits: Tensor, labels: Tensor | None) -> Tensor | None:
    return None if labels is None else functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
