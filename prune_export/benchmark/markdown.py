"""A benchmark as Markdown tables."""

from __future__ import annotations

from statistics import median

from prune_export.benchmark.results import BenchReport, Latency, RowFacts, ShapeResult
from prune_export.network.kind import network_kind


def markdown(report: BenchReport) -> str:
    """Returns the conditions, a table per shape, and a table of what holds for each row at any shape."""
    parts = [conditions_line(report)]
    parts += [shape_table(result) for result in report.shapes]
    parts.append(rows_table(report.rows))
    parts += [f"{row.name}: {row.note}." for row in report.rows if row.note]
    parts += [f"Warning: {warning}." for warning in report.warnings]
    return "\n\n".join(parts) + "\n"


def conditions_line(report: BenchReport) -> str:
    """Returns the conditions of the measurements, in a sentence."""
    machine, conditions = report.machine, report.conditions
    threads = f"{conditions.threads} thread{'s' if conditions.threads > 1 else ''}"
    pinned = f" on processors {', '.join(map(str, conditions.cpus))}" if conditions.cpus else ""
    extras = [f"PyTorch rows in {conditions.dtype}"] if conditions.dtype != "fp32" else []
    extras += ["CUDA graphs"] if conditions.cuda_graphs else []
    padding = f"{100 * conditions.padding:.0f} % padding" if conditions.padding else "no padding"
    rounds = f"{report.rounds} alternating rounds" if report.rounds > 1 else "1 round"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {conditions.provider}, {threads}{pinned}, {padding}, "
        f"{''.join(extra + ', ' for extra in extras)}{rounds} of {report.seconds:g} s a row, "
        f"each row in a process of its own; {machine['date']}, Python {machine['python']}, {versions}."
    )


def shape_table(result: ShapeResult) -> str:
    """Returns the table of a shape: latency, throughput, speed-up, and its share of the speed-up by FLOPs."""
    shape = result.shape
    lines = [
        f"Batch {shape.batch_size}, length {shape.sequence_length} ({steadiness(result)})",
        "",
        "| | ms (range over rounds) | sequences/s | speed-up (range) | by FLOPs | realised |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_latency_line(latency, result.sequences_per_second(latency)) for latency in result.rows]
    return "\n".join(lines)


def steadiness(result: ShapeResult) -> str:
    """Says how far a shape's measurements can be trusted."""
    others = f", others {100 * result.others:.1f} %" if result.others is not None else ""
    return f"noise {100 * result.noise:.1f} %{others}"


def _latency_line(latency: Latency, throughput: float) -> str:
    times, ratios = latency.milliseconds, latency.speed_ups
    cells = [
        latency.row,
        f"{number(median(times))} ({number(min(times))} to {number(max(times))})",
        number(throughput),
        f"{latency.speed_up:.2f}" + (f" ({min(ratios):.2f} to {max(ratios):.2f})" if min(ratios) < max(ratios) else ""),
        f"{latency.flops_speed_up:.2f}" if latency.flops_speed_up else "–",
        f"{latency.realised:.2f}" if latency.realised else "–",
    ]
    return f"| {' | '.join(cells)} |"


def rows_table(rows: tuple[RowFacts, ...]) -> str:
    """Returns the table of what holds for each row at any shape."""
    lines = ["| | what ran | size on disk, MiB | load time, s | peak memory, MiB |", "|---|---|---|---|---|"]
    for row in rows:
        cells = f"{row.size_mib:,.1f} | {row.load_seconds:.2f} | {row.peak_mib:,.0f}"
        lines.append(f"| {row.name} | {network_kind(row.kind, row.form)} | {cells} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """Writes `value` with three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
