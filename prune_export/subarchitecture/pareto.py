"""Pareto fronts: the points that no other point beats in everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

P = TypeVar("P")

Values = tuple[float, ...]


def dominates(first: Values, second: Values) -> bool:
    """Says whether `first` is nowhere greater than `second` and somewhere less: all values are costs."""
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def pareto_front(points: Iterable[P], values: Callable[[P], Values]) -> tuple[P, ...]:
    """Returns the points that no other dominates, by ascending first value; of points with equal values the first one."""
    front: list[P] = []
    for point in sorted(points, key=values):
        # Only points with a lesser first value, or an equal one and lesser others, can dominate: they come before.
        if not any(dominates(values(other), values(point)) or values(other) == values(point) for other in front):
            front.append(point)
    return tuple(front)


def spread(front: Sequence[P], count: int, value: Callable[[P], float]) -> tuple[P, ...]:
    """Returns at most `count` points of a front, as evenly spaced in `value` as there are points; both ends stay."""
    ordered = sorted(front, key=value)
    if len(ordered) <= count:
        return tuple(ordered)
    least, most = value(ordered[0]), value(ordered[-1])
    chosen: dict[int, P] = {}
    for step in range(count):
        wanted = least + (most - least) * step / max(1, count - 1)
        index = min(range(len(ordered)), key=lambda index: abs(value(ordered[index]) - wanted))
        chosen[index] = ordered[index]
    return tuple(chosen[index] for index in sorted(chosen))
