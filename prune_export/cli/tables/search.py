"""The table and the lines of a search."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from prune_export.subarchitecture.front_point import FrontPoint, SearchFront, loss_of
from prune_export.verbs.search import SearchResult


def front_table(front: SearchFront) -> Table:
    """Returns the table of the measured front, by latency, with the unpruned network last."""
    has_metric = front.unpruned.metric is not None
    best = max((point.w for point in front.points), default=0.0)
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=f"Front of {front.evaluations:,} candidates\n×: speed-up, div.: divergence, *: best W, in brackets: dominated",
        title_justify="left",
    )
    metric = ("metric", "lost") if has_metric else ()
    is_uniform = any(point.shape is not None for point in front.points)
    sizes = ("layers", "heads", "hidden", "cols") if is_uniform else ("heads", "cols", "widths")
    for heading in ("", "ms", "×", "MiB", *metric, "div.", "W", *sizes):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for point in front.points:
        costs = point.measured
        lost = (f"{costs.metric:.2f}", f"{loss_of(costs, front.unpruned):.2f}") if has_metric else ()
        table.add_row(
            f"({point.name})" if point.is_dominated else point.name,
            f"{costs.latency_ms:.2f}",
            f"{front.unpruned.latency_ms / costs.latency_ms:.2f}",
            f"{costs.mib:.1f}",
            *lost,
            f"{costs.divergence:.4f}",
            f"{point.w:.2f}" + ("*" if point.w == best else ""),
            *_sizes(point),
        )
    costs = front.unpruned
    table.add_row(
        "unpruned",
        *(f"{costs.latency_ms:.2f}", "1.00", f"{costs.mib:.1f}"),
        *((f"{costs.metric:.2f}", "") if has_metric else ()),
    )
    return table


def _sizes(point: FrontPoint) -> tuple[str, ...]:
    """Returns the numbers of heads and of columns that stay, and the widths of the residual stream where it is narrower.

    For a plain network these are its layers, heads, hidden size and columns.
    """
    if (shape := point.shape) is not None:
        return tuple(f"{size:,}" for size in (shape.depth, shape.heads, shape.hidden, shape.intermediate))
    heads, columns = (sum(map(len, units)) for units in zip(*point.units, strict=True))
    return f"{heads:,}", f"{columns:,}", f"{min(point.widths)}–{max(point.widths)}" if point.widths else ""


def search_lines(result: SearchResult) -> Iterator[str]:
    """Yields where the files are, and which point was written."""
    if result.chosen is not None:
        yield f"Point {result.chosen.name} written to {result.checkpoint}"
    yield f"Front written to {result.folder}"
