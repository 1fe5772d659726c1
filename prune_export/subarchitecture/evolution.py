"""The default search: a front of candidates that starts from exact selections and grows by moves.

After EvoPress (Sieber et al. 2024) and DarwinLM (Tang et al. 2025), for encoders: blocks have levels that were refitted
once, a move takes from one block and gives to another, few examples judge first and more examples judge what survives.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from prune_export.progress import SILENT, Progress
from prune_export.subarchitecture.pareto import pareto_front

_SECOND_MOVE = 0.3  # the probability of two moves at once, over a candidate that is on no front
_FRUITLESS = 200  # moves in a row that lead nowhere new: the space is exhausted


C = TypeVar("C")


class Neighbours(Protocol[C]):
    """The moves of a space."""

    def any(self, candidate: C, rng: random.Random) -> C | None:
        """Returns a neighbour of `candidate`; None where the move that was drawn leads nowhere."""


@dataclass(frozen=True, slots=True)
class Judged(Generic[C]):
    """A candidate with its error on the search's examples and its predicted costs; `first` is the error on few of them."""

    candidate: C
    error: float
    latency_ms: float
    bytes: float
    first: float = 0.0

    @property
    def values(self) -> tuple[float, float, float]:
        return self.latency_ms, self.bytes, self.error


Judge = Callable[[C, Sequence[Judged[C]]], Judged[C] | None]


def evolve(
    starts: Iterable[C],
    moves: Neighbours[C],
    judge: Judge[C],
    *,
    evaluations: int,
    seed: int,
    most_error: float = math.inf,
    progress: Progress = SILENT,
) -> tuple[Judged[C], ...]:
    """Judges `starts` and as many of their descendants as make `evaluations` candidates in all; returns the front.

    `judge` gets a candidate and the front, which is empty while the starts are judged. It returns None where few examples
    show that a point of the front is better.

    Candidates whose error is above `most_error` are not on the front, unless all are: then it is the best one of them. A
    parent is drawn from the front by the gap that it leaves in latency, so that the front is filled evenly. The result
    depends on the seed and on what `judge` returns alone.
    """
    rng = random.Random(seed)
    judged: dict[C, Judged[C] | None] = {}
    for candidate in starts:
        if candidate not in judged and len(judged) < evaluations:
            judged[candidate] = judge(candidate, ())
            progress.advance()
    fruitless = 0
    front = _front([point for point in judged.values() if point is not None], most_error)
    while len(judged) < evaluations and fruitless < _FRUITLESS:
        child = moves.any(_parent(front, rng).candidate, rng)
        if child is not None and rng.random() < _SECOND_MOVE:
            child = moves.any(child, rng)
        if child is None or child in judged:
            fruitless += 1
            continue
        fruitless = 0
        judged[child] = point = judge(child, front)
        progress.advance()
        if point is None:
            continue
        front = _front((*front, point), most_error)
        middle = front[len(front) // 2]
        progress.note(f"{len(front)} points on the front; {middle.latency_ms:.3g} ms at divergence {middle.error:.3g}")
    return front


def _front(points: Collection[Judged[C]], most_error: float) -> tuple[Judged[C], ...]:
    within = [point for point in points if point.error <= most_error]
    return pareto_front(within or [min(points, key=lambda point: point.error)], lambda point: point.values)


def _parent(front: tuple[Judged[C], ...], rng: random.Random) -> Judged[C]:
    """Draws a point of the front, with the distance of its neighbours in latency as its weight."""
    if len(front) < 3:
        return rng.choice(front)
    times = [point.latency_ms for point in front]
    ends = [times[0], *times, times[-1]]
    weights = [after - before + 1e-9 for before, after in zip(ends, ends[2:], strict=False)]
    return rng.choices(front, weights)[0]
