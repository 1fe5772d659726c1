"""The default search: a front of candidates that starts from exact selections and grows by moves.

After EvoPress (Sieber et al. 2024) and DarwinLM (Tang et al. 2025), for encoders: blocks have levels that were refitted
once, a move takes from one block and gives to another, few examples judge first and more examples judge what survives.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prune_export.progress import SILENT, Progress
from prune_export.subarchitecture.candidate import Candidate
from prune_export.subarchitecture.moves import Moves
from prune_export.subarchitecture.pareto import pareto_front

_FRUITLESS = 50  # moves in a row that lead nowhere new: the space is exhausted


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with its error on the search's examples and its predicted costs."""

    candidate: Candidate
    error: float
    latency_ms: float
    bytes: float

    @property
    def values(self) -> tuple[float, float, float]:
        return self.latency_ms, self.bytes, self.error


def evolve(
    starts: Iterable[Candidate],
    moves: Moves,
    judge: Callable[[Candidate], Judged],
    *,
    evaluations: int,
    seed: int,
    progress: Progress = SILENT,
) -> tuple[Judged, ...]:
    """Judges `starts` and as many of their descendants as make `evaluations` candidates in all; returns the front.

    A parent is drawn from the front by the gap that it leaves in latency, so that the front is filled evenly. The result
    depends on the seed and on what `judge` returns alone.
    """
    rng = random.Random(seed)
    judged: dict[Candidate, Judged] = {}
    for candidate in starts:
        if candidate not in judged and len(judged) < evaluations:
            judged[candidate] = judge(candidate)
            progress.advance()
    fruitless = 0
    front = pareto_front(judged.values(), lambda point: point.values)
    while len(judged) < evaluations and fruitless < _FRUITLESS:
        child = moves.any(_parent(front, rng).candidate, rng)
        if child is None or child in judged:
            fruitless += 1
            continue
        fruitless = 0
        judged[child] = judge(child)
        progress.advance()
        front = pareto_front((*front, judged[child]), lambda point: point.values)
        middle = front[len(front) // 2]
        progress.note(f"{len(front)} points on the front; {middle.latency_ms:.3g} ms at divergence {middle.error:.3g}")
    return front


def _parent(front: tuple[Judged, ...], rng: random.Random) -> Judged:
    """Draws a point of the front, with the distance of its neighbours in latency as its weight."""
    if len(front) < 3:
        return rng.choice(front)
    times = [point.latency_ms for point in front]
    ends = [times[0], *times, times[-1]]
    weights = [after - before + 1e-9 for before, after in zip(ends, ends[2:], strict=False)]
    return rng.choices(front, weights)[0]
