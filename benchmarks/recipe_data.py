"""Data and networks of the miniatures of benchmarks.recipes: small parts of real data in the forms that recipes name."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from examples.minilm import packaged_minilm
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.data.examples import Question, QuestionData
from prune_export.data.read import read_examples
from prune_export.training.methods.student import even_layers, write_student
from prune_export.training.recipe_file import recipe_from
from prune_export.training.run import train

SHIFTS = ("new_wiki", "reddit", "amazon")  # of SQuADShifts: what is trained on


def questions_of(path: Path) -> tuple[Question, ...]:
    """Reads the questions of a file."""
    data = read_examples(path)
    assert isinstance(data, QuestionData)
    return data.examples


def squad_2(data: Path, work: Path) -> Path:
    """Writes SQuADShifts' first questions in SQuAD 2.0's form, every third one with a context of another article.

    A context that holds one of the question's answers is not taken for it.
    """
    questions = questions_of(data / "data/qa/squadshifts-new_wiki.json")[:900]
    paragraphs = []
    for number, question in enumerate(questions):
        other = questions[(number + len(questions) // 2) % len(questions)].context
        impossible = number % 3 == 2 and not any(answer in other for answer in question.answers)
        answers = [] if impossible else _answers(question)
        entry = {"id": question.id, "question": question.question, "answers": answers, "is_impossible": impossible}
        paragraphs.append({"context": other if impossible else question.context, "qas": [entry]})
    path = work / "squad-2.json"
    content = {"version": "v2.0", "data": [{"title": "new_wiki", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _answers(question: Question) -> list[dict[str, Any]]:
    return [{"text": question.context[start:end], "answer_start": start} for start, end in question.spans]


def mrqa_folders(data: Path, work: Path) -> tuple[Path, Path]:
    """Writes MRQA's form of SQuADShifts to train on, a file per part, and of two parts of SQuAD's development sets."""
    training, development = work / "mrqa" / "train", work / "mrqa" / "dev"
    for name in SHIFTS:
        write_mrqa(training, name, questions_of(data / f"data/qa/squadshifts-{name}.json")[:300])
    write_mrqa(development, "SQuAD", questions_of(data / "data/qa/xquad-en.json"))
    answerable = [
        question for question in questions_of(data / "data/qa/squad-v2-dev-8-articles.json") if question.answers
    ]
    write_mrqa(development, "SQuAD 2.0, answerable", answerable)
    return training, development


def write_mrqa(folder: Path, dataset: str, questions: Sequence[Question]) -> Path:
    """Writes questions as the shared task's release has them; `char_spans` include their last character."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{dataset}.jsonl.gz"
    header = {"header": {"dataset": dataset, "split": folder.name}}
    path.write_bytes(gzip.compress("".join(_lines([header, *_contexts(questions)])).encode(), mtime=0))
    return path


def _contexts(questions: Sequence[Question]) -> Iterator[dict[str, Any]]:
    for context, own in groupby(questions, key=lambda question: question.context):
        yield {"id": "", "context": context, "qas": [_mrqa_question(question) for question in own]}


def _mrqa_question(question: Question) -> dict[str, Any]:
    detected = [
        {"text": question.context[start:end], "char_spans": [[start, end - 1]]} for start, end in question.spans
    ]
    return {
        "qid": question.id,
        "question": question.question,
        "answers": list(question.answers),
        "detected_answers": detected,
    }


def _lines(objects: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for each in objects:
        yield json.dumps(each) + "\n"


def dense_classifier(data: Path, work: Path) -> Path:
    """Trains MiniLM with a new head on SST-2 for some steps, for want of a classifier in the data."""
    output = work / "dense-sst2"
    recipe = {
        "model": str(packaged_minilm()),
        "output": str(output),
        "task": "text-classification",
        "data": {"train": [str(data / "data/glue/SST-2/train.tsv")], "samples": 2000, "group_by_length": True},
        "schedule": {"steps": 60},
        "optimiser": {"learning_rate": 1e-4, "batch_size": 32},
    }
    train(recipe_from(recipe), overwrite=True)
    return output / "final"


def found_network(dense: Path, work: Path) -> Path:
    """Writes four evenly spaced layers of `dense` as a plain checkpoint, as a search by depth may find them."""
    folder = work / "found"
    if not folder.is_dir():
        write_student(load_checkpoint(resolve(dense)), even_layers(4, 6), folder)
    return folder
