"""A picture of a search's front: what is lost against latency, with the size of the file as the size of a mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune_export.subarchitecture.front_point import SearchFront, loss_of

_POINT, _BEST, _TEXT = "#4878a8", "#c44e52", "#333333"


def draw_front(front: SearchFront, path: Path) -> None:
    """Draws the measured points and the unpruned network into `path`, an SVG file; the point with the best W is red."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    has_metric = front.unpruned.metric is not None
    with rc_context({"svg.hashsalt": "prune-export", "font.size": 9, "text.color": _TEXT, "axes.edgecolor": "#aaaaaa"}):
        figure: Any = Figure(figsize=(6.4, 4.0), layout="constrained")
        axis = figure.subplots()
        best = max(front.points, key=lambda point: point.w, default=None)
        largest = front.unpruned.bytes
        for point in front.points:
            costs = point.measured
            axis.scatter(
                costs.latency_ms,
                loss_of(costs, front.unpruned),
                s=12 + 90 * costs.bytes / largest,
                color=_BEST if point is best else _POINT,
                alpha=0.3 if point.is_dominated else 0.8,
            )
            axis.annotate(
                point.name,
                (costs.latency_ms, loss_of(costs, front.unpruned)),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=7,
            )
        axis.scatter(front.unpruned.latency_ms, 0, s=102, color="black", marker="x")
        axis.annotate(
            "unpruned",
            (front.unpruned.latency_ms, 0),
            xytext=(-5, 6),
            textcoords="offset points",
            ha="right",
            fontsize=7,
        )
        axis.set_xlabel("milliseconds for a batch (area: bytes of the file; red: the best W-coefficient)")
        axis.set_ylabel("points lost" if has_metric else "divergence from the unpruned network")
        axis.set_xlim(left=0)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None})
