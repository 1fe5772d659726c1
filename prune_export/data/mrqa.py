"""MRQA 2019 (Fisch et al. 2019): JSON lines, usually gzipped; a header, then one context with its questions per line.

The header names the data set: the shared task trains on six, has six others to develop on, and is judged by the average of
the data sets' F1 (github.com/mrqa/MRQA-Shared-Task-2019, README). `DOMAINS` holds both sixes, under that README's names.

`detected_answers` are the positions of answers in the context; their `char_spans` *include* the last character. The gold
texts of the metric are `answers`, as in the official script.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from exporters.errors import DataError
from prune_export.data.answers import AnswerFinder
from prune_export.data.examples import Question, QuestionData
from prune_export.data.fields import field, unique
from prune_export.files.reading import clipped, shown

DOMAINS = {
    "in_domain": ("SQuAD", "NewsQA", "TriviaQA", "SearchQA", "HotpotQA", "NaturalQuestions"),
    "out_of_domain": ("BioASQ", "DROP", "DuoRC", "RACE", "RelationExtraction", "TextbookQA"),
}
# The names in headers and files that differ from the README's.
_OFFICIAL = {
    "TriviaQA-web": "TriviaQA",
    "NaturalQuestionsShort": "NaturalQuestions",
    "DuoRC.ParaphraseRC": "DuoRC",
}


def mrqa_questions(lines: Iterable[Any], name: str) -> QuestionData:
    """Reads the questions of the parsed lines of an MRQA file.

    A line with `header` names the data set of those after it; without one the file's name does.

    Raises:
        DataError: a line has another shape, a question has no answer, or there is no question.
    """
    questions: list[Question] = []
    finder = AnswerFinder()
    dataset = _dataset(Path(name).name.split(".jsonl")[0])
    for number, line in enumerate(lines, 1):
        if isinstance(line, dict) and "header" in line:
            header = line["header"]
            if isinstance(header, dict) and isinstance(header.get("dataset"), str):
                dataset = _dataset(header["dataset"])
            continue
        where = f"{name}: line {number}"
        context = field(line, "context", str, where)
        for index, entry in enumerate(field(line, "qas", list, where)):
            questions.append(_question(entry, context, f"{where}: qas[{index}]", finder, dataset))
    if not questions:
        raise DataError(f"{name}: no question in it")
    unique([question.id for question in questions], name)
    return QuestionData(name, "mrqa", tuple(questions), notes=finder.notes())


def _dataset(name: str) -> str:
    """Returns the name that tables show: MRQA's README's, or one of the user's own."""
    return _OFFICIAL.get(name) or clipped(" ".join(name.split())) or "unnamed"


def _question(entry: Any, context: str, where: str, finder: AnswerFinder, dataset: str) -> Question:
    identifier = field(entry, "qid", str, where)
    answers = [text for text in field(entry, "answers", list, where) if isinstance(text, str)]
    if not answers:
        raise DataError(f"{where}: question '{clipped(identifier)}' has no answer; every question of MRQA has one")
    spans: list[tuple[int, int]] = []
    detected = field(entry, "detected_answers", list, where) if entry.get("detected_answers") else []
    for number, answer in enumerate(detected):
        where_answer = f"{where}.detected_answers[{number}]"
        for span in field(answer, "char_spans", list, where_answer):
            start, last = _pair(span, where_answer)
            if not 0 <= start <= last < len(context):
                raise DataError(
                    f"{where_answer}: char_spans {shown(span)} lie outside the context of {len(context)} characters"
                )
            if "text" not in answer or _alike(str(answer["text"]), context[start : last + 1]):
                spans.append((start, last + 1))
    if not spans:
        spans = list(finder.spans(context, [(text, None) for text in dict.fromkeys(answers)]))
    return Question(identifier, field(entry, "question", str, where), context, tuple(answers), tuple(spans), dataset)


def _alike(first: str, second: str) -> bool:
    """Says whether both are equal but for case, accents, spaces and punctuation, which MRQA's search ignored."""
    plain = [
        [letter for letter in unicodedata.normalize("NFKD", text).casefold() if letter.isalnum()]
        for text in (first, second)
    ]
    return plain[0] == plain[1]


def _pair(span: Any, where: str) -> tuple[int, int]:
    if not isinstance(span, list) or len(span) != 2 or not all(isinstance(end, int) for end in span):
        raise DataError(f"{where}: char_spans hold pairs of whole numbers; found {shown(span)}")
    return span[0], span[1]
