"""MRQA: a folder of its files, figures per data set, and their averages as the shared task defines them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prune_export
from exporters.errors import DataError, UsageError
from prune_export.cli.main import main
from prune_export.data.examples import Question, QuestionData
from prune_export.data.read import read_examples
from prune_export.evaluation.mrqa import missing_datasets, mrqa_metrics, mrqa_scores, scores_by_dataset
from prune_export.training.features import training_data
from prune_export.training.recipe import DataSection
from tests.tiny_training import checkpoint_folder

CONTEXTS = {"SQuAD": "the fox sat on a log .", "NewsQA": "mira lives in oslo .", "DROP": "4 foxes and 7 ships ."}
ANSWERS = {"SQuAD": ["fox", "log"], "NewsQA": ["oslo"], "DROP": ["7 ships", "4", "foxes"]}


def mrqa_file(path: Path, header: str | None, name: str, prefix: str = "") -> Path:
    """Questions of `name`, as the shared task's release has them: a header, gzip, ends of spans included."""
    context = CONTEXTS[name]
    qas: list[dict[str, Any]] = []
    for number, answer in enumerate(ANSWERS[name]):
        start = context.index(answer)
        spans = {"char_spans": [[start, start + len(answer) - 1]], "token_spans": [[0, 0]]}
        qas.append(
            {
                "qid": f"{prefix}{name}{number}",
                "question": "what ?",
                "question_tokens": [["what", 0], ["?", 5]],
                "answers": [answer, context],  # the second one so that no figure is 0
                "detected_answers": [{"text": answer, **spans}],
            }
        )
    line = {"id": "", "context": context, "context_tokens": [["the", 0]], "qas": qas}
    lines = [line] if header is None else [{"header": {"dataset": header, "split": "dev"}}, line]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(each) + "\n" for each in lines).encode()))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mrqa")
    for name in CONTEXTS:
        mrqa_file(root / "dev" / f"{name}.jsonl.gz", name, name)
    checkpoint_folder(root / "model")
    return root


def test_data_sets_count_alike_however_many_questions_they_have() -> None:
    """Worked by hand: SQuAD 1 of 1; NewsQA F1 1, 0.8 ("old town" for "in the old town") and 0; DROP 1/2 of two words."""
    questions = [
        Question("1", "?", "", ("cat",), (), "SQuAD"),
        Question("2", "?", "", ("dog",), (), "NewsQA"),
        Question("3", "?", "", ("in the old town",), (), "NewsQA"),
        Question("4", "?", "", ("mouse",), (), "NewsQA"),
        Question("5", "?", "", ("red fox",), (), "DROP"),
    ]
    predictions = {"1": "The cat!", "2": "dog", "3": "old town", "4": "cat", "5": "red dog"}
    by_dataset = scores_by_dataset(questions, predictions)
    assert {name: scores["f1"] for name, scores in by_dataset.items()} == pytest.approx(
        {"SQuAD": 100, "NewsQA": 60, "DROP": 50}
    )
    assert [scores["total"] for scores in by_dataset.values()] == [1, 3, 1]
    found = mrqa_scores(questions, predictions)
    assert found == pytest.approx(
        {
            "exact_match": (100 + 100 / 3 + 0) / 3,
            "f1": 70,  # not 66, the mean over questions
            "in_domain_exact_match": (100 + 100 / 3) / 2,
            "in_domain_f1": 80,
            "out_of_domain_exact_match": 0,
            "out_of_domain_f1": 50,
        }
    )
    assert tuple(found) == mrqa_metrics(questions)
    assert mrqa_scores(questions[:1], predictions) == {
        "exact_match": 100,
        "f1": 100,
    }  # one data set: the official script
    one, other = missing_datasets(questions)
    assert one == ("in_domain averages 2 of MRQA's 6 data sets, without TriviaQA, SearchQA, HotpotQA, NaturalQuestions")
    assert other.startswith("out_of_domain averages 1 of MRQA's 6 data sets, without BioASQ, DuoRC")
    with pytest.raises(DataError, match="no question to judge"):
        mrqa_scores([], {})


@pytest.mark.parametrize(
    ("file", "header", "expected"),
    [
        ("NaturalQuestions.jsonl.gz", "NaturalQuestionsShort", "NaturalQuestions"),
        ("x.jsonl", "TriviaQA-web", "TriviaQA"),
        ("x.jsonl", "DuoRC.ParaphraseRC", "DuoRC"),
        ("DuoRC.ParaphraseRC.jsonl.gz", None, "DuoRC"),
        ("mine.jsonl.gz", None, "mine"),
        ("x.jsonl", "two\nlines", "two lines"),
    ],
)
def test_names_of_data_sets(file: str, header: str | None, expected: str, tmp_path: Path) -> None:
    data = read_examples(mrqa_file(tmp_path / file, header, "SQuAD"))
    assert isinstance(data, QuestionData)
    assert {question.dataset for question in data.examples} == {expected}


def test_a_folder_is_judged_like_its_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = {
        name: prune_export.evaluate(folder / "model", folder / "dev" / f"{name}.jsonl.gz").results[0]
        for name in CONTEXTS
    }
    evaluation = prune_export.evaluate(folder / "model", folder / "dev")
    (found,) = evaluation.results
    assert found.predictions == {key: text for result in alone.values() for key, text in result.predictions.items()}
    assert any(found.predictions.values())
    for name, result in alone.items():
        assert found.datasets[name] == result.metrics | {"total": len(ANSWERS[name])}
    f1 = {name: result.metrics["f1"] for name, result in alone.items()}
    assert len(set(f1.values())) > 1
    assert found.metrics["f1"] == pytest.approx(np.mean(list(f1.values())))
    assert found.metrics["in_domain_f1"] == pytest.approx(np.mean([f1["SQuAD"], f1["NewsQA"]]))
    assert found.metrics["out_of_domain_f1"] == pytest.approx(f1["DROP"])

    words = ["evaluate", "--model", str(folder / "model"), "--data", str(folder / "dev")]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["data"] == str(folder / "dev")
    assert said["results"][0]["datasets"] == {name: dict(scores) for name, scores in found.datasets.items()}
    assert said["results"][0]["metrics"] == dict(found.metrics)
    assert main([*words, "--fail-below", "in_domain_f1=100.5"]) == 4
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.splitlines()]
    assert ["DROP:", "f1", f"{f1['DROP']:.2f}"] in rows
    assert "Note: in_domain averages 2 of MRQA's 6 data sets, without TriviaQA" in printed.out
    assert "in_domain_f1 is " in printed.err


def test_a_folder_is_trained_on(folder: Path) -> None:
    data = training_data(DataSection(train=(str(folder / "dev"),)), "question-answering")
    assert len(data.examples) == 6


def test_folders_that_are_refused(folder: Path, tmp_path: Path) -> None:
    mrqa_file(tmp_path / "twice" / "a.jsonl.gz", "SQuAD", "SQuAD")
    mrqa_file(tmp_path / "twice" / "b.jsonl.gz", "NewsQA", "SQuAD")
    with pytest.raises(DataError, match="twice: the id 'SQuAD0' stands there twice"):
        read_examples(tmp_path / "twice")
    mrqa_file(tmp_path / "mixed" / "a.jsonl.gz", "SQuAD", "SQuAD")
    (tmp_path / "mixed" / "b.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    with pytest.raises(DataError, match=r"b\.jsonl is not in MRQA's form"):
        read_examples(tmp_path / "mixed")
    with pytest.raises(DataError, match="has no parts, so no split 'dev'"):
        read_examples(folder / "dev", split="dev")
    with pytest.raises(UsageError, match=r"SQuAD\.jsonl\.gz gives exact_match, f1$"):
        prune_export.evaluate(folder / "model", folder / "dev" / "SQuAD.jsonl.gz", fail_below={"in_domain_f1": 50})
