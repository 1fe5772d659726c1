"""Tables and lines of an export, and of its parity check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from prune_export.facts.plan import ranges
from prune_export.facts.summary import Summary
from prune_export.parity.verdict import ParityReport

if TYPE_CHECKING:
    from prune_export.exporting.checkpoint_export import ExportResult


def summary_table(summary: Summary) -> Table:
    """Returns a table of the heads and columns that each layer keeps, and of the widths of a sliced residual stream."""
    table = Table(box=box.SIMPLE_HEAD, title="What stays", title_justify="left", title_style="bold")
    widths = ("widths",) if summary.is_sliced else ()
    for heading in ("layer", "heads", "which", "head size", "columns", *widths):
        table.add_column(heading, justify="left" if heading == "which" else "right")
    for index, layer in enumerate(summary.layers):
        before, after = layer.before, layer.after
        if not after.heads:
            size = "–"
        elif after.query_key_size == after.value_size:
            size = str(after.value_size)
        else:
            size = f"{after.query_key_size} / {after.value_size}"
        everything = after.heads == before.heads
        which = "all" if everything else ranges(layer.kept_heads) or "none: the block is a constant"
        table.add_row(
            str(index),
            f"{after.heads} of {before.heads}",
            which,
            size,
            f"{after.columns} of {before.columns}",
            *([" → ".join(map(str, summary.widths[2 * index : 2 * index + 3]))] if widths else []),
        )
    return table


def totals_table(summary: Summary) -> Table:
    """Returns a table of parameters, FLOPs per token and size, before and after."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "before", "after", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    if (layers := len(summary.layers)) != summary.layers_before:
        table.add_row("layers", str(summary.layers_before), str(layers), f"{summary.layers_before / layers:.2f}×")
    rows = [("parameters", summary.parameters_before, summary.parameters_after, 1e6, "M")]
    rows += [
        (f"FLOPs per token, length {length}", before, summary.flops_after[length], 1e6, "M")
        for length, before in summary.flops_before.items()
    ]
    if summary.bytes_after is not None:
        rows.append(("weights on disk", summary.bytes_before, summary.bytes_after, 2**20, "MiB"))
    for name, before, after, unit, symbol in rows:
        ratio = f"{before / after:.2f}×" if after else "–"
        table.add_row(name, f"{before / unit:,.1f} {symbol}", f"{after / unit:,.1f} {symbol}", ratio)
    return table


def parity_table(report: ParityReport) -> Table:
    """Returns a table of the largest errors per comparison and output, absolute and relative to the limit."""
    first = report.comparisons()[0]
    cases = sum(result.comparison == first for result in report.results)
    title = f"Parity with {report.reference}, {report.provider}, {cases} cases"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        collapse_padding=True,
    )
    with_answers = any(report.agreement(comparison) for comparison in report.comparisons())
    for heading in ("model", "output", "max |Δ|", "relative", "of limit"):
        table.add_column(heading, justify="left" if heading in ("model", "output") else "right", no_wrap=True)
    if with_answers:
        table.add_column("answers", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for comparison in report.comparisons():
        results = [result for result in report.results if result.comparison == comparison]
        agreement = report.agreement(comparison)
        answers = f"{agreement.same} of {agreement.questions}" if agreement else ""
        mark = Text("passed", "green") if all(result.passed for result in results) else Text("failed", "red")
        for output, (absolute, relative) in report.worst(comparison).items():
            errors = [error for result in results for error in result.outputs if error.name == output]
            used = np.max([error.max_absolute / error.allowed for error in errors])  # NaN is the largest
            cells = [comparison, output, f"{absolute:.2g}", f"{relative:.2g}", f"{100 * used:.0f} %"]
            table.add_row(*cells, *([answers] if with_answers else []), mark)
            comparison, answers, mark = "", "", Text()
    if counts := {name: count for name in report.comparisons() if (count := report.by_rounding(name))}:
        shown = ", ".join(f"{name} in {count}" for name, count in counts.items())
        table.caption = (
            f"Above the limit of {report.tolerance.limit:g}, by what roundings alone do to the original: {shown}"
        )
        table.caption_justify = "left"
    return table


def export_lines(result: ExportResult) -> list[str]:
    """Returns the notes for the user, and the line that names the written files."""
    lines = [f"Note: {note}." for note in result.notes]
    if result.parity is None:
        lines.append("Parity was not checked (--no-verify); the record says so.")
    lines.append(f"Written to {result.folder.absolute()}: {', '.join(result.files)}")
    return lines
