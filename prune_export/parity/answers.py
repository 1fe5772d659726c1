"""Answers decoded from logits, and whether two models give the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_ANSWER_TOKENS = 30

Logits = NDArray[np.float32]


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


def best_span(start: Logits, end: Logits, context: NDArray[np.bool_]) -> tuple[int, int]:
    """The span `(first, last)` with the highest `start + end` inside the context, at most 30 tokens long.

    All arrays `[sequence]`. This is the decoding of SQuAD v1.1 (Rajpurkar et al. 2016; Devlin et al. 2018, section 4.2).
    """
    scores = _span_scores(start, end, context)
    first, last = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return int(first), int(last)


def _span_scores(start: Logits, end: Logits, context: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`[sequence, sequence]`, -inf where no answer may lie."""
    scores = start[:, None].astype(np.float64) + end[None, :].astype(np.float64)
    places = np.arange(len(start))
    length = places[None, :] - places[:, None]
    allowed = context[:, None] & context[None, :] & (length >= 0) & (length < MAX_ANSWER_TOKENS)
    return np.where(allowed, scores, -np.inf)


def compare_labels(
    reference: Logits, found: Logits, mask: NDArray[np.bool_], *, tie: float, least: float = 1.0
) -> Agreement:
    """Compares the classes that two models choose; logits `[batch, classes]`, or `[batch, sequence, classes]` with `mask`
    `[batch, sequence]` for the tokens that count. Ties as for `compare_answers`.
    """
    rows = reference.reshape(-1, reference.shape[-1]) if reference.ndim == 2 else reference[mask]
    others = found.reshape(-1, found.shape[-1]) if found.ndim == 2 else found[mask]
    places = np.arange(len(rows))
    behind = rows.max(axis=1) - rows[places, others.argmax(axis=1)]
    return Agreement(len(rows), int((behind <= tie).sum()), least)


def compare_answers(
    reference: tuple[Logits, Logits],
    found: tuple[Logits, Logits],
    context: NDArray[np.bool_],
    *,
    tie: float,
    least: float = 1.0,
) -> Agreement:
    """Compares the answers of two models; logits and `context` are `[batch, sequence]`.

    Another span than the reference's counts as the same only where the reference itself scores the two within `tie`
    logits of each other: a coin toss in the reference. That is stricter than what the logits' own tolerance would excuse.
    """
    same = 0
    rows = len(context)
    for row in range(rows):
        expected = best_span(reference[0][row], reference[1][row], context[row])
        answer = best_span(found[0][row], found[1][row], context[row])
        scores = _span_scores(reference[0][row], reference[1][row], context[row])
        same += answer == expected or bool(scores[expected] - scores[answer] <= tie)
    return Agreement(rows, same, least)
