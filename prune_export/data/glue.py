"""GLUE's TSV files as the official download has them: no quoting, one example per line."""

from __future__ import annotations

from collections.abc import Sequence

from exporters.errors import DataError, UsageError
from prune_export.data.examples import Text, TextData
from prune_export.data.glue_tasks import GLUE_TASKS, GlueTask, glue_task, normalized_name
from prune_export.data.labels import are_class_numbers, are_numbers, label_word, unlabelled_note
from prune_export.data.rows import label_of, number_note
from prune_export.data.table import read_cells
from prune_export.files.reading import clipped

_TWO_ORDERS = ("rte", "wnli")  # one set of headings, and two orders of the same labels


def is_glue(text: str, name: str) -> bool:
    """Says whether a TSV has a GLUE task's form and that task's labels, and does not name the split of each row."""
    lines = read_cells(text, "\t", name)
    header = lines[0][1]
    task = _fitting(header)
    if task is None or "split" in (heading.strip().lower() for heading in header):
        return False
    if not task.header or not task.labels:
        return True
    label_column = header.index(task.label)
    words = {label_word(cells[label_column], name) for _, cells in lines[1:] if label_column < len(cells)}
    known = set(map(normalized_name, task.labels))
    return are_numbers(word for word in words if word is not None and normalized_name(word) not in known)


def glue_texts(text: str, name: str, *, dataset: str | None = None) -> TextData:
    """Reads the examples of a TSV file of the task `dataset` ("sst2", "MNLI", …), or of the task that its headings tell.

    Raises:
        DataError: the headings are of no GLUE task or not of `dataset`, a line lacks columns, a label is unknown, the labels
            may be those of two tasks, or there is nothing (a test set has no labels).
        UsageError: `dataset` names no GLUE task.
    """
    lines = read_cells(text, "\t", name)
    task = named_task(dataset) if dataset is not None else _recognised(lines[0][1], name)
    columns = _places(task, lines[0][1], name)
    examples: list[Text] = []
    words: set[str] = set()
    rows = lines[1:] if task.header else lines
    left_out = short = 0
    for number, cells in rows:
        if max(columns) >= len(cells):
            if task.skip_short:
                short += 1
                continue
            raise DataError(f"{name}: line {number} has {len(cells)} columns; {task.name} needs {max(columns) + 1}")
        chosen = [cells[column] for column in columns]
        where = f"{name}: line {number}"
        word = label_word(chosen[0], where) if chosen[0].strip().lower() != "nan" else "nan"
        if word is None or (task.labels and word == "-1"):
            left_out += 1
            continue
        words.add(word)
        examples.append(Text(str(number), chosen[1], chosen[2] if task.pair else None, label_of(task, word, where)))
    if not examples and left_out:
        raise DataError(f"{name}: no row has a label (GLUE's test sets have none; use the dev set)")
    if not examples:
        raise DataError(f"{name}: no example in it")
    notes = unlabelled_note(left_out, len(rows))
    if short:
        notes = (*notes, f"{short:,} of {len(rows):,} rows left out: they lack columns, as in the official reader")
    if dataset is None and task.labels and are_class_numbers(words):
        if task.name in _TWO_ORDERS:
            raise DataError(
                f"{name}: numbers as labels under headings that {' and '.join(_TWO_ORDERS)} share, where 1 is "
                f"{' and '.join(GLUE_TASKS[task_name].labels[1] for task_name in _TWO_ORDERS)}; say which with --dataset"
            )
        notes = (*notes, number_note(task))
    return TextData(name, task, tuple(examples), notes=notes)


def named_task(dataset: str) -> GlueTask:
    """Returns the task called `dataset`.

    Raises:
        UsageError: there is none.
    """
    task = glue_task(dataset)
    if task is None:
        raise UsageError(f"--dataset {dataset}: expected one of {', '.join(GLUE_TASKS)}")
    return task


def _columns(task: GlueTask) -> tuple[str, ...]:
    return (task.label, task.text, *((task.pair,) if task.pair else ()))


def _fitting(header: Sequence[str]) -> GlueTask | None:
    """Returns the task that has these headings."""
    fitting = [task for task in GLUE_TASKS.values() if task.header and set(_columns(task)) <= set(header)]
    if fitting:  # QNLI's headings include SST-2's
        return max(fitting, key=lambda task: len(_columns(task)))
    return GLUE_TASKS["cola"] if len(header) == 4 and header[1] in ("0", "1") else None


def _recognised(header: Sequence[str], name: str) -> GlueTask:
    if (task := _fitting(header)) is not None:
        return task
    if "index" in header or "sentence" in header or "sentence1" in header:
        raise DataError(
            f"{name}: has the columns {clipped(', '.join(header))}, and no labels; GLUE's test sets have none, "
            "use the dev set"
        )
    raise DataError(f"{name}: its first line is not the heading of a GLUE task: {clipped(' | '.join(header), 120)}")


def _places(task: GlueTask, header: Sequence[str], name: str) -> tuple[int, ...]:
    if not task.header:
        return tuple(int(column) for column in _columns(task))
    missing = [column for column in _columns(task) if column not in header]
    if missing:
        raise DataError(
            f"{name}: no column {', '.join(map(repr, missing))}, which {task.name} has; found "
            f"{clipped(', '.join(header), 200)}"
        )
    return tuple(header.index(column) for column in _columns(task))
