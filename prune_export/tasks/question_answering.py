"""Question answering: the start and the end of an answer in its context."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from exporters.encoder import SpanHead
from prune_export.tasks.classes import divergence, drawn
from prune_export.tasks.spec import Agreement, Labels, Outputs, TaskSpec

MAX_ANSWER_TOKENS = 30

Logits = NDArray[np.float32]

_POSITIONS = ("start_positions", "end_positions")


def _split(logits: Tensor) -> Iterable[Tensor]:
    return (part.squeeze(-1).contiguous() for part in logits.split(1, dim=-1))


def _loss(outputs: Mapping[str, Tensor], labels: Labels, _config: Any) -> Tensor | None:
    """Returns the mean of the start's and the end's cross entropy; positions outside the sequence are ignored."""
    if not set(_POSITIONS) <= set(labels):
        return None
    length = outputs["start_logits"].shape[1]
    start, end = (
        functional.cross_entropy(outputs[name], labels[positions].clamp(0, length), ignore_index=length)
        for name, positions in zip(SpanHead.outputs, _POSITIONS, strict=True)
    )
    return (start + end) / 2


def _sample_losses(outputs: Any, batch: Labels, generator: torch.Generator) -> Tensor:
    padding = ~batch["attention_mask"].bool()
    losses = []
    for name, positions in zip(SpanHead.outputs, _POSITIONS, strict=True):
        logits = _without(outputs[name], padding)
        labels = batch[positions] if positions in batch else drawn(logits, generator)
        losses.append(functional.cross_entropy(logits, labels, reduction="none"))
    return (losses[0] + losses[1]) / 2


def _without(logits: Tensor, padding: Tensor) -> Tensor:
    return logits.masked_fill(padding, torch.finfo(torch.float32).min)


def _divergence(student: Any, teacher: Any, attention_mask: Tensor, temperature: float) -> Tensor:
    """Returns the mean of the start's and the end's divergence, of distributions over positions."""
    padding = ~attention_mask.bool()
    start, end = (
        divergence(
            _without(student[name].float(), padding), _without(teacher[name].float(), padding), temperature, padding
        ).mean()
        for name in SpanHead.outputs
    )
    return (start + end) / 2


def same_answers(
    reference: Outputs, candidate: Outputs, counts: NDArray[np.bool_], *, tie: float, least: float = 1.0
) -> Agreement:
    """Compares the answers of two networks; logits and `counts`, the mask of the context, are `[batch, sequence]`."""
    same = 0
    for row, context in enumerate(counts):
        expected, actual = (
            span_scores(outputs["start_logits"][row], outputs["end_logits"][row], context)
            for outputs in (reference, candidate)
        )
        best, answer = best_span(expected), best_span(actual)
        same += answer == best or bool(expected[best] - expected[answer] <= tie)
    return Agreement(len(counts), same, least)


def best_span(scores: NDArray[np.float64]) -> tuple[int, int]:
    """Returns the first and the last token of the span with the highest of `span_scores`."""
    first, last = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return int(first), int(last)


def span_scores(start: Logits, end: Logits, context: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns `start + end` by first and last token, `[sequence, sequence]`, of logits and a mask `[sequence]`.

    It is -inf outside the context and for more than 30 tokens. This is the decoding of SQuAD v1.1 (Rajpurkar et al. 2016;
    Devlin et al. 2018, section 4.2).
    """
    scores = start[:, None].astype(np.float64) + end[None, :].astype(np.float64)
    positions = np.arange(len(start))
    length = positions[None, :] - positions[:, None]
    allowed = context[:, None] & context[None, :] & (length >= 0) & (length < MAX_ANSWER_TOKENS)
    return np.where(allowed, scores, -np.inf)


QUESTION_ANSWERING = TaskSpec(
    name="question-answering",
    head=SpanHead,
    suffix="ForQuestionAnswering",
    output_class="QuestionAnsweringModelOutput",
    split=_split,
    loss=_loss,
    sample_losses=_sample_losses,
    divergence=_divergence,
    agree=same_answers,
    label_names=_POSITIONS,
    usual_length=384,
    metric="f1",
    has_readers=True,
    takes_questions=True,
)
