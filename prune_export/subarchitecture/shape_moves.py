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


def first_shapes(shapes: Sequence[Shape], latency: Callable[[Shape], float], count: int) -> tuple[Shape, ...]:
    """Returns about `count` shapes: the largest with one size smaller, and others as evenly spaced in `latency` as can be.

    The first are students of fewer layers, heads, columns, or less width alone.
    """
    largest = max(shapes, key=lambda shape: (latency(shape), shape))
    single = [shape for shape in shapes if sum(a != b for a, b in zip(shape, largest, strict=True)) == 1]
    return tuple(dict.fromkeys((*single[:count], *spread(sorted(shapes), max(1, count - len(single)), latency))))
