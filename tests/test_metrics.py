"""The official metrics: hard cases worked by hand, and the official code beside ours where it can be had."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters.errors import DataError, MissingDependencyError
from prune_export.data.examples import Question, QuestionData
from prune_export.data.features import Feature
from prune_export.data.glue_tasks import GLUE_TASKS
from prune_export.data.read import read_examples
from prune_export.evaluation.glue import glue_scores
from prune_export.evaluation.spans import best_answer
from prune_export.evaluation.squad import (
    exact_match,
    normalize_answer,
    squad_scores,
    squad_v2_scores,
    token_f1,
    token_f1_or_empty,
)
from prune_export.tasks.question_answering import MAX_ANSWER_TOKENS


def question(identifier: str, *answers: str) -> Question:
    return Question(identifier, "?", "context", answers, ())


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat", "cat"),
        ("an apple a day", "apple day"),
        ("theory of a nation", "theory of nation"),  # whole words only
        ("A-team", "ateam"),  # punctuation goes first, so "A" is no word of its own
        ("U.S.", "us"),
        ("the.", ""),
        ("“The” cat", "“ ” cat"),  # typographic quotes are no ASCII punctuation, but part words
        ("$3,000.50", "300050"),
        ("Étude – no.\u00a01", "étude – no 1"),  # white space of any kind
        ("", ""),
    ],
)
def test_normalization(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("gold", "predicted", "exact", "first", "second"),
    [
        ("Denver Broncos", "the Denver Broncos!", 1, 1.0, 1.0),
        ("Denver Broncos", "Broncos", 0, 2 / 3, 2 / 3),
        ("x x y", "x y y", 0, 2 / 3, 2 / 3),  # multisets: x and y once each
        ("a b c", "d", 0, 0.0, 0.0),
        ("the", "a", 1, 0.0, 1.0),  # both empty: the two scripts differ
        ("the", "cat", 0, 0.0, 0.0),
        ("", "", 1, 0.0, 1.0),
        ("", "cat", 0, 0.0, 0.0),
        ("cat", "", 0, 0.0, 0.0),
    ],
)
def test_scores_of_one_answer(gold: str, predicted: str, exact: int, first: float, second: float) -> None:
    assert exact_match(gold, predicted) == exact
    assert token_f1(gold, predicted) == pytest.approx(first)
    assert token_f1_or_empty(gold, predicted) == pytest.approx(second)


def test_squad_1_takes_the_best_answer_and_counts_what_is_missing() -> None:
    questions = [question("1", "big cat", "cat"), question("2", "dog"), question("3", "in the old town", "town")]
    # 1: equal to its second answer; 2: not answered, counts 0; 3: F1 of "old town": 2·1·(2/3)/(1 + 2/3) = 0.8 and 2/3.
    found = squad_scores(questions, {"1": "Cat", "3": "old town"})
    assert found == {"exact_match": pytest.approx(100 / 3), "f1": pytest.approx(100 * 1.8 / 3)}
    with pytest.raises(DataError, match="question '4' has no answer"):
        squad_scores([question("4")], {})
    with pytest.raises(DataError, match="no question"):
        squad_scores([], {})


V2 = [question("1", "cat"), question("2", "the"), question("3"), question("4"), question("5", "red dog", "dog")]
V2_PREDICTIONS = {"1": "cat", "2": "", "3": "", "4": "bird", "5": "red"}


def test_squad_2_without_odds() -> None:
    """Question 2 has an answer, but an empty one: it belongs to HasAns, and is right with nothing at all."""
    found = squad_v2_scores(V2, V2_PREDICTIONS)
    f1 = [1, 1, 1, 0, 2 / 3]
    assert found == pytest.approx(
        {
            "exact": 60,
            "f1": 20 * sum(f1),
            "total": 5,
            "HasAns_exact": 200 / 3,
            "HasAns_f1": 100 * (1 + 1 + 2 / 3) / 3,
            "HasAns_total": 3,
            "NoAns_exact": 50,
            "NoAns_f1": 50,
            "NoAns_total": 2,
        }
    )
    assert list(found)[:3] == ["exact", "f1", "total"]
    with pytest.raises(DataError, match="1 of 5 questions have no prediction, the first '4'"):
        squad_v2_scores(V2, {key: value for key, value in V2_PREDICTIONS.items() if key != "4"})


def test_squad_2_best_thresholds() -> None:
    """Begins at 2 (nothing answered). In order of the odds: 1 gives +1 (3), 4 takes 1 (2), 5 adds 0 or 2/3, 2 adds 1.

    3 adds nothing. Exact: 3 after 1, then never more (3 again at last: a tie keeps the first). F1: 3, 2, 2 2/3, 3 2/3.
    """
    odds = {"1": -3.0, "4": -2.0, "5": -1.0, "2": 0.5, "3": 2.0}
    found = squad_v2_scores(V2, V2_PREDICTIONS, odds)
    assert (found["best_exact"], found["best_exact_thresh"]) == (60.0, -3.0)
    assert (found["best_f1"], found["best_f1_thresh"]) == (pytest.approx(100 * (3 + 2 / 3) / 5), 0.5)
    assert list(found)[-4:] == ["best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"]
    assert found["exact"] == 60  # 3 is above the script's threshold of 1, and is judged as "no answer", which it was
    # Odds above the threshold are an answer: 2 is then "no answer" to a question with one, 5 and 4 too.
    strict = squad_v2_scores(V2, V2_PREDICTIONS, odds, threshold=-2.5)
    assert strict["exact"] == 60
    assert strict["HasAns_exact"] == pytest.approx(100 / 3)
    assert strict["NoAns_exact"] == 100


def test_squad_2_ties_of_odds_keep_their_order() -> None:
    """As in the script, the best of equal odds is found between them, where no threshold could part them."""
    questions = [question("1", "cat"), question("2"), question("3", "dog")]
    predictions = {"1": "cat", "2": "bird", "3": "cow"}
    first = squad_v2_scores(questions, predictions, {"1": 0.0, "2": 0.0, "3": 0.0})
    second = squad_v2_scores(questions, predictions, {"2": 0.0, "1": 0.0, "3": 0.0})
    assert first["best_exact"] == pytest.approx(200 / 3)
    assert second["best_exact"] == pytest.approx(100 / 3)
    assert second["best_exact_thresh"] == 0.0  # nothing beats "no answer" everywhere: the script then says 0


def official(
    questions: Sequence[Question], predictions: dict[str, str], odds: dict[str, float] | None
) -> dict[str, float]:
    """The official script of version 2.0, as transformers 4 carries it."""
    metrics = pytest.importorskip("transformers.data.metrics.squad_metrics", reason="transformers 5 has it no more")
    processors = pytest.importorskip("transformers.data.processors.squad")
    examples = [
        processors.SquadExample(q.id, q.question, q.context, None, None, "", [{"text": text} for text in q.answers])
        for q in questions
    ]
    return dict(metrics.squad_evaluate(examples, predictions, odds))


WORDS = ["the", "A", "dog", "Dog.", "cat", "3,5", "–", "“x”", "é", "ß", "'s", "--", "\u00a0", "an.", "theory", "A-team"]


def random_text(generator: random.Random) -> str:
    return generator.choice([" ", "", "-"]).join(generator.choice(WORDS) for _ in range(generator.randint(0, 4)))


def random_answer(generator: random.Random, found: Question) -> str:
    return generator.choice([random_text(generator), "", *found.answers])


def test_squad_2_equals_the_official_code_on_hard_cases() -> None:
    generator = random.Random(0)
    for _ in range(150):
        questions = [
            question(str(i), *(random_text(generator) for _ in range(generator.choice([0, 1, 1, 2, 3]))))
            for i in range(generator.randint(1, 10))
        ]
        predictions = {found.id: random_answer(generator, found) for found in questions}
        odds = {found.id: generator.choice([-2.0, -1.0, 0.5, 1.0, 1.5]) for found in questions}
        assert squad_v2_scores(questions, predictions, odds) == official(questions, predictions, odds)


def test_squad_2_equals_the_official_code_on_real_data(shared: Path) -> None:
    data = read_examples(shared / "data" / "qa" / "squad-v2-dev-8-articles.json")
    assert isinstance(data, QuestionData)
    generator = random.Random(1)
    predictions = {}
    for example in data.examples:
        words = example.context.split()
        start = generator.randrange(len(words))
        guess = " ".join(words[start : start + generator.randint(1, 5)])
        predictions[example.id] = generator.choice(["", guess, *example.answers, *(a.upper() for a in example.answers)])
    odds = {example.id: round(generator.gauss(0, 3), 1) for example in data.examples}  # rounded: there are ties
    ours = squad_v2_scores(data.examples, predictions, odds)
    assert ours == official(data.examples, predictions, odds)
    assert 20 < ours["f1"] < 80
    assert ours["total"] == 2917


# --- answers out of logits ----------------------------------------------------------------------------------------------


def window(words: list[str], *, special: int = 2, example: int = 0) -> tuple[str, Feature]:
    """A context of `words` and one window that holds it after [CLS], a question and [SEP]."""
    context, offsets, place = " ".join(words), [(-1, -1)] * special, 0
    for word in words:
        offsets.append((place, place + len(word)))
        place += len(word) + 1
    ids = np.arange(len(offsets), dtype=np.int64)
    return context, Feature(example, ids, ids * 0, np.array(offsets, dtype=np.int64))


def test_spans_equal_a_full_search() -> None:
    generator = np.random.default_rng(0)
    context, feature = window([f"w{i}" for i in range(17)])
    assert feature.offsets is not None
    for _ in range(50):
        start, end = generator.normal(size=(2, 19)).astype(np.float32)
        scores = {
            (s, e): float(start[s]) + float(end[e])
            for s in range(2, 19)
            for e in range(s, 19)
            if e - s < MAX_ANSWER_TOKENS
        }
        s, e = max(scores, key=scores.__getitem__)
        answer = best_answer(context, [(feature, start, end)])
        assert (answer.start, answer.end) == (feature.offsets[s, 0], feature.offsets[e, 1])
        assert answer.text == context[answer.start : answer.end]
        assert answer.null_odds == pytest.approx(float(start[0]) + float(end[0]) - scores[s, e])
        best = sorted(scores.values(), reverse=True)[:20]
        # The 20 best of all pairs are among the 20 × 20 best here, as a window has fewer tokens.
        assert answer.probability == pytest.approx(1 / sum(np.exp(value - best[0]) for value in best))


def logits(length: int, **places: float) -> Any:
    values = np.full(length, -9, dtype=np.float32)
    for place, value in places.items():
        values[int(place[1:])] = value
    return values


def test_spans_never_leave_the_context_nor_run_backwards() -> None:
    context, feature = window(["zero", "one", "two", "three"])
    # The highest start is [CLS], the highest end stands before the best start.
    answer = best_answer(context, [(feature, logits(6, _0=9, _4=5), logits(6, _0=9, _2=6, _5=4))])
    assert answer.text == "two three"
    assert answer.null_odds == 9
    long_context, long = window([f"w{i}" for i in range(40)])
    answer = best_answer(long_context, [(long, logits(42, _2=5, _12=4), logits(42, _41=5))])
    assert answer.text.split() == [f"w{i}" for i in range(10, 40)]  # w0 to w39 would be 40 tokens


def test_spans_over_windows() -> None:
    """The best span of any window; "no answer" as the window that is least sure of it sees it."""
    context, one = window(["zero", "one"])
    windows = [
        (one, logits(4, _0=3, _2=4), logits(4, _0=3, _2=4)),
        (one, logits(4, _0=-1, _3=5), logits(4, _0=1, _3=5)),
    ]
    answer = best_answer(context, windows)
    assert (answer.text, answer.null_odds) == ("one", 0 - 10)
    assert answer.or_nothing(0.0) == "one"
    assert answer.or_nothing(-11.0) == ""
    assert answer.or_nothing(-10.0) == "one"  # only above
    sure = best_answer(context, windows, may_be_nothing=True)
    assert sure.probability < answer.probability


def test_ties_take_the_first() -> None:
    context, feature = window(["zero", "one", "two"])
    same = np.zeros(5, dtype=np.float32)
    assert best_answer(context, [(feature, same, same)]).text == "zero"


def test_no_span_at_all() -> None:
    context, feature = window([])
    answer = best_answer(context, [(feature, logits(2, _0=1), logits(2, _0=2))])
    assert (answer.text, answer.probability, answer.null_odds) == ("", 0.0, 3.0)


# --- GLUE ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "labels", "predictions", "expected"),
    [
        ("sst2", [0, 1, 1, 0], [0, 1, 0, 0], {"accuracy": 75.0}),
        ("mnli", [0, 1, 2], [0, 1, 1], {"accuracy": 200 / 3}),
        # Two of three equivalent pairs found, one false alarm: precision and recall 2/3.
        ("mrpc", [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], {"accuracy": 60.0, "f1": 200 / 3}),
        ("qqp", [0, 0], [0, 0], {"accuracy": 100.0, "f1": 0.0}),  # no positive pair at all
        # (2·2 - 1·1) / sqrt(3·3·3·3) = 1/3
        ("cola", [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0], {"matthews_correlation": 100 / 3}),
        ("cola", [1, 0], [1, 1], {"matthews_correlation": 0.0}),
        # Deviations -1 0 1 and -1 1 0: 1 / sqrt(2 · 2); the ranks are the numbers themselves.
        ("stsb", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0], {"pearson": 50.0, "spearmanr": 50.0}),
        # Deviations from the means, times 3: -4 -1 5 and -9 -8.7 17.7; 133.2 / sqrt(42 · 469.98)
        ("stsb", [1.0, 2.0, 4.0], [0.1, 0.2, 9.0], {"pearson": 94.81, "spearmanr": 100.0}),
        ("stsb", [1.0, 2.0], [3.0, 3.0], {"pearson": 0.0, "spearmanr": 0.0}),
    ],
)
def test_glue_scores(task: str, labels: list[Any], predictions: list[Any], expected: dict[str, float]) -> None:
    found = glue_scores(GLUE_TASKS[task], labels, predictions)
    assert found == pytest.approx(expected, abs=0.01)
    json.dumps(found, allow_nan=False)


def test_glue_scores_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'prune-export\[evaluate\]'"):
        glue_scores(GLUE_TASKS["sst2"], [0], [0])
