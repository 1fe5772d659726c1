"""`Pipeline` beside transformers' pipelines: the same labels, answers and scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

import prune_export
from exporters.errors import UnsupportedError, UsageError
from exporters.tasks import Task
from tests.models import FAMILY_CASES, make_model
from tests.tiny_checkpoints import change_config
from tests.tiny_tokenizers import bert_tokenizer, roberta_tokenizer, save_with_tokenizer

BERT, ROBERTA = FAMILY_CASES[0], FAMILY_CASES[1]
TEXTS = ["mira lives in oslo, by the sea.", "a fox", "the ships? the log, 123"]
CONTEXT = "Mira lives in oslo, by the sea. The fox sat on a log and saw the SHIPS, then the ships saw the Fox. "
with_question_answering = pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) > 4, reason="transformers 5 has no question-answering pipeline"
)


def checkpoint(folder: Path, task: Task, case: Any = BERT, **changes: Any) -> Path:
    tokenizer = bert_tokenizer() if case is BERT else roberta_tokenizer()
    model = make_model(case, task, vocab_size=len(tokenizer), max_position_embeddings=120, **changes)
    return save_with_tokenizer(model, tokenizer, folder)


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("multi_label_classification", 3),
        ("multi_label_classification", 1),
        ("single_label_classification", 3),
        ("single_label_classification", 1),
        ("regression", 1),
        ("regression", 3),
        (None, 3),
        (None, 1),
    ],
)
def test_classes_score_as_in_transformers(problem: str | None, labels: int, tmp_path: Path) -> None:
    if (problem, labels) == ("single_label_classification", 1) and transformers.__version__ >= "5":
        pytest.skip("transformers 5 refuses such a config.json")
    path = checkpoint(tmp_path / "model", "text-classification", num_labels=labels, problem_type=problem)
    prune_export.export(path, tmp_path / "onnx", target="cpu", verify=False)
    theirs = transformers.pipeline("text-classification", model=str(path))
    for model in (path, tmp_path / "onnx"):
        one, all_classes = prune_export.Pipeline(model), prune_export.Pipeline(model, top_k=None)
        for ours, expected in zip(one(TEXTS), theirs(TEXTS), strict=True):
            assert ours["label"] == expected["label"]
            assert ours["score"] == pytest.approx(expected["score"], abs=1e-5)
        for found, expected in zip(all_classes(TEXTS), theirs(TEXTS, top_k=None), strict=True):
            assert [part["label"] for part in found] == [part["label"] for part in expected]
            np.testing.assert_allclose(
                [part["score"] for part in found], [part["score"] for part in expected], atol=1e-5
            )
    pair = {"text": "a fox", "text_pair": "the sea"}
    ours, expected = prune_export.Pipeline(path)([pair])[0], theirs(pair)
    assert ours["score"] == pytest.approx(expected["score"], abs=1e-5)


@pytest.mark.parametrize("labels", [1, 3])
def test_tokens_score_as_in_transformers(labels: int, tmp_path: Path) -> None:
    path = checkpoint(
        tmp_path / "model", "token-classification", num_labels=labels, problem_type="multi_label_classification"
    )
    theirs = transformers.pipeline("token-classification", model=str(path), ignore_labels=[])
    for ours, expected in zip(prune_export.Pipeline(path)(TEXTS), theirs(TEXTS), strict=True):
        assert [found["entity"] for found in ours] == [found["entity"] for found in expected]
        np.testing.assert_allclose(
            [found["score"] for found in ours], [found["score"] for found in expected], atol=1e-5
        )


def questions() -> list[tuple[str, str]]:
    """Contexts of one token to several windows, with words that repeat in another case, and one that is nothing."""
    contexts = [CONTEXT[:4], CONTEXT[:30], CONTEXT, CONTEXT * 4, "Fox? FOX. fox, the fox: Fox!", "?", "oslo " * 40]
    return [(question, context) for question in ("where is it?", "fox") for context in contexts]


@with_question_answering
@pytest.mark.parametrize("impossible", [False, True])
@pytest.mark.parametrize("case", [BERT, ROBERTA], ids=str)
def test_answers_are_those_of_transformers(case: Any, impossible: bool, tmp_path: Path) -> None:
    """Networks with many seeds, among them such that say "nothing" for some questions and not for others."""
    nothing = 0
    for seed in range(4):
        path = checkpoint(tmp_path / str(seed), "question-answering", case, seed=seed)
        theirs = transformers.pipeline("question-answering", model=str(path))
        for length in (15, 3):
            ours = prune_export.Pipeline(
                path,
                handle_impossible_answer=impossible,
                max_answer_length=length,
                max_seq_length=100,
                doc_stride=20,
            )
            for (question, context), found in zip(questions(), ours(questions()), strict=True):
                expected = theirs(
                    question=question,
                    context=context,
                    handle_impossible_answer=impossible,
                    max_answer_len=length,
                    max_seq_len=100,
                    doc_stride=20,
                )
                assert (found["answer"], found["start"], found["end"]) == (
                    expected["answer"],
                    expected["start"],
                    expected["end"],
                ), (question, context)
                assert found["score"] == pytest.approx(expected["score"], rel=1e-3, abs=1e-6)
                nothing += found["answer"] == ""
    assert bool(nothing) is impossible


@with_question_answering
@pytest.mark.parametrize("impossible", [False, True])
def test_answers_of_a_real_model(impossible: bool, shared: Path) -> None:
    """Defaults on both sides, windows included."""
    folder = shared / "models" / "minilm-qa-dense"
    articles = json.loads((shared / "data" / "qa" / "xquad-en.json").read_text())["data"]
    paragraphs = [paragraph for article in articles[:6] for paragraph in article["paragraphs"][:1]]
    pairs = [(paragraph["qas"][0]["question"], paragraph["context"]) for paragraph in paragraphs]
    pairs += [(pairs[0][0], " ".join(context for _, context in pairs)), (pairs[0][0], pairs[1][1])]
    ours = prune_export.Pipeline(folder, handle_impossible_answer=impossible)(pairs)
    theirs = transformers.pipeline("question-answering", model=str(folder))
    for (question, context), found in zip(pairs, ours, strict=True):
        expected = theirs(question=question, context=context, handle_impossible_answer=impossible)
        assert found["answer"] == expected["answer"]
        assert (found["start"], found["end"]) == (expected["start"], expected["end"])
        assert found["score"] == pytest.approx(expected["score"], rel=1e-3, abs=1e-6)


def test_nothing_can_be_the_answer(tmp_path: Path) -> None:
    """A network whose [CLS] outweighs every token says "", and only where that is allowed."""
    path = checkpoint(tmp_path / "model", "question-answering")
    pairs = [("where?", CONTEXT), ("fox", "the fox sat on a log")]
    sure = prune_export.Pipeline(path)
    features = sure.network.run

    def outputs(batch: Any) -> Any:
        found = {name: values.copy() for name, values in features(batch).items()}
        for values in found.values():
            values[:, 0] += 50
        return found

    object.__setattr__(sure.network, "run", outputs)
    assert all(answer["answer"] for answer in sure(pairs))
    sure.handle_impossible_answer = True
    assert sure(pairs) == [pytest.approx({"answer": "", "score": 1.0, "start": 0, "end": 0})] * 2


def test_what_a_pipeline_refuses(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "model", "text-classification")
    pipeline = prune_export.Pipeline(path)
    for inputs in (3, None, b"a", "a", {"text": "a"}, (text for text in "ab")):
        with pytest.raises(UsageError, match="expected a list of inputs"):
            pipeline(inputs)  # type: ignore[arg-type]
    for item in (3, None, b"a", ("a",), ("a", 3), ("a", "b", "c"), {"text": "a"}, {"text": 1, "text_pair": "b"}):
        with pytest.raises(UsageError, match="expected a pair of texts"):
            pipeline([item])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="found half a character"):
        pipeline(["\ud800"])
    for name, value in (("top_k", 0), ("max_answer_length", 0), ("doc_stride", -1), ("batch_tokens", 0)):
        with pytest.raises(UsageError, match=f"{name}: expected"):
            prune_export.Pipeline(path, **{name: value})
    with pytest.raises(UsageError, match="--threads -1: expected 1 to"):
        prune_export.Pipeline(path, threads=-1)
    with pytest.raises(UsageError, match="provider: expected one of cpu, cuda"):
        prune_export.Pipeline(path, provider="gpu")  # type: ignore[arg-type]
    change_config(path, id2label={"0": "a", "1": "b"})
    prune_export.export(
        checkpoint(tmp_path / "five", "text-classification", num_labels=5), tmp_path / "onnx", verify=False
    )
    change_config(tmp_path / "onnx", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(UnsupportedError, match="logits for the 2 classes that config"):
        prune_export.Pipeline(tmp_path / "onnx")(["a fox"])
