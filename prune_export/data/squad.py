"""SQuAD's JSON (Rajpurkar et al. 2016, 2018): `data` / `paragraphs` / `qas`, version 1.1 and 2.0.

Other data sets of this format are read, too (SQuADShifts, XQuAD, …). It counts as 2.0 if `version` says so, or if a question
has `is_impossible`, which 1.1 does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from exporters.errors import DataError
from prune_export.data.answers import AnswerFinder, is_impossible
from prune_export.data.examples import Question, QuestionData
from prune_export.data.fields import field, unique
from prune_export.files.reading import clipped


def squad_questions(root: Any, name: str) -> QuestionData:
    """Reads the questions of a parsed SQuAD file.

    Raises:
        DataError: it has another shape, no question, or (in version 1.1) a question without an answer.
    """
    questions: list[Question] = []
    finder = AnswerFinder()
    second = str(root.get("version", "")).lstrip("vV").startswith("2") if isinstance(root, dict) else False
    for context, entry, where in _entries(root, name):
        second |= "is_impossible" in entry
        answers = _answers(entry, where)
        if is_impossible(entry.get("is_impossible"), where):
            answers = []  # any answers there are "plausible answers", which are wrong
        identifier = entry.get("id")
        if not isinstance(identifier, str | int):
            raise DataError(f"{where}.id: expected a string; found {type(identifier).__name__}")
        spans = finder.spans(context, answers)
        texts = tuple(text for text, _ in answers)
        questions.append(Question(str(identifier), field(entry, "question", str, where), context, texts, spans))
    if not questions:
        raise DataError(f"{name}: no question in it")
    unique([question.id for question in questions], name)
    without = [question for question in questions if not question.answers]
    if without and not second:
        raise DataError(
            f"{name}: question '{clipped(without[0].id)}' has no answer ({len(without)} of {len(questions)} have none), "
            "and neither 'version' nor 'is_impossible' says that this is SQuAD 2.0"
        )
    return QuestionData(name, "squad_v2" if second else "squad", tuple(questions), notes=finder.notes())


def _entries(root: Any, name: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yields every question with its context and its path in the file."""
    for i, article in enumerate(field(root, "data", list, name)):
        for j, paragraph in enumerate(field(article, "paragraphs", list, f"{name}: data[{i}]")):
            where_paragraph = f"{name}: data[{i}].paragraphs[{j}]"
            context = field(paragraph, "context", str, where_paragraph)
            for k, entry in enumerate(field(paragraph, "qas", list, where_paragraph)):
                where = f"{where_paragraph}.qas[{k}]"
                if not isinstance(entry, dict):
                    raise DataError(f"{where}: expected an object; found {type(entry).__name__}")
                yield context, entry, where


def _answers(entry: dict[str, Any], where: str) -> list[tuple[str, int]]:
    """Reads texts with their character offsets; test sets have no `answers`, without which there is no metric."""
    if is_impossible(entry.get("is_impossible"), where) and "answers" not in entry:
        return []
    answers = [
        (
            field(answer, "text", str, f"{where}.answers[{index}]"),
            field(answer, "answer_start", int, f"{where}.answers[{index}]"),
        )
        for index, answer in enumerate(field(entry, "answers", list, where))
    ]
    return [(text, start) for text, start in answers if text.strip()]  # an empty one is no answer
