"""The official metrics of SQuAD 1.1 (evaluate-v1.1.py; MRQA's script has the same) and 2.0 (evaluate-v2.0.py).

They are not taken from torchmetrics, whose `squad` is neither: two answers that are both empty after normalisation ("the"
and "a") have F1 1 there, as in version 2.0, and 0 in the script of version 1.1. It adds up in float32 (SQuAD's figures then
differ in the fifth digit), raises for a question without an answer, and has no version 2.0.

All scores are percentages.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from exporters.errors import DataError
from prune_export.data.examples import Question

Scores = dict[str, float]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))  # ASCII only: typographic quotes stay, as in the scripts


def normalize_answer(text: str) -> str:
    """Returns a text in lower case, without ASCII punctuation and the words "a", "an", "the", with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(gold: str, predicted: str) -> int:
    """Returns 1 if both are the same after normalization, otherwise 0."""
    return int(normalize_answer(gold) == normalize_answer(predicted))


def token_f1(gold: str, predicted: str) -> float:
    """Returns F1 of the words of both, as multisets; 0 if they share none, two empty answers included (version 1.1)."""
    gold_words, words = normalize_answer(gold).split(), normalize_answer(predicted).split()
    shared = sum((Counter(words) & Counter(gold_words)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(words), shared / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def token_f1_or_empty(gold: str, predicted: str) -> float:
    """Returns F1 as `token_f1`, but 1 for two empty answers (version 2.0)."""
    if not normalize_answer(gold) and not normalize_answer(predicted):
        return 1.0
    return token_f1(gold, predicted)


def squad_scores(questions: Sequence[Question], predictions: Mapping[str, str]) -> Scores:
    """Returns `exact_match` and `f1` of SQuAD 1.1: the best over a question's answers, averaged over all questions.

    `predictions` are texts by the questions' ids; a question without one counts 0.

    Raises:
        DataError: a question has no answer (that is SQuAD 2.0), or there is none.
    """
    exact, f1 = 0.0, 0.0
    for question in questions:
        if not question.answers:
            raise DataError(f"question '{question.id}' has no answer; SQuAD 1.1's metric needs one")
        if question.id in predictions:
            exact += _best(exact_match, question.answers, predictions[question.id])
            f1 += _best(token_f1, question.answers, predictions[question.id])
    if not questions:
        raise DataError("there is no question to judge")
    return {"exact_match": 100 * exact / len(questions), "f1": 100 * f1 / len(questions)}


def squad_v2_scores(
    questions: Sequence[Question],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float] | None = None,
    *,
    threshold: float = 1.0,
) -> Scores:
    """Returns the metrics of SQuAD 2.0 under the official script's keys and in its order.

    `predictions` are texts by the questions' ids, "" for "no answer". `null_odds` measure how sure the model is that there
    is no answer (--na-prob-file): above `threshold` (--na-prob-thresh, 1.0 there) "no answer" counts as its answer. Only
    with `null_odds` the metrics include `best_*`.

    Raises:
        DataError: a question has no prediction (the script ends with a KeyError), or there is no question.
    """
    if missing := [question.id for question in questions if question.id not in predictions]:
        raise DataError(f"{len(missing)} of {len(questions)} questions have no prediction, the first '{missing[0]}'")
    if not questions:
        raise DataError("there is no question to judge")
    odds = {question.id: 0.0 for question in questions} if null_odds is None else null_odds
    exact: Scores = {}
    f1: Scores = {}
    for question in questions:
        golds = [answer for answer in question.answers if normalize_answer(answer)] or [""]
        exact[question.id] = _best(exact_match, golds, predictions[question.id])
        f1[question.id] = _best(token_f1_or_empty, golds, predictions[question.id])
    # A question has an answer if the file has one, even if its normal form is empty.
    has_answer = {question.id: bool(question.answers) for question in questions}
    judged_exact = _with_threshold(exact, odds, has_answer, threshold)
    judged_f1 = _with_threshold(f1, odds, has_answer, threshold)
    totals: Scores = _averages(judged_exact, judged_f1, list(has_answer))
    for prefix, answerable in (("HasAns", True), ("NoAns", False)):
        if subset := [identifier for identifier, has in has_answer.items() if has is answerable]:
            totals |= {f"{prefix}_{key}": value for key, value in _averages(judged_exact, judged_f1, subset).items()}
    if null_odds is not None:
        for key, scores in (("best_exact", exact), ("best_f1", f1)):
            totals[key], totals[f"{key}_thresh"] = _best_threshold(predictions, scores, null_odds, has_answer)
    return totals


def _best(metric: Callable[[str, str], float], golds: Sequence[str], predicted: str) -> float:
    return max(metric(gold, predicted) for gold in golds)


def _with_threshold(
    scores: Scores, odds: Mapping[str, float], has_answer: Mapping[str, bool], threshold: float
) -> Scores:
    return {
        identifier: float(not has_answer[identifier]) if odds[identifier] > threshold else score
        for identifier, score in scores.items()
    }


def _averages(exact: Scores, f1: Scores, identifiers: Sequence[str]) -> Scores:
    total = len(identifiers)
    return {
        "exact": 100 * sum(exact[identifier] for identifier in identifiers) / total,
        "f1": 100 * sum(f1[identifier] for identifier in identifiers) / total,
        "total": total,
    }


def _best_threshold(
    predictions: Mapping[str, str], scores: Scores, odds: Mapping[str, float], has_answer: Mapping[str, bool]
) -> tuple[float, float]:
    """Returns the best score that any threshold on `odds` reaches, and the threshold (`find_best_thresh`).

    It starts with "no answer" to all questions and lets them be answered one by one, in the order of their odds. Equal odds
    keep their order in `odds`. The score between two of them counts, though no threshold separates them, as in the script.
    """
    current: float = sum(not has for has in has_answer.values())
    best, threshold = current, 0.0
    for identifier in sorted(odds, key=lambda key: odds[key]):
        if identifier not in scores:
            continue
        if has_answer[identifier]:
            current += scores[identifier]
        elif predictions[identifier]:
            current -= 1
        if current > best:
            best, threshold = current, odds[identifier]
    return 100 * best / len(scores), threshold
