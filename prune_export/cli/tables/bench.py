"""A benchmark's tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from rich import box
from rich.table import Table

from prune_export.benchmark.markdown import conditions_line, number, steadiness
from prune_export.benchmark.results import BenchReport, ShapeResult
from prune_export.network.kind import network_kind


def shape_table(result: ShapeResult) -> Table:
    """Returns the table of a shape: latency, throughput, speed-up, and its share of the speed-up by FLOPs."""
    title = f"Batch {result.shape.batch_size}, length {result.shape.sequence_length} ({steadiness(result)})"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in ("", "ms", "range", "seq/s", "speed-up", "range", "by FLOPs", "realised"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for latency in result.rows:
        times, ratios = latency.milliseconds, latency.speed_ups
        table.add_row(
            latency.row,
            number(median(times)),
            f"{number(min(times))}–{number(max(times))}",
            number(result.sequences_per_second(latency)),
            f"{latency.speed_up:.2f}×",
            f"{min(ratios):.2f}–{max(ratios):.2f}",
            f"{latency.flops_speed_up:.2f}×" if latency.flops_speed_up else "–",
            f"{latency.realised:.2f}" if latency.realised else "–",
        )
    return table


def rows_table(report: BenchReport) -> Table:
    """Returns the table of what holds for each row at any shape."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("", "what ran", "on disk", "loads in", "peak memory"):
        table.add_column(heading, justify="left" if heading in ("", "what ran") else "right", no_wrap=True)
    for row in report.rows:
        cells = (
            network_kind(row.kind, row.form),
            f"{row.size_mib:,.1f} MiB",
            f"{row.load_seconds:.2f} s",
            f"{row.peak_mib:,.0f} MiB",
        )
        table.add_row(row.name, *cells)
    return table


def bench_lines(report: BenchReport) -> Iterator[str]:
    """Yields the conditions, notes on rows, and warnings."""
    yield conditions_line(report)
    for row in report.rows:
        if row.note:
            yield f"Note: {row.name}: {row.note}."
    for warning in report.warnings:
        yield f"Warning: {warning}."
