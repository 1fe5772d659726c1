"""Examples as read, before any tokenizer: the form that all readers return and all users of data take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from exporters.errors import DataError, UsageError
from exporters.tasks import Task
from prune_export.data.glue_tasks import GlueTask

Style = Literal["squad", "squad_v2", "mrqa"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a context.

    `answers` are the gold texts, none for an unanswerable question. `spans` are the character ranges `(start, end)` of
    answers in `context`, `end` exclusive; an answer whose range is not known has none. `dataset` is the one of MRQA's data
    sets that the question is from; no feature depends on it, so it is left out of `repr`, from which caches are named.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    dataset: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class QuestionData:
    """Extractive question answering. `style` decides the official metric: "squad_v2" has unanswerable questions.

    `split` is the split that was read, None if there are none; `name` then ends in it. `notes` say, one per line, what the
    reader left out or corrected.
    """

    name: str
    style: Style
    examples: tuple[Question, ...]
    split: str | None = None
    notes: tuple[str, ...] = ()

    task: ClassVar[Task] = "question-answering"


@dataclass(frozen=True, slots=True)
class Text:
    """A text, or a pair of texts, and its label.

    The label is an index into `GlueTask.labels`, a number for a regression, or in a user's own data the word in the file, to
    which a model's classes give a meaning (`with_classes`).
    """

    id: str
    text: str
    pair: str | None
    label: int | float | str


@dataclass(frozen=True, slots=True)
class TextData:
    """Classification (or regression) of texts; `split` and `notes` as for `QuestionData`.

    `glue` says what labels mean and which metrics judge. If it is `OWN`, `words` are all labels of the whole data set, in
    the order of their first use. `declared`: the user said that it is. `unlabelled` are words in the column of labels that
    were read as "no label", `renumbered` names of classes that are numbers, but not those of their order.
    """

    name: str
    glue: GlueTask
    examples: tuple[Text, ...]
    split: str | None = None
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    declared: bool = False
    unlabelled: tuple[str, ...] = ()
    renumbered: tuple[str, ...] = ()

    task: ClassVar[Task] = "text-classification"


Data = QuestionData | TextData
AnyData = TypeVar("AnyData", bound=Data)


def answerable(data: QuestionData) -> QuestionData:
    """Returns the questions that have an answer, to be judged as SQuAD v1.1.

    Raises:
        DataError: there are none.
    """
    kept = tuple(example for example in data.examples if example.answers)
    if not kept:
        raise DataError(f"{data.name}: no question in it has an answer")
    return replace(data, style="squad" if data.style == "squad_v2" else data.style, examples=kept)


def trainable(data: AnyData) -> AnyData:
    """Leaves out the questions whose answers are not in their contexts: they would be learnt as unanswerable.

    Raises:
        DataError: no question is left that has an answer.
    """
    if not isinstance(data, QuestionData):
        return data
    kept = tuple(example for example in data.examples if example.spans or not example.answers)
    if not any(example.spans for example in kept):
        raise DataError(
            f"{data.name}: no question in it has an answer that is found in its context; training needs answers"
        )
    if lost := len(data.examples) - len(kept):
        note = f"{lost:,} of {len(data.examples):,} questions left out: their answers do not stand where the data say"
        return replace(data, examples=kept, notes=(*data.notes, note))
    return data


def sample(data: AnyData, count: int, *, seed: int) -> AnyData:
    """Draws `count` examples without replacement, the same for the same seed; all of them if there are no more.

    Raises:
        UsageError: `count` is below 1, or `seed` below 0.
    """
    for option, number, least in (("limit", count, 1), ("seed", seed, 0)):
        if number < least:
            raise UsageError(f"--{option} {number}: expected {least} or more")
    order = np.random.default_rng(seed).permutation(len(data.examples))[:count]
    return _with(data, tuple(data.examples[int(index)] for index in order))


def part_of(data: AnyData, start: int, stop: int) -> AnyData:
    """Returns the examples from number `start` to before `stop`."""
    return _with(data, data.examples[start:stop])


def joined(parts: Sequence[Data]) -> Data:
    """Joins the examples of several files of one task, in order.

    SQuAD v1 and v2 may be mixed: each question says by itself whether it has an answer.

    Raises:
        DataError: the tasks differ.
    """
    first = parts[0]
    if len(parts) == 1:
        return replace(first, name=Path(first.name).name)
    name = ", ".join(Path(data.name).name for data in parts)
    if any((type(data), getattr(data, "glue", None)) != (type(first), getattr(first, "glue", None)) for data in parts):
        raise DataError(f"{name}: files of different tasks; expected data of one task")
    splits = {data.split for data in parts}
    changes: dict[str, Any] = {
        "name": name,
        "examples": tuple(example for data in parts for example in data.examples),
        "split": splits.pop() if len(splits) == 1 else None,
        "notes": tuple(f"{Path(data.name).name}: {note}" for data in parts for note in data.notes),
    }
    if texts := [data for data in parts if isinstance(data, TextData)]:
        changes |= {
            "words": tuple(dict.fromkeys(word for data in texts for word in data.words)),
            "declared": all(data.declared for data in texts),
            "unlabelled": tuple(dict.fromkeys(word for data in texts for word in data.unlabelled)),
            "renumbered": next((data.renumbered for data in texts if data.renumbered), ()),
        }
    return replace(first, **changes)


def _with(data: AnyData, examples: Any) -> AnyData:
    return replace(data, examples=examples)
