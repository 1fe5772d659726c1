"""Decoding of answers and logits against a full search, and what belongs to padding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prune_export
from benchmarks.retrieval import ndcg
from exporters.errors import OutputError
from prune_export.data.examples import Question, QuestionData
from prune_export.data.features import Feature, question_features, text_features
from prune_export.data.glue_tasks import GLUE_TASKS
from prune_export.evaluation.glue import glue_scores
from prune_export.evaluation.prediction_files import check_predictions, short_names, write_predictions
from prune_export.evaluation.result import Evaluation, ModelResult, is_count
from prune_export.evaluation.running import run_features
from prune_export.evaluation.spans import best_answer
from prune_export.network.opening import Network
from prune_export.options.checkpoint import HubAccess
from tests.models import FAMILY_CASES, make_model
from tests.tiny_tokenizers import bert_tokenizer, roberta_tokenizer, save_with_tokenizer

BERT = FAMILY_CASES[0]
CONTEXT = " ".join(f"w{i:02}" for i in range(45))


def feature(question: int, words: int, *, padding: int = 0) -> Feature:
    """[CLS], `question` tokens, `words` words of CONTEXT, `padding` tokens."""
    offsets = [(-1, -1)] * (1 + question) + [(4 * i, 4 * i + 3) for i in range(words)] + [(-1, -1)] * padding
    ids = np.arange(len(offsets), dtype=np.int64)
    return Feature(0, ids, ids * 0, np.array(offsets, dtype=np.int64))


def test_answers_have_up_to_30_tokens_and_lie_in_the_context() -> None:
    for length in (1, 2, 29, 30, 31, 32):
        one = feature(3, 45, padding=2)
        start, end = np.full((2, len(one.input_ids)), -5, dtype=np.float32)
        start[4 + 5] = end[4 + 5 + length - 1] = 5
        answer = best_answer(CONTEXT, [(one, start, end)])
        assert (len(answer.text.split()) == length) == (length <= 30)
        assert answer.text == CONTEXT[answer.start : answer.end]
        if length <= 30:
            assert answer.start == 4 * 5
        # Better still, but in the question, in [CLS], in padding, or from one of them on.
        for first, last in ((2, 3), (0, 0), (1, 9), (9, 50), (49, 50)):
            tempting, tempted = start.copy(), end.copy()
            tempting[first] = tempted[last] = 50
            answer = best_answer(CONTEXT, [(one, tempting, tempted)])
            assert answer.text
            assert 0 <= answer.start < answer.end <= len(CONTEXT)


@pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer])
@pytest.mark.parametrize("side", ["right", "left"])
def test_no_token_of_the_question_and_no_padding_can_be_an_answer(make: Any, side: str) -> None:
    """Real windows: only tokens of the context have a place in it, and the best of them wins whatever the rest scores."""
    tokenizer = make(padding_side=side)
    question, context = "where b?", "the fox. oslo by a sea."
    (one,) = question_features([(question, context)], tokenizer, max_seq_length=80)
    parts = (question, context) if side == "right" else (context, question)
    own = tokenizer(*parts, return_offsets_mapping=True)
    expected = [
        place if part == (1 if side == "right" else 0) else (-1, -1)
        for place, part in zip(own["offset_mapping"], own.sequence_ids(0), strict=True)
    ]
    assert one.offsets is not None
    assert [tuple(place) for place in one.offsets.tolist()] == expected
    inside = np.array([start >= 0 for start, _ in expected])
    logits = np.where(inside, np.linspace(0, 1, len(inside)), 100).astype(np.float32)
    answer = best_answer(context, [(one, logits, logits)])
    assert answer.text == "."  # the last token of the context
    assert answer.null_odds == pytest.approx(200 - 2 * float(logits[inside][-1]))


def test_the_20_best_starts_meet_the_20_best_ends() -> None:
    """As in `run_squad.py`: a start that is number 21 is not looked at, even where it alone has an end after it."""
    one = feature(0, 45)
    for rank in (20, 21):
        start, end = np.full((2, 46), -50, dtype=np.float32)
        start[20 : 20 + rank - 1] = 10 + np.arange(rank - 1)[::-1]  # before all of them lie the ends
        start[1] = 0  # number `rank`
        end[1:20] = 5
        answer = best_answer(CONTEXT, [(one, start, end)])
        assert (answer.text.startswith("w00")) == (rank == 20)


def test_probabilities_are_a_softmax_over_the_20_best_spans_of_all_windows() -> None:
    generator = np.random.default_rng(0)
    one, two = feature(1, 9), feature(2, 9)
    windows = [(f, *generator.normal(size=(2, len(f.input_ids))).astype(np.float32)) for f in (one, two)]
    scores = sorted(
        (
            float(start[first]) + float(end[last])
            for f, start, end in windows
            for first in range(len(start))
            for last in range(first, len(end))
            if f.offsets[first, 0] >= 0 and f.offsets[last, 0] >= 0
        ),
        reverse=True,
    )[:20]
    null = min(float(start[0]) + float(end[0]) for _, start, end in windows)
    answer = best_answer(CONTEXT, windows)
    assert answer.probability == pytest.approx(np.exp(scores[0]) / np.exp(scores).sum(), rel=1e-5)
    assert answer.null_odds == pytest.approx(null - scores[0], rel=1e-5)
    with_nothing = best_answer(CONTEXT, windows, may_be_nothing=True)
    assert with_nothing.probability == pytest.approx(np.exp(scores[0]) / np.exp([*scores, null]).sum(), rel=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("per_token", [True, False])
def test_rows_are_without_their_padding_and_in_order(side: str, per_token: bool) -> None:
    """The network gives back its input: a row must hold its own tokens, and no padding."""
    tokenizer = bert_tokenizer(padding_side=side)
    texts = [("a", None), ("a b c d", None), ("b c", None), ("d", None), ("a b c", None)]
    features = text_features(texts, tokenizer, max_seq_length=20)
    sizes: list[tuple[int, ...]] = []

    def run(inputs: Any) -> Any:
        ids = inputs["input_ids"]
        sizes.append(ids.shape)
        assert ((ids != tokenizer.pad_token_id) == (inputs["attention_mask"] == 1)).all()
        return {"found": (ids if per_token else ids.sum(axis=1)).astype(np.float32)}

    network = Network("n", "onnx", None, Path(), ("input_ids",), ("found",), run)
    counted: list[int] = []
    rows = run_features(network, features, tokenizer, max_tokens=12, per_token=per_token, advance=counted.append)
    for one, row in zip(features, rows, strict=True):
        assert row["found"].tolist() == (one.input_ids.tolist() if per_token else int(one.input_ids.sum()))
    assert sizes == [(2, 6), (3, 4)]
    assert counted == [2, 3]
    for wrong in (np.nan, np.inf):
        values = np.full((5, 6), wrong, dtype=np.float32)
        broken = Network("n", "onnx", None, Path(), (), (), lambda _, values=values: {"found": values})  # type: ignore[misc]
        with pytest.raises(OutputError, match="found holds numbers that are not finite"):
            run_features(broken, features, tokenizer, max_tokens=100, per_token=True)


def test_correlations_with_a_constant_are_0_and_f1_is_of_label_1() -> None:
    assert glue_scores(GLUE_TASKS["stsb"], [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]) == {"pearson": 0.0, "spearmanr": 0.0}
    assert glue_scores(GLUE_TASKS["stsb"], [2.0, 2.0], [1.0, 2.0]) == {"pearson": 0.0, "spearmanr": 0.0}
    found = glue_scores(GLUE_TASKS["mrpc"], [1, 1, 0, 0], [1, 0, 0, 0])
    assert found == pytest.approx({"accuracy": 75.0, "f1": 100 * 2 / 3})
    assert glue_scores(GLUE_TASKS["mrpc"], [0, 0], [0, 0]) == {"accuracy": 100.0, "f1": 0.0}
    x, y = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 4.0])
    pearson = 100 * np.corrcoef(x, y)[0, 1]
    assert glue_scores(GLUE_TASKS["stsb"], x.tolist(), y.tolist()) == pytest.approx(
        {"pearson": pearson, "spearmanr": 100}
    )


def evaluation(*results: ModelResult) -> Evaluation:
    return Evaluation("dev.json", "question-answering", "squad_v2", 3, results, "dev", 5, 0, ("a note",))


def model_result(name: str, f1: float = 80.0, odds: Any = None) -> ModelResult:
    return ModelResult(name, "onnx", {"f1": f1, "exact": 70.0}, {"1": "Ö", "2": ""}, odds, 4, 1.23456, "squad_v2")


def test_what_is_below_a_limit_is_named() -> None:
    found = evaluation(model_result("a", 80.0), model_result("b", 79.99))
    assert found.below({"f1": 80.0}) == ("b: f1 is 79.99, below 80",)
    assert found.below({"f1": 81.0, "exact": 60.0}) == ("a: f1 is 80.00, below 81", "b: f1 is 79.99, below 81")
    noted = replace(model_result("c"), notes=("labels by name",), form="slim").to_json()
    assert (noted["notes"], noted["form"]) == (["labels by name"], "slim")
    rest = {"kind": "onnx", "form": None, "datasets": {}, "sequences": 4, "seconds": 1.235, "notes": []}
    assert found.to_json() == {
        "data": "dev.json",
        "split": "dev",
        "task": "question-answering",
        "metric": "squad_v2",
        "examples": 3,
        "total": 5,
        "seed": 0,
        "notes": ["a note"],
        "results": [
            {"model": name, "metrics": {"f1": f1, "exact": 70.0}, **rest} for name, f1 in (("a", 80.0), ("b", 79.99))
        ],
    }
    assert [is_count(name) for name in ("total", "HasAns_total", "best_f1_thresh", "f1", "best_f1")] == [True] * 3 + [
        False
    ] * 2


def test_prediction_files(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    check_predictions(["a"], "dev.json", path, overwrite=False)
    written = write_predictions(evaluation(model_result("x/a", odds={"1": -1.5, "2": 2.0})), path)
    assert written == (path, tmp_path / "predictions.null_odds.json")
    assert path.read_text(encoding="utf-8") == '{\n "1": "Ö",\n "2": ""\n}\n'
    assert json.loads(written[1].read_text()) == {"1": -1.5, "2": 2.0}
    foreign = tmp_path / "notes.json"
    for place in (foreign, tmp_path / "notes.null_odds.json"):
        place.write_text("mine")
        with pytest.raises(OutputError):
            check_predictions(["a"], "dev.json", foreign, overwrite=False)
        with pytest.raises(OutputError):
            write_predictions(evaluation(model_result("x/a", odds={"1": 0.0})), foreign)
        check_predictions(["a"], "dev.json", foreign, overwrite=True)
        write_predictions(evaluation(model_result("x/a", odds={"1": 0.0})), foreign, overwrite=True)
    two = write_predictions(
        evaluation(model_result("x/a"), model_result("y/a"), model_result("y/a")), tmp_path / "p.json"
    )
    assert [place.name for place in two] == ["p.x_a.json", "p.y_a.json", "p.y_a-2.json"]
    assert short_names(["./x/a/", "/y/b"]) == ("a", "b")
    assert short_names(["./x/a/", "/y/a"]) == ("x/a", "y/a")
    with pytest.raises(OutputError):
        check_predictions([str(path)], "dev.json", path, overwrite=True)
    with pytest.raises(OutputError):
        check_predictions(["a"], str(path), path, overwrite=True)


def test_options_reach_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option that says how a model is opened, and PyTorch's threads while it runs."""
    tokenizer = bert_tokenizer()
    folder = save_with_tokenizer(make_model(BERT, "question-answering", vocab_size=len(tokenizer)), tokenizer, tmp_path)
    data = QuestionData("one", "squad", (Question("1", "a?", "b c", ("b",), ((0, 1),)),))
    given: list[Any] = []
    threads: list[int] = []

    def run(inputs: Any) -> Any:
        threads.append(torch.get_num_threads())
        return {name: inputs["token_type_ids"].astype(np.float32) for name in ("start_logits", "end_logits")}

    def opened(model: Any, *, hub: HubAccess, **options: Any) -> Network:
        access = {"revision": hub.revision, "cache_dir": hub.cache_dir, "token": hub.token}
        given.append((model, options | access))
        return Network("n", "onnx", "question-answering", folder, (), ("start_logits", "end_logits"), run)

    monkeypatch.setattr("prune_export.evaluation.evaluate_models.open_network", opened)
    before = torch.get_num_threads()
    options = {"provider": "cpu", "threads": 3, "revision": "r", "cache_dir": tmp_path, "token": "t"}
    found = prune_export.evaluate("a", data, **options)
    assert given == [("a", options | {"task": "question-answering"})]
    assert (threads, torch.get_num_threads()) == ([3], before)
    assert (found.data, found.task, found.metric, found.examples) == ("one", "question-answering", "squad", 1)
    prune_export.evaluate(["a", "b"], data)
    assert [model for model, _ in given] == ["a", "a", "b"]
    assert threads == [3, before, before]


def test_ndcg_of_one_relevant_text_is_the_gain_of_its_rank() -> None:
    """Ranks 1, 3 and 11 of eleven texts: 1, 1 / log2(4) and nothing."""
    others = np.linspace(0.1, 0.9, 10)
    rows = [np.insert(others, 4, own) for own in (1.0, 0.75, 0.05)]
    assert ndcg(np.array(rows, dtype=np.float32), np.array([4, 4, 4])) == pytest.approx(100 * (1 + 0.5 + 0) / 3)
