"""Answers like those of transformers' question-answering pipeline: the same texts, positions and scores.

In each window of a context, start and end logits of the context's tokens and of [CLS] become probabilities, and the score
of a span is their product. The 12 best spans of a window are widened to whole words. The scores of spans with the same text,
whatever its case, add up over all windows. The score of "no answer" is the lowest score of [CLS] over all windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prune_export.data.features import Feature
from prune_export.evaluation.spans import Window
from prune_export.options.session import MAX_ANSWER_LENGTH
from prune_export.tasks.classes import softmax
from prune_export.tasks.question_answering import Logits

_BEST = 12

Numbers = NDArray[np.float64]


@dataclass(slots=True)
class PipelineAnswer:
    """An answer. `start` and `end` are characters of the context, `end` exclusive; `score` is from 0 to 1."""

    answer: str
    score: float
    start: int
    end: int


def pipeline_answer(
    context: str,
    windows: Sequence[Window],
    *,
    max_answer_length: int = MAX_ANSWER_LENGTH,
    may_be_nothing: bool = False,
) -> PipelineAnswer:
    """Returns the best answer over all `windows` of one context.

    The windows hold the ranges of words. An answer has at most `max_answer_length` tokens before it is widened. It is ""
    where no span is possible, and with `may_be_nothing` where that scores higher than every span.
    """
    answers: dict[str, PipelineAnswer] = {}
    nothing = 1.0
    for feature, start_logits, end_logits in windows:
        start, end = _probabilities(feature, start_logits), _probabilities(feature, end_logits)
        nothing = min(nothing, float(start[feature.cls] * end[feature.cls]))
        start[feature.cls] = end[feature.cls] = 0.0
        for first, last, score in _best_spans(start, end, max_answer_length):
            start_character, end_character = _characters(feature, first, last)
            text = context[start_character:end_character]
            new = PipelineAnswer(text, 0.0, start_character, end_character)
            answers.setdefault(text.lower(), new).score += score
    candidates = list(answers.values()) or [PipelineAnswer("", 0.0, 0, 0)]
    if may_be_nothing:
        candidates.append(PipelineAnswer("", nothing, 0, 0))
    return max(candidates, key=lambda answer: answer.score)


def _probabilities(feature: Feature, logits: Logits) -> Numbers:
    assert feature.offsets is not None
    allowed = feature.offsets[:, 0] >= 0
    allowed[feature.cls] = True
    return softmax(np.where(allowed, logits, -np.inf))


def _best_spans(start: Numbers, end: Numbers, longest: int) -> list[tuple[int, int, float]]:
    """Returns first token, last token and score of the best spans, the best first, without those that score 0."""
    length = len(start)
    scores = np.zeros((min(longest, length), length))  # [tokens - 1, first token]
    for more in range(len(scores)):
        scores[more, : length - more] = start[: length - more] * end[more:]
    flat = scores.ravel()
    best = np.argpartition(-flat, _BEST)[:_BEST] if flat.size > _BEST else np.arange(flat.size)
    best = best[np.argsort(-flat[best], kind="stable")]
    return [
        (int(index % length), int(index % length + index // length), float(flat[index]))
        for index in best
        if flat[index]
    ]


def _characters(feature: Feature, first: int, last: int) -> tuple[int, int]:
    """Returns the characters of the words from token `first` to token `last`; of the tokens where they have no words."""
    assert feature.offsets is not None
    assert feature.words is not None
    ranges = feature.words if min(feature.words[first, 0], feature.words[last, 0]) >= 0 else feature.offsets
    return int(ranges[first, 0]), int(ranges[last, 1])
