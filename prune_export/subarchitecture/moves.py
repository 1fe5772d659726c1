"""Moves from one candidate to another: a block gives units to another one, or loses or gains some; the stream narrows."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from prune_export.subarchitecture.candidate import Candidate

_STEPS = (0.02, 0.05, 0.1)  # parts of the unpruned network's latency that a move gives or takes
_WIDTH_STEPS = 16  # between the smallest and the full width


@dataclass(frozen=True, slots=True)
class Moves:
    """The moves within a space.

    `full` is the unpruned network's candidate. Columns are kept in multiples of `align`, widths in multiples of
    `width_align`. Distinct layers in `keep_layers` lose nothing. `depth` bounds the layers that keep something, `latency`
    predicts milliseconds.
    """

    full: Candidate
    latency: Callable[[Candidate], float]
    align: int
    width_align: int = 8
    keep_layers: frozenset[int] = frozenset()
    depth: int | None = None

    def any(self, candidate: Candidate, rng: random.Random) -> Candidate | None:
        """Returns a neighbour of `candidate`; None where the chosen move leads nowhere."""
        kinds = [self._trade, self._trade, self._resize, self._empty]
        if candidate.widths:
            kinds += [self._one_width, self._all_widths]
        moved = rng.choice(kinds)(candidate, rng)
        if moved == candidate or (self.depth is not None and moved.depth > self.depth):
            return None
        return moved if any((*moved.heads, *moved.columns)) else None

    def _blocks(self) -> list[tuple[int, int]]:
        """Returns the blocks that may change, as a layer and 0 (attention) or 1 (feed-forward)."""
        return [
            (layer, kind) for layer in range(len(self.full.heads)) for kind in (0, 1) if layer not in self.keep_layers
        ]

    def _trade(self, candidate: Candidate, rng: random.Random) -> Candidate:
        """Takes units from one block and gives another as much of the time."""
        blocks = self._blocks()
        if len(blocks) < 2:
            return candidate
        giver, taker = rng.sample(blocks, 2)
        part = rng.choice(_STEPS)
        smaller = self._by_time(candidate, giver, -part)
        saved = self.latency(candidate) - self.latency(smaller)
        return self._by_time(smaller, taker, saved / self.latency(self.full))

    def _resize(self, candidate: Candidate, rng: random.Random) -> Candidate:
        return self._by_time(candidate, rng.choice(self._blocks()), rng.choice(_STEPS) * rng.choice((-1, -1, 1)))

    def _empty(self, candidate: Candidate, rng: random.Random) -> Candidate:
        """Removes a whole block, or brings half of it back."""
        layer, kind = rng.choice(self._blocks())
        return _with(candidate, layer, kind, 0 if candidate[kind][layer] else -(-self.full[kind][layer] // 2))

    def _by_time(self, candidate: Candidate, block: tuple[int, int], part: float) -> Candidate:
        """Changes a block by `part` of the unpruned network's time, by one step of its grid at least."""
        layer, kind = block
        present, most = candidate[kind][layer], self.full[kind][layer]
        if part == 0 or (part < 0 and present == 0) or (part > 0 and present == most):
            return candidate
        step = 1 if kind == 0 else self.align
        counts = sorted({*range(0, most, step), most})
        wanted = abs(part) * self.latency(self.full)
        before = self.latency(candidate)
        best = candidate
        for count in reversed(counts) if part < 0 else counts:
            if (count < present) != (part < 0) or count == present:
                continue
            changed = _with(candidate, layer, kind, count)
            difference = abs(self.latency(changed) - before)
            if best != candidate and difference > wanted:
                break
            best = changed
            if difference >= wanted:
                break
        return best

    def _one_width(self, candidate: Candidate, rng: random.Random) -> Candidate:
        index = rng.randrange(len(candidate.widths))
        widths = list(candidate.widths)
        widths[index] = self._width(widths[index], index, rng.choice((-2, -1, 1, 2)))
        return candidate._replace(widths=tuple(widths))

    def _all_widths(self, candidate: Candidate, rng: random.Random) -> Candidate:
        steps = rng.choice((-1, 1))
        widths = (self._width(width, index, steps) for index, width in enumerate(candidate.widths))
        return candidate._replace(widths=tuple(widths))

    def _width(self, width: int, index: int, steps: int) -> int:
        most = self.full.widths[index]
        step = max(self.width_align, most // _WIDTH_STEPS // self.width_align * self.width_align)
        return max(min(step, most), min(most, width + steps * step))


def _with(candidate: Candidate, layer: int, kind: int, count: int) -> Candidate:
    counts = list(candidate[kind])
    counts[layer] = count
    return candidate._replace(**{("heads", "columns")[kind]: tuple(counts)})
