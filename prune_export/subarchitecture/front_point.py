"""The measured points of a search's front, as they stand in front.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from exporters.errors import UsageError
from prune_export.facts.plan import parse_indices, ranges
from prune_export.options.search import PointChoice
from prune_export.pruning.selection import Kept
from prune_export.subarchitecture.pareto import dominates
from prune_export.subarchitecture.w_coefficient import w_coefficient


class PointLayer(msgspec.Struct, frozen=True):
    """The heads and columns of a distinct layer that stay, as original indices in the form "0,3-5"."""

    heads: str
    columns: str


class PointShape(msgspec.Struct, frozen=True):
    """The shape of a plain network, and the parent's layers that it has; `FrontPoint.layers` are the units of these."""

    depth: int
    heads: int
    hidden: int
    intermediate: int
    parent_layers: tuple[int, ...]


class Costs(msgspec.Struct, frozen=True):
    """The three costs of a network; predicted ones have an error on the search's examples, measured ones on the judging.

    `divergence` is that from the unpruned network, `metric` (a percentage) the official one; None without labels.
    """

    latency_ms: float
    bytes: float
    divergence: float
    metric: float | None = None

    @property
    def mib(self) -> float:
        return self.bytes / 2**20


class FrontPoint(msgspec.Struct, frozen=True):
    """One point: all that makes its network, and its costs.

    `layers` are the distinct ones of the network, `widths` those of a narrower residual stream, `shape` is that of a plain
    network. `predicted` is None where the search predicts other costs. The front is that of predicted costs;
    `is_dominated` says that by the measured ones another point is nowhere worse.
    """

    name: str
    layers: tuple[PointLayer, ...]
    widths: tuple[int, ...]
    predicted: Costs | None
    measured: Costs
    w: float = 0.0
    is_dominated: bool = False
    shape: PointShape | None = None

    @property
    def units(self) -> Kept:
        """Returns heads and columns of each layer."""
        return tuple(
            (
                parse_indices(layer.heads, f"layer {index}, heads"),
                parse_indices(layer.columns, f"layer {index}, columns"),
            )
            for index, layer in enumerate(self.layers)
        )


@dataclass(frozen=True, slots=True)
class SearchFront:
    """The measured front, by latency, and the costs of the unpruned network.

    `evaluated` are the shapes that a search over shapes has judged, as JSON.
    """

    points: tuple[FrontPoint, ...]
    unpruned: Costs
    evaluations: int
    evaluated: tuple[dict[str, Any], ...] = ()


UNPRUNED = "unpruned"


def layers_of(units: Kept) -> tuple[PointLayer, ...]:
    """Returns the units as they are written down."""
    return tuple(PointLayer(ranges(heads), ranges(columns)) for heads, columns in units)


def error_of(costs: Costs, unpruned: Costs) -> float:
    """Returns the error that the W-coefficient takes: that of the metric, from 0 to 1, otherwise the divergence.

    An error of nothing, which W has no value for, counts as a thousandth, or a thousandth of the divergence's unit.
    """
    error = costs.divergence if costs.metric is None or unpruned.metric is None else 1 - costs.metric / 100
    return max(error, 1e-3)


def judged_points(points: Sequence[FrontPoint], unpruned: Costs) -> tuple[FrontPoint, ...]:
    """Returns the points with `is_dominated` and their W-coefficients; the unpruned network is the maximum point."""
    values = [(point.measured.latency_ms, point.measured.bytes, point.measured.divergence) for point in points]
    return tuple(
        msgspec.structs.replace(
            point,
            w=w_coefficient(
                min(point.measured.bytes, unpruned.bytes),
                min(point.measured.latency_ms, unpruned.latency_ms),
                error_of(point.measured, unpruned),
                most_parameters=unpruned.bytes,
                most_cost=unpruned.latency_ms,
            ),
            is_dominated=any(dominates(other, own) for other in values),
        )
        for point, own in zip(points, values, strict=True)
    )


def loss_of(costs: Costs, unpruned: Costs) -> float:
    """Returns what a network lost: points of the metric, otherwise its divergence."""
    if costs.metric is None or unpruned.metric is None:
        return costs.divergence
    return unpruned.metric - costs.metric


def is_choice(choice: PointChoice) -> bool:
    """Says whether a point is to be written."""
    limits = (choice.max_loss, choice.latency_ms, choice.max_mib, choice.point)
    return choice.best_w or any(limit is not None for limit in limits)


def choose(points: tuple[FrontPoint, ...], unpruned: Costs, choice: PointChoice) -> FrontPoint:
    """Returns the point with the choice's name, or the best within its limits.

    That is the one with the greatest W-coefficient (`best_w`); otherwise the fastest where the loss is limited, and the one
    that loses least where it is not.

    Raises:
        UsageError: there is none; the message says what there is.
    """
    if choice.point is not None:
        named = [point for point in points if point.name == choice.point]
        if not named:
            raise UsageError(f"--point {choice.point}: expected one of {', '.join(point.name for point in points)}")
        return named[0]
    limits = (
        ("max-loss", choice.max_loss, lambda point: loss_of(point.measured, unpruned)),
        ("latency-ms", choice.latency_ms, lambda point: point.measured.latency_ms),
        ("max-mib", choice.max_mib, lambda point: point.measured.mib),
    )
    left = list(points)
    for name, limit, value in limits:
        if limit is None:
            continue
        within = [point for point in left if value(point) <= limit]
        if not within:
            least = min(map(value, left))
            raise UsageError(
                f"--{name} {limit:g}: no point of the front is within the limits; the least is {least:.4g}"
            )
        left = within
    if choice.best_w:
        return max(left, key=lambda point: point.w)
    if choice.max_loss is not None:
        return min(left, key=lambda point: point.measured.latency_ms)
    return min(left, key=lambda point: loss_of(point.measured, unpruned))
