"""Decodes answers from span logits, over all windows of a context.

As in BERT's `run_squad.py` (`write_predictions`) and transformers' `utils_qa.py`, the 20 best starts of each window are
combined with the 20 best ends, at most 30 tokens apart. The score of "no answer" is the lowest score of the [CLS] token over
all windows; it is the answer where it exceeds the score of the best span by more than a threshold. There are two
differences. `run_squad.py` counts a start only in the window that has most context around it; `utils_qa.py` and this module
count it in all windows. Where no span is possible the answer is "", not the word "empty".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prune_export.data.features import Feature
from prune_export.evaluation.running import Row
from prune_export.tasks.question_answering import MAX_ANSWER_TOKENS, Logits

BEST = 20

# One window of a context with its start and end logits `[length]`, not padded.
Window = tuple[Feature, Logits, Logits]


@dataclass(frozen=True, slots=True)
class SquadAnswer:
    """The best answer to a question.

    `start` and `end` are characters of the context, `end` exclusive. `probability` is the softmax over the 20 best spans
    (and "no answer", where that is allowed). `null_odds` is the score of "no answer" minus that of the best span, in logits.
    Where no span is possible, `text` is "" and all numbers but `null_odds` are 0.
    """

    text: str
    start: int
    end: int
    probability: float
    null_odds: float

    def or_nothing(self, threshold: float) -> str:
        """Returns the text, or "" where `null_odds` is above `threshold`."""
        return "" if self.null_odds > threshold else self.text


def windows_of(features: Sequence[Feature], rows: Sequence[Row], examples: int) -> list[list[Window]]:
    """Returns the windows of each of `examples` contexts, with their rows of a network's outputs."""
    windows: list[list[Window]] = [[] for _ in range(examples)]
    for feature, row in zip(features, rows, strict=True):
        windows[feature.example].append((feature, row["start_logits"], row["end_logits"]))
    return windows


def best_answer(context: str, windows: Sequence[Window], *, may_be_nothing: bool = False) -> SquadAnswer:
    """Returns the best span over all `windows` of one context."""
    null = min(float(start[f.cls]) + float(end[f.cls]) for f, start, end in windows)
    spans = [_spans(feature, start, end) for feature, start, end in windows]
    scores = np.concatenate([of_window for of_window, _ in spans])
    characters = np.concatenate([of_window for _, of_window in spans])  # [spans, 2]
    if not len(scores):
        return SquadAnswer("", 0, 0, 0.0, null)
    order = np.argsort(-scores, kind="stable")[:BEST]
    best = float(scores[order[0]])
    kept = np.append(scores[order], null) if may_be_nothing else scores[order]
    probability = float(np.exp(best - kept.max()) / np.exp(kept - kept.max()).sum())
    start, end = (int(character) for character in characters[order[0]])
    return SquadAnswer(context[start:end], start, end, probability, null - best)


def _spans(feature: Feature, start: Logits, end: Logits) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns the scores `[spans]` and the character ranges `[spans, 2]` of one window's spans."""
    assert feature.offsets is not None
    starts, ends = _highest(start), _highest(end)
    first, last = np.repeat(starts, len(ends)), np.tile(ends, len(starts))
    inside = feature.offsets[:, 0] >= 0
    allowed = inside[first] & inside[last] & (last >= first) & (last - first < MAX_ANSWER_TOKENS)
    characters = np.stack([feature.offsets[first, 0], feature.offsets[last, 1]], axis=1)
    allowed &= characters[:, 0] < characters[:, 1]  # a token may have no characters, and is no answer then
    return (start[first].astype(np.float64) + end[last])[allowed], characters[allowed]


def _highest(logits: Logits) -> NDArray[np.int64]:
    """Returns the indices of the 20 highest, the first of equal ones first."""
    return np.argsort(-logits, kind="stable")[:BEST]
