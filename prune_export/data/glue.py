"""GLUE's TSV files as the official download has them: no quoting, one example a line."""

from __future__ import annotations

import math

from exporters.errors import DataError, UsageError
from prune_export.data.examples import Text, TextData
from prune_export.data.glue_tasks import GLUE_TASKS, GlueTask, glue_task
from prune_export.files.reading import clipped


def glue_texts(text: str, name: str, *, dataset: str | None = None) -> TextData:
    """The examples of a TSV file; which task it is shows in its headings, unless `dataset` says so ("sst2", "MNLI", …).

    Raises:
        DataError: the headings are of no GLUE task or not of `dataset`, a line lacks columns, a label is unknown, or
            there is nothing (a test set has no labels).
        UsageError: `dataset` names no GLUE task.
    """
    # Not splitlines(): the texts hold characters that it takes for line breaks.
    lines = [line.rstrip("\r").split("\t") for line in text.split("\n")]
    task = named_task(dataset) if dataset is not None else _recognised(lines[0], name)
    places = _places(task, lines[0], name)
    examples: list[Text] = []
    for number, cells in enumerate(lines[1:] if task.header else lines, 2 if task.header else 1):
        if cells == [""]:
            continue
        if max(places) >= len(cells):
            if task.skip_short:
                continue
            raise DataError(f"{name}: line {number} has {len(cells)} columns; {task.name} needs {max(places) + 1}")
        chosen = [cells[place] for place in places]
        label = label_of(task, chosen[0], f"{name}: line {number}")
        examples.append(Text(str(number), chosen[1], chosen[2] if task.pair else None, label))
    if not examples:
        raise DataError(f"{name}: no example in it")
    return TextData(name, task, tuple(examples))


def named_task(dataset: str) -> GlueTask:
    """The task called `dataset`.

    Raises:
        UsageError: there is none.
    """
    task = glue_task(dataset)
    if task is None:
        raise UsageError(f"--dataset {dataset}: expected one of {', '.join(GLUE_TASKS)}")
    return task


def label_of(task: GlueTask, found: str | int | float, where: str) -> int | float:
    """A label as it stands in a file: its name, its index, or the number of a regression.

    Raises:
        DataError: it is none of them.
    """
    word = str(found).strip()
    if not task.labels:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{where}: the score '{clipped(word)}' is no number")
        return value
    if word in task.labels:
        return task.labels.index(word)
    if word.isdecimal() and len(word) < 10 and int(word) < len(task.labels):
        return int(word)
    unlabelled = " (GLUE's test sets have no labels; use the dev set)" if word in ("-1", "") else ""
    raise DataError(
        f"{where}: the label '{clipped(word)}' is none of {task.name}'s: {', '.join(task.labels)}{unlabelled}"
    )


def _columns(task: GlueTask) -> tuple[str, ...]:
    return (task.label, task.text, *((task.pair,) if task.pair else ()))


def _recognised(header: list[str], name: str) -> GlueTask:
    fitting = [task for task in GLUE_TASKS.values() if task.header and set(_columns(task)) <= set(header)]
    if fitting:  # QNLI's headings include SST-2's
        return max(fitting, key=lambda task: len(_columns(task)))
    if len(header) == 4 and header[1] in ("0", "1"):
        return GLUE_TASKS["cola"]
    if "index" in header or "sentence" in header or "sentence1" in header:
        raise DataError(
            f"{name}: has the columns {clipped(', '.join(header))}, and no labels; GLUE's test sets have none, "
            "use the dev set"
        )
    raise DataError(f"{name}: its first line is not the heading of a GLUE task: {clipped(' | '.join(header), 120)}")


def _places(task: GlueTask, header: list[str], name: str) -> tuple[int, ...]:
    if not task.header:
        return tuple(int(column) for column in _columns(task))
    missing = [column for column in _columns(task) if column not in header]
    if missing:
        raise DataError(
            f"{name}: no column {', '.join(map(repr, missing))}, which {task.name} has; found "
            f"{clipped(', '.join(header), 200)}"
        )
    return tuple(header.index(column) for column in _columns(task))
