"""A picture of a benchmark: speed-ups as bars, beside the ratio of FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from exporters.errors import MissingDependencyError, UsageError
from prune_export.benchmark.results import BenchReport, Latency

FORMATS = (".svg", ".png")
_BAR, _LIMIT, _TEXT = "#4878a8", "#c44e52", "#333333"


@dataclass(frozen=True, slots=True)
class SpeedUpBar:
    """One row: the speed-up, its range over rounds, and the speed-up by FLOPs."""

    label: str
    value: float
    low: float
    high: float
    by_flops: float | None


@dataclass(frozen=True, slots=True)
class Panel:
    """The bars of one network at one shape."""

    title: str
    bars: tuple[SpeedUpBar, ...]


def panels_of(report: BenchReport) -> list[Panel]:
    """Returns a panel per shape."""
    return [
        Panel(
            f"batch {result.shape.batch_size}, length {result.shape.sequence_length}", tuple(map(bar_of, result.rows))
        )
        for result in report.shapes
    ]


def bar_of(latency: Latency) -> SpeedUpBar:
    ratios = latency.speed_ups
    return SpeedUpBar(latency.row, latency.speed_up, min(ratios), max(ratios), latency.flops_speed_up)


def check_picture(path: Path) -> None:
    """Finds out before the work whether the picture can be drawn.

    Raises:
        UsageError: the name does not end in .svg or .png.
        MissingDependencyError: matplotlib is not installed.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"--picture {path}: expected a file name that ends in {' or '.join(FORMATS)}")
    if not can_draw():
        raise MissingDependencyError("pictures need matplotlib: pip install 'prune-export[bench]'")


def can_draw() -> bool:
    """Says whether matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw(panels: Sequence[Panel], file: Path | BinaryIO, form: str = "svg", *, baseline: str, columns: int = 2) -> None:
    """Draws the panels, `columns` beside each other, and writes them to `file` in the format `form`, "svg" or "png"."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    bars = max(len(panel.bars) for panel in panels)
    # A fixed salt and no date: the same measurements give the same file.
    with rc_context({"svg.hashsalt": "prune-export", "font.size": 9, "text.color": _TEXT, "axes.edgecolor": "#aaaaaa"}):
        size = (min(4.6, 11 / columns) * columns, (0.30 * bars + 0.75) * lines + 0.35)
        figure: Any = Figure(figsize=size, layout="constrained")
        figure.suptitle(f"Speed-up over {baseline} (lines: range over rounds; red: the ratio of FLOPs)", fontsize=10)
        axes = figure.subplots(lines, columns, squeeze=False, sharex="row")
        for index, axis in enumerate(axes.flat):
            if index < len(panels):
                _draw_panel(axis, panels[index], with_labels=index % columns == 0)
            else:
                axis.remove()
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(file, format=form, metadata=metadata, dpi=150)


def _draw_panel(axis: Any, panel: Panel, *, with_labels: bool) -> None:
    heights = range(len(panel.bars))
    values = [bar.value for bar in panel.bars]
    axis.barh(heights, values, color=_BAR, height=0.62)
    for height, bar in zip(heights, panel.bars, strict=True):
        axis.hlines(height, bar.low, bar.high, color="black", linewidth=0.9)
        right = bar.high
        if bar.by_flops is not None:
            axis.vlines(bar.by_flops, height - 0.38, height + 0.38, color=_LIMIT, linewidth=1.6)
            right = max(right, bar.by_flops)
        axis.annotate(f"{bar.value:.2f}", (right, height), xytext=(4, 0), textcoords="offset points", va="center")
    axis.set_yticks(heights, [bar.label for bar in panel.bars] if with_labels else [""] * len(panel.bars))
    axis.tick_params(left=False)
    axis.invert_yaxis()
    axis.margins(x=0.2)
    axis.set_xlim(left=0)
    axis.set_title(panel.title, fontsize=9)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
