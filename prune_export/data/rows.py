"""Rows by columns, from JSON, JSON lines, CSV, TSV and `datasets`, as examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from exporters.errors import DataError, UsageError
from prune_export.data.answers import AnswerFinder, is_impossible, read_answers
from prune_export.data.columns import QUESTIONS, by_plain_name, label_column, text_columns
from prune_export.data.examples import Data, Question, QuestionData, Text, TextData
from prune_export.data.fields import unique
from prune_export.data.glue_tasks import GLUE_TASKS, OWN, OWN_NAME, GlueTask, glue_task, normalized_name
from prune_export.data.labels import are_class_numbers, are_numbers, label_word, unlabelled_note, without_missing
from prune_export.data.splits import Purpose, choose_split
from prune_export.files.reading import ReadingError, clipped, decode_json, shown

Row = Mapping[str, Any]


def rows_data(
    rows: Sequence[Row],
    name: str,
    *,
    dataset: str | None = None,
    split: str | None = None,
    purpose: Purpose = "evaluation",
    class_names: Mapping[str, Sequence[str]] | None = None,
    config_name: str | None = None,
    saved: bool = False,
    version: str = "",
) -> Data:
    """Returns the examples in `rows`: questions if they have question, context and answers, otherwise labelled texts.

    If there is a column `split`, only rows of `split` count, or without that those for `purpose`. `dataset` names the GLUE
    task, or "own"; without it the columns' names and the labels tell, and `config_name`, which may be a GLUE task's.
    `class_names` are the names of classes by column, for columns that hold their numbers. `saved`: headings are those of
    `datasets`. `version` is that of SQuAD.

    Raises:
        DataError: the columns are of no task, fit several, or a row is wrong.
        UsageError: `dataset` names no task.
    """
    if not rows:
        raise DataError(f"{name}: no example in it")
    columns = by_plain_name(list(dict.fromkeys(key for row in rows for key in row)), name)
    names = class_names or {}
    notes: tuple[str, ...] = ()
    chosen = None
    if "split" in columns:
        parts = [
            label_word(
                _class_name(row.get(columns["split"]), names.get(columns["split"])), f"{name}: example {number}: split"
            )
            for number, row in enumerate(rows)
        ]
        chosen = choose_split([part for part in dict.fromkeys(parts) if part is not None], split, purpose, name)
        kept = [row for row, part in zip(rows, parts, strict=True) if part == chosen]
        notes = (f"{len(kept):,} of {len(rows):,} rows have '{clipped(chosen)}' as their split",)
        rows = kept
    elif split is not None:
        raise DataError(f"{name}: has no parts, so no split '{clipped(split)}'; expected a column 'split'")
    data: Data
    if set(QUESTIONS) <= set(columns) or {"question", "context"} <= set(columns):
        if dataset is not None:
            raise UsageError(f"--dataset {dataset} is for classification; {name} holds questions about contexts")
        data = _questions(rows, columns, name, version)
    else:
        data = _texts(rows, columns, name, dataset, names, config_name, saved)
    return replace(data, split=chosen, notes=(*notes, *data.notes))


def task_of(dataset: str) -> GlueTask:
    """Returns the task called `dataset`; `OWN` for "own".

    Raises:
        UsageError: there is none.
    """
    task = OWN if dataset.lower() == OWN_NAME else glue_task(dataset)
    if task is None:
        raise UsageError(f"--dataset {dataset}: expected one of {', '.join(GLUE_TASKS)}, {OWN_NAME}")
    return task


def _class_name(value: Any, names: Sequence[str] | None) -> Any:
    """Returns the name of a class's number."""
    if not names or not isinstance(value, int) or isinstance(value, bool):
        return value
    return names[value] if 0 <= value < len(names) else None if value == -1 else value


# --- questions ----------------------------------------------------------------------------------------------------------


def _questions(rows: Sequence[Row], columns: Mapping[str, str], name: str, version: str) -> QuestionData:
    if "answers" not in columns:
        raise DataError(f"{name}: has questions and contexts, but no 'answers': a test set? None can be judged")
    question, context, answers = (columns[column] for column in QUESTIONS)
    impossible, identifier = columns.get("is_impossible"), columns.get("id")
    second, first = version.lstrip("vV").startswith("2"), version.lstrip("vV").startswith("1")
    marked = second or impossible is not None
    finder, examples, left_out = AnswerFinder(), [], 0
    for number, row in enumerate(rows):
        where = f"{name}: example {number}"
        texts = read_answers(_parsed(row.get(answers)), where)
        if impossible is not None and is_impossible(row.get(impossible), where):
            texts = []  # any answers there are "plausible answers", which are wrong
        if texts is None:
            left_out += 1
            continue
        question_text, context_text = (_text(row, column, where) for column in (question, context))
        spans = finder.spans(context_text, texts)
        key = row.get(identifier) if identifier is not None else None
        if not isinstance(key, str | int | None) or isinstance(key, bool):
            raise DataError(f"{where}: id: expected a string or a whole number; found {shown(key)}")
        examples.append(
            Question(
                str(number if key is None else key),
                question_text,
                context_text,
                tuple(text for text, _ in texts),
                spans,
            )
        )
    without = sum(not question.answers for question in examples)
    if not examples:
        raise DataError(f"{name}: no question in it has answers (a test set?)")
    if without and (first or (without == len(examples) and not marked)):
        raise DataError(
            f"{name}: {without} of {len(examples)} questions have no answer, and neither 'version' nor 'is_impossible' says "
            "that this is SQuAD 2.0"
        )
    unique([question.id for question in examples], name)
    notes = finder.notes()
    if left_out:
        notes = (*notes, f"{left_out:,} of {len(rows):,} questions left out: nothing says what their answers are")
    if without and not marked:
        notes = (*notes, f"{without:,} of {len(examples):,} questions have no answer; judged as SQuAD 2.0")
    return QuestionData(name, "squad_v2" if marked or without else "squad", tuple(examples), notes=notes)


def _parsed(value: Any) -> Any:
    """Parses a cell of CSV, which holds lists as JSON."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return decode_json(value, object)
    except ReadingError:
        return value


def _text(row: Row, column: str, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise DataError(f"{where}: {column}: expected a text; found {shown(value)}")
    return value


# --- texts --------------------------------------------------------------------------------------------------------------


def _texts(
    rows: Sequence[Row],
    columns: Mapping[str, str],
    name: str,
    dataset: str | None,
    class_names: Mapping[str, Sequence[str]],
    config_name: str | None,
    saved: bool,
) -> TextData:
    declared = task_of(dataset) if dataset is not None else glue_task(config_name or "")
    plain = list(columns)
    texts = (
        declared.hub if declared is not None and set(declared.hub or ("",)) <= set(plain) else text_columns(plain, name)
    )
    label = columns["label" if declared is not None and "label" in columns else label_column(plain, name)]
    if declared is not None and declared is not OWN and declared.hub != texts and len(declared.hub) != len(texts):
        raise DataError(
            f"{name}: no column {', '.join(declared.hub)}, which {declared.name} has; found {clipped(', '.join(plain))}"
        )
    names = class_names.get(label)
    words: list[str | None] = [
        label_word(_class_name(row.get(label), names), f"{name}: example {number}") for number, row in enumerate(rows)
    ]
    if names is None:
        words = without_missing(words)
    distinct = tuple(dict.fromkeys(word for word in words if word is not None))
    if not distinct:
        raise DataError(f"{name}: no row has a label (test sets often have none; use the validation set)")
    task = declared or _recognised(distinct if names is None else tuple(names), texts, name, saved=saved)
    examples, without_text = [], 0
    for number, (row, word) in enumerate(zip(rows, words, strict=True)):
        if word is None:
            continue
        where = f"{name}: example {number}"
        if any(row.get(columns[column]) is None for column in texts):
            without_text += 1
            continue
        chosen = [_text(row, columns[column], where) for column in texts]
        value = word if task is OWN else label_of(task, word, where)
        examples.append(Text(str(number), chosen[0], chosen[1] if len(chosen) == 2 else None, value))
    if not examples:
        raise DataError(f"{name}: no row has both a text and a label")
    notes = unlabelled_note(words.count(None), len(rows))
    nothing = {str(row.get(label)).strip() for row, word in zip(rows, words, strict=True) if word is None} - {
        "None",
        "",
    }
    numbered = names is not None and are_class_numbers(names) and any(int(w) != index for index, w in enumerate(names))
    if without_text:
        notes = (*notes, f"{without_text:,} of {len(rows):,} rows left out: they have no text")
    if task.labels and declared is None and are_numbers(distinct):
        notes = (*notes, number_note(task))
    return TextData(
        name,
        task,
        tuple(examples),
        notes=notes,
        words=distinct if task is OWN else (),
        declared=dataset is not None,
        unlabelled=() if names is not None else tuple(sorted(nothing)),
        renumbered=tuple(names) if names is not None and numbered else (),
    )


def number_note(task: GlueTask) -> str:
    """Returns a note on how numbers are read as labels."""
    meant = ", ".join(f"{number} = {label}" for number, label in enumerate(task.labels))
    return f"labels are read as {task.name}'s: {meant}"


def label_of(task: GlueTask, word: str, where: str) -> int | float:
    """Reads a word as a label of a GLUE task: its name, its index, or the number of a regression.

    Raises:
        DataError: it is none of them.
    """
    if not task.labels:
        if not are_numbers([word]):
            raise DataError(f"{where}: the score '{clipped(word)}' is no number")
        return float(word)
    plain = [normalized_name(label) for label in task.labels]
    if normalized_name(word) in plain:
        return plain.index(normalized_name(word))
    if are_class_numbers([word]) and int(word) < len(plain):
        return int(word)
    raise DataError(
        f"{where}: the label '{clipped(word)}' is none of {task.name}'s: {', '.join(task.labels)} (labels that are the "
        f"model's own classes: --dataset {OWN_NAME})"
    )


def _recognised(words: Sequence[str], texts: tuple[str, ...], name: str, *, saved: bool) -> GlueTask:
    """Returns the GLUE task that has these text columns and labels, or `OWN`."""
    if texts == ("sentence",) and not saved:  # a heading that anybody writes
        return OWN
    fitting = [task for task in GLUE_TASKS.values() if task.hub == texts]
    if not are_numbers(words):
        named = {normalized_name(word) for word in words}
        return next((task for task in fitting if named <= set(map(normalized_name, task.labels))), OWN)
    fitting = [
        task for task in fitting if are_class_numbers(words) and max(int(word) for word in words) < len(task.labels)
    ]
    if not fitting:
        return OWN
    if len(fitting) > 1:
        choices = ", ".join(task.name for task in fitting)
        raise DataError(
            f"{name}: the columns {', '.join(texts)} with numbers as labels fit several tasks; say which with --dataset: "
            f"{choices}, or {OWN_NAME}, where they are the model's own numbers"
        )
    if max(int(word) for word in words) + 1 < len(fitting[0].labels):
        raise DataError(
            f"{name}: the columns {', '.join(texts)} are {fitting[0].name}'s, but the labels only "
            f"{', '.join(sorted(words))}; say with --dataset whether they are {fitting[0].name}'s or the model's own "
            f"({OWN_NAME})"
        )
    return fitting[0]
