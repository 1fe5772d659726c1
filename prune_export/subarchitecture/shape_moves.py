"""Moves within a space of shapes, and the shapes that a search begins with."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prune_export.subarchitecture.pareto import spread
from prune_export.subarchitecture.shape import Shape


@dataclass(frozen=True, slots=True)
class ShapeMoves:
    """Moves by one step of one size, among `shapes`."""

    shapes: frozenset[Shape]

    def any(self, candidate: Shape, rng: random.Random) -> Shape | None:
        """Returns a neighbour of `candidate`; None where the step leads out of the space.

        A hidden size that the heads do not divide takes the nearest number of heads that divides it.
        """
        name = rng.choice(Shape._fields)
        is_larger = rng.random() < 0.5
        present = getattr(candidate, name)
        sizes = {getattr(shape, name) for shape in self.shapes}
        further = [size for size in sizes if size != present and (size > present) == is_larger]
        if not further:
            return None
        moved = candidate._replace(**{name: min(further, key=lambda size: abs(size - present))})
        if moved in self.shapes:
            return moved
        others = [shape for shape in self.shapes if shape._replace(heads=moved.heads) == moved]
        return min(others, key=lambda shape: (abs(shape.heads - moved.heads), shape.heads), default=None)


def first_shapes(
    shapes: Sequence[Shape], parent: Shape, latency: Callable[[Shape], float], count: int
) -> tuple[Shape, ...]:
    """Returns up to `count` shapes, evenly spaced in `latency`: half of them are the parent with one size smaller.

    These are students of fewer layers, fewer heads, fewer columns, or less width alone.
    """
    single = [shape for shape in shapes if sum(a != b for a, b in zip(shape, parent, strict=True)) == 1]
    first = spread(sorted(single), max(1, count // 2), latency)
    others = sorted(set(shapes) - set(single))
    return (*first, *spread(others, count - len(first), latency))[:count]
