"""Prints progress on stderr and the verbs' results on stdout, as tables or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.utils.tqdm import disable_progress_bars
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from prune_export.cli.command import Printing
from prune_export.cli.printing import say
from prune_export.cli.tables.export import export_lines, parity_table, summary_table, totals_table
from prune_export.facts.plan import plan_to_json
from prune_export.network.kind import network_kind
from prune_export.progress import SILENT, Progress

if TYPE_CHECKING:
    from prune_export.benchmark.results import BenchReport
    from prune_export.checkpoint.inspection import Inspection
    from prune_export.evaluation.result import Evaluation
    from prune_export.exporting.checkpoint_export import ExportResult
    from prune_export.facts.summary import Summary
    from prune_export.parity.verdict import ParityReport
    from prune_export.pruning.latency import LatencyTable
    from prune_export.pruning.one_shot import PruneResult
    from prune_export.training.dry_run import DryRun
    from prune_export.training.run import TrainResult
    from prune_export.verbs.search import SearchResult

_BYTES_FROM = 1 << 20  # totals above this count bytes, which nobody wants to read one by one


class _Console(Console):
    """Prints strings as they are: brackets and colons in the names of files and labels are neither styles nor emoji."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Leaves the error as it is: rich would end the process."""
        raise


class _Listener:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._current: TaskID | None = None

    def stage(self, description: str, total: int | None = None) -> None:
        self.close()
        self._bars.start()
        self._current = self._bars.add_task(description, total=total)

    def advance(self, steps: int = 1) -> None:
        if self._current is not None:
            self._bars.advance(self._current, steps)

    def note(self, text: str) -> None:
        if self._current is not None:
            self._bars.console.print(text, highlight=False)

    def pause(self) -> None:
        self.close()
        self._bars.stop()

    def close(self) -> None:
        """Ends the stage, with a full bar."""
        if self._current is not None:
            task = self._bars.tasks[self._bars.task_ids.index(self._current)]
            self._bars.update(self._current, total=task.total or 1, completed=task.total or 1)
            self._current = None


class _TimeLeft(TimeRemainingColumn):
    """The remaining time, where the number of steps is known and some are done."""

    def render(self, task: Any) -> Any:
        known = task.total is not None and task.total > 1 and task.time_remaining and not task.finished
        return Text("left ") + super().render(task) if known else Text("")


class _Count(MofNCompleteColumn):
    """The steps done and the steps in all, unless they are bytes."""

    def render(self, task: Any) -> Any:
        known = task.total is not None and 1 < task.total < _BYTES_FROM
        return super().render(task) if known else ""


@contextmanager
def progress(*, quiet: bool) -> Iterator[Progress]:
    """Shows bars on stderr while the block runs; plain lines where stderr is no terminal."""
    console = _Console(stderr=True)
    if quiet:
        disable_progress_bars()
    if quiet or logging.getLogger("prune_export").isEnabledFor(logging.INFO):  # --verbose: stages are lines of the log
        yield SILENT
        return
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        _Count(),
        TimeElapsedColumn(),
        _TimeLeft(),
    )
    bars = Bars(*columns, console=console)
    listener = _Listener(bars)
    try:
        yield listener
        listener.close()
    finally:
        bars.stop()


class _Lines:
    """Prints one line per stage, for logs; a log that is closed or full stops no work."""

    def stage(self, description: str, total: int | None = None) -> None:  # noqa: ARG002
        say(f"{description} …")

    def advance(self, steps: int = 1) -> None: ...

    def note(self, text: str) -> None:
        say(f"  {text}")

    def pause(self) -> None: ...


def _print_json(data: Any) -> None:
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower()
    print(json.dumps(data, ensure_ascii=not encoding.startswith("utf")))


def print_inspection(inspection: Inspection, printing: Printing) -> None:
    """Prints the layers and totals of a checkpoint."""
    checkpoint = inspection.checkpoint
    if printing.json:
        _print_json(
            {
                "source": checkpoint.source_to_json(),
                "notes": list(checkpoint.notes),
                "task": inspection.slim.task,
                "plan": plan_to_json(inspection.plan),
                "summary": inspection.summary.to_json(),
            }
        )
    elif not printing.quiet:
        console = _Console()
        kind = network_kind("slim" if checkpoint.form == "slim" else "pytorch", checkpoint.form)
        console.print(f"{checkpoint.source.name}: {kind}, {inspection.slim.task}", highlight=False, soft_wrap=True)
        console.print(summary_table(inspection.summary))
        console.print(totals_table(inspection.summary))
        for note in checkpoint.notes:
            console.print(f"Note: {note}.", highlight=False, soft_wrap=True)
        if inspection.summary.is_dense:
            console.print(f"Nothing is pruned in '{checkpoint.source.name}'.", highlight=False)


def print_export(result: ExportResult, printing: Printing) -> None:
    """Prints a finished export."""
    if printing.json:
        _print_json(
            {**result.record, "folder": str(result.folder), "path": str(result.model), "notes": list(result.notes)}
        )
    elif not printing.quiet:
        console = _Console()
        console.print(summary_table(result.summary))
        console.print(totals_table(result.summary))
        if result.parity is not None:
            _print_parity(console, result.parity)
        for line in export_lines(result):
            console.print(line, highlight=False, soft_wrap=True)


def print_parity(report: ParityReport, printing: Printing) -> None:
    """Prints a parity report."""
    if printing.json:
        _print_json(report.to_json() | {"failures": report.problems()})
    elif not printing.quiet:
        _print_parity(_Console(), report)


def _print_parity(console: Console, report: ParityReport) -> None:
    console.print(parity_table(report))
    if report.quality is not None:
        console.print(report.quality.explain(), highlight=False, soft_wrap=True)


def print_evaluation(
    evaluation: Evaluation, written: Sequence[Path], failures: Sequence[str], printing: Printing
) -> None:
    """Prints the metrics of all models side by side."""
    if printing.json:
        files = {"predictions": [str(path) for path in written]}
        _print_json(evaluation.to_json() | files | {"failures": list(failures)})
    elif not printing.quiet:
        console = _Console()
        _print_evaluation(console, evaluation)
        if written:
            console.print(f"Written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)


def _print_evaluation(console: Console, evaluation: Evaluation) -> None:
    from prune_export.cli.tables.evaluation import evaluation_notes, evaluation_table, evaluation_title

    console.print(evaluation_title(evaluation), style="bold", highlight=False, soft_wrap=True)
    console.print(evaluation_table(evaluation))
    for line in evaluation_notes(evaluation):
        console.print(line, highlight=False, soft_wrap=True)


def print_bench(report: BenchReport, written: Sequence[Path], notes: Sequence[str], printing: Printing) -> None:
    """Prints the report of a benchmark."""
    from prune_export.cli.tables.bench import bench_lines, rows_table, shape_table

    if printing.json:
        _print_json(report.to_json() | {"written": [str(path) for path in written], "notes": list(notes)})
    elif not printing.quiet:
        console = _Console()
        for result in report.shapes:
            console.print(shape_table(result))
        console.print(rows_table(report))
        for line in (*bench_lines(report), *(f"Note: {note}." for note in notes)):
            console.print(line, highlight=False, soft_wrap=True)
        if written:
            console.print(f"Written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)


def print_pruned(results: Sequence[PruneResult], printing: Printing) -> None:
    """Prints the results of pruning, one per budget."""
    if printing.json:
        _print_json(
            {
                "results": [
                    {"folder": str(result.folder), "plan": plan_to_json(result.plan), **result.record}
                    for result in results
                ]
            }
        )
    elif not printing.quiet:
        from prune_export.cli.tables.pruning import budget_lines

        console = _Console()
        for result in results:
            console.print(summary_table(result.summary))
            console.print(totals_table(result.summary))
            for line in budget_lines(result):
                console.print(line, highlight=False, soft_wrap=True)


def print_searched(result: SearchResult, printing: Printing) -> None:
    """Prints the front of a search."""
    if printing.json:
        import msgspec

        front = result.front
        _print_json(
            {
                "folder": str(result.folder),
                "checkpoint": None if result.checkpoint is None else str(result.checkpoint),
                "chosen": None if result.chosen is None else result.chosen.name,
                "evaluations": front.evaluations,
                "unpruned": msgspec.to_builtins(front.unpruned),
                "points": msgspec.to_builtins(front.points),
                **result.record,
            }
        )
    elif not printing.quiet:
        from prune_export.cli.tables.search import front_table, search_lines

        console = _Console()
        console.print(front_table(result.front))
        for line in search_lines(result):
            console.print(line, highlight=False, soft_wrap=True)


def print_trained(result: TrainResult, printing: Printing) -> None:
    """Prints the results of a training."""
    if printing.json:
        _print_json(
            {"folder": str(result.folder), "final": str(result.final), "published": list(map(str, result.published))}
            | {"evaluation": None if result.evaluation is None else result.evaluation.to_json()}
            | {"summary": result.summary.to_json(), **result.record}
            | {"summaries": [summary.to_json() for summary in result.summaries]}
        )
    elif not printing.quiet:
        console = _Console()
        for name, summary in _named_summaries(result):
            if len(result.summaries) > 1:
                console.print(name, style="bold", highlight=False)
            console.print(summary_table(summary))
            console.print(totals_table(summary))
        if result.evaluation is not None:
            _print_evaluation(console, result.evaluation)
        for note in result.record.get("data", {}).get("notes", ()):
            console.print(f"Note: {note}.", highlight=False, soft_wrap=True)
        for warning in result.warnings:
            console.print(f"Warning: {warning}", style="yellow", highlight=False, soft_wrap=True)
        for folder in (*result.published, result.final):
            console.print(f"Written to {folder}", highlight=False, soft_wrap=True)
    if printing.json or printing.quiet:
        for warning in result.warnings:
            say(f"prune-export: warning: {warning}")


def _named_summaries(result: TrainResult) -> list[tuple[str, Summary]]:
    """Returns the summary of each budget, or that of the only result, with its name."""
    if not result.summaries:
        return [(result.final.name, result.summary)]
    return [(path.name, summary) for path, summary in zip(result.published, result.summaries, strict=True)]


def print_dry_run(planned: DryRun, printing: Printing) -> None:
    """Prints the plan of a training."""
    if printing.json:
        _print_json(planned.to_json())
    elif not printing.quiet:
        from prune_export.cli.tables.training import dry_run_lines, stages_table

        console = _Console()
        console.print(stages_table(planned))
        for line in dry_run_lines(planned):
            console.print(line, highlight=False, soft_wrap=True)


def print_profile(table: LatencyTable, printing: Printing) -> None:
    """Prints a latency table."""
    if printing.json:
        _print_json(table.to_json())
    elif not printing.quiet:
        from prune_export.cli.tables.pruning import latency_tables

        console = _Console()
        for blocks_table in latency_tables(table):
            console.print(blocks_table)
        console.print(f"The rest of the network: {table.rest:.3f} ms", highlight=False)
