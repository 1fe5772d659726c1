"""Examples as read, before any tokenizer: the plain form in which all readers and all users of data meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from exporters.errors import DataError, UsageError
from prune_export.data.glue_tasks import GlueTask

Style = Literal["squad", "squad_v2", "mrqa"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a context.

    `answers` are the gold texts, none of them for an unanswerable question. `spans` are the character ranges
    `(start, end)` of answers in `context`, `end` exclusive; answers that the data set places wrongly have none.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class QuestionData:
    """Extractive question answering. `style` decides the official metric: "squad_v2" has unanswerable questions."""

    name: str
    style: Style
    examples: tuple[Question, ...]

    task = "question-answering"


@dataclass(frozen=True, slots=True)
class Text:
    """A text, or a pair of texts, and its label: an index into `GlueTask.labels`, or a number for a regression."""

    id: str
    text: str
    pair: str | None
    label: int | float


@dataclass(frozen=True, slots=True)
class TextData:
    """Classification (or regression) of texts."""

    name: str
    glue: GlueTask
    examples: tuple[Text, ...]

    task = "text-classification"


Data = QuestionData | TextData
AnyData = TypeVar("AnyData", bound=Data)


def answerable(data: QuestionData) -> QuestionData:
    """The questions that have an answer, to be judged as SQuAD v1.1.

    Raises:
        DataError: there are none.
    """
    kept = tuple(example for example in data.examples if example.answers)
    if not kept:
        raise DataError(f"{data.name}: no question in it has an answer")
    return replace(data, style="squad" if data.style == "squad_v2" else data.style, examples=kept)


def first(data: AnyData, limit: int) -> AnyData:
    """The first `limit` examples.

    Raises:
        UsageError: `limit` is below 1.
    """
    if limit < 1:
        raise UsageError(f"--limit {limit}: expected 1 or more")
    return _with(data, data.examples[:limit])


def sample(data: AnyData, count: int, *, seed: int) -> AnyData:
    """`count` examples drawn without replacement, the same for the same seed; all of them where there are fewer.

    Raises:
        UsageError: `count` is below 1, or `seed` below 0.
    """
    if count < 1 or seed < 0:
        raise UsageError(f"{count} samples with seed {seed}: expected 1 or more, and a seed of 0 or more")
    order = np.random.default_rng(seed).permutation(len(data.examples))[:count]
    return _with(data, tuple(data.examples[int(index)] for index in order))


def part_of(data: AnyData, start: int, stop: int) -> AnyData:
    """The examples from number `start` to before `stop`."""
    return _with(data, data.examples[start:stop])


def joined(found: Sequence[Data]) -> Data:
    """All examples of several files of one task, in order. Each question says by itself whether it has an answer, so that
    SQuAD v1 and v2 may be mixed.

    Raises:
        DataError: the tasks differ.
    """
    name = ", ".join(Path(data.name).name for data in found)
    first = found[0]
    same = [
        data
        for data in found
        if type(data) is type(first) and getattr(data, "glue", None) == getattr(first, "glue", None)
    ]
    if len(same) < len(found):
        raise DataError(f"{name}: files of different tasks; expected data of one task")
    return _with(first, tuple(example for data in found for example in data.examples), name)


def _with(data: AnyData, examples: Any, name: str | None = None) -> AnyData:
    return replace(data, examples=examples, name=data.name if name is None else name)
