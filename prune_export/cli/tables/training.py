"""Tables and lines of a training that was planned and not run."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from prune_export.progress import time_words
from prune_export.training.dry_run import DryRun


def stages_table(planned: DryRun) -> Table:
    """Returns a table of the steps of each stage, and of the time that they are estimated to take."""
    table = Table(box=box.SIMPLE_HEAD, title="What would be trained", title_justify="left", title_style="bold")
    for heading in ("stage", "steps", "about"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in planned.stages:
        table.add_row(stage.name, f"{stage.steps:,}", time_words(stage.seconds))
    return table


def dry_run_lines(planned: DryRun) -> Iterator[str]:
    """Yields the lines on task, time, disk space and output."""
    yield f"Task: {planned.task}, {planned.features:,} sequences to learn from"
    yield f"Time: about {time_words(planned.seconds)} of training here; scoring, pruning and evaluating come on top"
    yield f"Disk: {planned.space}"
    yield f"Output: {planned.folder} (nothing was written)"
