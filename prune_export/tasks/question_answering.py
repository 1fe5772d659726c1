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
from prune_export.tasks.classes import divergence
from prune_export.tasks.spec import Agreement, Labels, Outputs, TaskSpec

MAX_ANSWER_TOKENS = 30

Logits = NDArray[np.float32]

_POSITIONS = ("start_positions", "end_positions")


def _split(logits: Tensor) -> Iterable[Tensor]:
    return (part.squeeze(-1).contiguous() for part in logits.split(1, dim=-1))


def _loss(outputs: Mapping[str, Tensor], labels: Labels, _config: Any) -> Tensor | None:
    """Cross entropy, the mean of start's and end's; positions outside the sequence are ignored."""
    if not set(_POSITIONS) <= set(labels):
        return None
    length = outputs["start_logits"].shape[1]
    start, end = (
        functional.cross_entropy(outputs[name], labels[positions].clamp(0, length), ignore_index=length)
        for name, positions in zip(SpanHead.outputs, _POSITIONS, strict=True)
    )
    return (start + end) / 2


def _sample_losses(outputs: Any, batch: Labels, _generator: torch.Generator) -> Tensor:
    padding = ~batch["attention_mask"].bool()
    start, end = (
        functional.cross_entropy(_without(outputs[name], padding), batch[positions], reduction="none")
        for name, positions in zip(SpanHead.outputs, _POSITIONS, strict=True)
    )
    return (start + end) / 2


def _without(logits: Tensor, padding: Tensor) -> Tensor:
    return logits.masked_fill(padding, torch.finfo(torch.float32).min)


def _divergence(student: Any, teacher: Any, attention_mask: Tensor, temperature: float) -> Tensor:
    """Of distributions over positions, the mean of start's and end's."""
    padding = ~attention_mask.bool()
    start, end = (
        divergence(
            _without(student[name].float(), padding), _without(teacher[name].float(), padding), temperature, padding
        ).mean()
        for name in SpanHead.outputs
    )
    return (start + end) / 2


def same_answers(
    reference: Outputs, found: Outputs, counts: NDArray[np.bool_], *, tie: float, least: float = 1.0
) -> Agreement:
    """Compares the answers of two networks; logits and `counts`, the context, are `[batch, sequence]`."""
    same = 0
    for row, context in enumerate(counts):
        scores, others = (
            _span_scores(outputs["start_logits"][row], outputs["end_logits"][row], context)
            for outputs in (reference, found)
        )
        best, answer = _best(scores), _best(others)
        same += answer == best or bool(scores[best] - scores[answer] <= tie)
    return Agreement(len(counts), same, least)


def best_span(start: Logits, end: Logits, context: NDArray[np.bool_]) -> tuple[int, int]:
    """Returns the span `(first, last)` with the highest `start + end` inside the context, at most 30 tokens long.

    All arrays `[sequence]`. This is the decoding of SQuAD v1.1 (Rajpurkar et al. 2016; Devlin et al. 2018, section 4.2).
    """
    return _best(_span_scores(start, end, context))


def _best(scores: NDArray[np.float64]) -> tuple[int, int]:
    first, last = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return int(first), int(last)


def _span_scores(start: Logits, end: Logits, context: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`[sequence, sequence]`, -inf where no answer may lie."""
    scores = start[:, None].astype(np.float64) + end[None, :].astype(np.float64)
    places = np.arange(len(start))
    length = places[None, :] - places[:, None]
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
