"""Tables and lines of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from prune_export.data.glue_tasks import OWN, OWN_NUMBERS
from prune_export.evaluation.prediction_files import short_names
from prune_export.evaluation.result import Evaluation, is_count
from prune_export.network.kind import network_kind
from prune_export.tasks import SPECS

_TITLES = {"squad": "SQuAD 1.1", "squad_v2": "SQuAD 2.0", "mrqa": "MRQA"}
_TITLES |= {name: name for name in (OWN.name, OWN_NUMBERS.name)}


def evaluation_table(evaluation: Evaluation) -> Table:
    """Returns a table with one column per model and one row per metric; the best of each row is bold."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in short_names([result.model for result in evaluation.results]):
        table.add_column(name, justify="right", overflow="fold")
    table.add_row("", *(network_kind(result.kind, result.form) for result in evaluation.results), style="dim")
    for key in evaluation.results[0].metrics:
        values = [result.metrics[key] for result in evaluation.results]
        table.add_row(key, *(_cell(key, value, values) for value in values))
    for dataset in evaluation.results[0].datasets if len(evaluation.results[0].datasets) > 1 else ():
        values = [result.datasets[dataset]["f1"] for result in evaluation.results]
        table.add_row(f"{dataset}: f1", *(_cell("f1", value, values) for value in values))
    table.add_row("seconds", *(f"{result.seconds:.1f}" for result in evaluation.results), style="dim")
    return table


def evaluation_title(evaluation: Evaluation) -> str:
    """Returns the data, its split, the metric and the number of examples in one line, for which the table is too narrow."""
    metric = _TITLES.get(evaluation.metric, f"GLUE {evaluation.metric}")
    examples = "questions" if SPECS[evaluation.task].takes_questions else "texts"
    split = f", split {evaluation.split}" if evaluation.split is not None else ""
    if evaluation.examples < evaluation.total:
        examples = f"of {evaluation.total:,} {examples}, drawn by seed {evaluation.seed}"
    return f"{evaluation.data}{split}: {metric}, {evaluation.examples:,} {examples}"


def evaluation_notes(evaluation: Evaluation) -> Iterator[str]:
    """Yields one line per note on the data and on the models."""
    for note in evaluation.notes:
        yield f"Note: {note}."
    for result in evaluation.results:
        for note in result.notes:
            yield f"Note: {result.model}: {note}."


def _cell(key: str, value: float, row: list[float]) -> str | Text:
    if is_count(key):
        return f"{value:,.2f}" if key.endswith("thresh") else f"{value:,.0f}"
    best = len(set(row)) > 1 and value == max(row)
    return Text(f"{value:.2f}", "bold" if best else "")
