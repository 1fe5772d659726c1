"""Character ranges of answers in their contexts. A data set's offsets are used only if the text is really there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from exporters.errors import DataError
from prune_export.data.examples import Question
from prune_export.files.reading import shown

Span = tuple[int, int]


@dataclass(slots=True)
class AnswerFinder:
    """Finds answers in contexts, and counts those whose given offsets are wrong."""

    moved: int = 0

    def spans(self, context: str, answers: Iterable[tuple[str, int | None]]) -> tuple[Span, ...]:
        """Returns the character ranges of the answers: at their given offsets, or where they occur once in the context."""
        spans: dict[Span, None] = {}
        for text, start in answers:
            if text and start is not None and start >= 0 and context.startswith(text, start):
                spans[start, start + len(text)] = None
            elif (span := find_once(context, text)) is not None:
                self.moved += span not in spans
                spans[span] = None
        return tuple(spans)

    def notes(self) -> tuple[str, ...]:
        """Returns notes on corrected offsets."""
        if not self.moved:
            return ()
        return (f"answers that do not stand where the data say, and were found once in their contexts: {self.moved:,}",)


def find_once(context: str, text: str) -> Span | None:
    """Returns the range where `text`, stripped, occurs in `context` as whole words; None unless that is exactly once."""
    text = text.strip()
    spans: list[Span] = []
    start = context.find(text) if text else -1
    while start >= 0 and len(spans) < 2:
        end = start + len(text)
        if not (_inside_word(context, start) or _inside_word(context, end)):
            spans.append((start, end))
        start = context.find(text, start + 1)
    return spans[0] if len(spans) == 1 else None


def _inside_word(context: str, index: int) -> bool:
    """Says whether a word or number continues across `index`, in scripts that separate words by spaces."""
    around = context[max(0, index - 1) : index + 1]
    cased = all(letter.isdigit() or letter.lower() != letter.upper() for letter in around)
    return 0 < index < len(context) and around.isalnum() and cased


def judged_by_text(questions: Sequence[Question]) -> tuple[str, ...]:
    """Returns a note if questions have answers that are not in the context: the metric compares their texts all the same."""
    lost = sum(bool(question.answers) and not question.spans for question in questions)
    if not lost:
        return ()
    return (
        f"the answers of {lost:,} of {len(questions):,} questions do not stand where the data say; judged by their text",
    )


def read_answers(value: Any, where: str) -> list[tuple[str, int | None]] | None:
    """Reads answers as texts with their character offsets; None if nothing says what the answers are.

    `value` holds lists of both (as `datasets` has them), a list of objects, or one object.

    Raises:
        DataError: it has another form.
    """
    if value is None:
        return None
    if isinstance(value, dict) and {"text", "answer_start"} <= set(value):
        texts, starts = value["text"], value["answer_start"]
        if isinstance(texts, str):
            texts, starts = [texts], [starts]
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return _without_empty(_answer(text, start, where) for text, start in zip(texts, starts, strict=True))
    if isinstance(value, list) and all(
        isinstance(answer, dict) and {"text", "answer_start"} <= set(answer) for answer in value
    ):
        return _without_empty(_answer(answer["text"], answer["answer_start"], where) for answer in value)
    raise DataError(
        f"{where}: 'answers' needs 'text' and 'answer_start': two lists of one length, or a list of objects; found "
        f"{shown(value)}"
    )


def is_impossible(value: Any, where: str) -> bool:
    """Reads SQuAD 2.0's mark of a question without an answer.

    Raises:
        DataError: it is neither true nor false.
    """
    word = str(value).strip().lower()
    if word not in ("true", "false", "1", "0", "1.0", "0.0", "none", ""):
        raise DataError(f"{where}: is_impossible: expected true or false; found {shown(value)}")
    return word in ("true", "1", "1.0")


def _without_empty(answers: Iterable[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
    """Leaves out empty texts, mostly at -1, by which some data sets write that there is no answer."""
    return [(text, start) for text, start in answers if text.strip()]


def _answer(text: Any, start: Any, where: str) -> tuple[str, int | None]:
    if isinstance(start, float) and start.is_integer():
        start = int(start)
    if not isinstance(text, str) or isinstance(start, bool) or not isinstance(start, int | None):
        raise DataError(
            f"{where}: an answer is a text and the character at which it starts; found {shown(text)} and {shown(start)}"
        )
    return text, start
