"""Candidates of a search: how many heads and columns each layer keeps, and how wide the residual stream is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from prune_export.pruning.scores import LayerScores
from prune_export.pruning.selection import Kept, best_units


class Candidate(NamedTuple):
    """The sizes of a network: heads and columns of each distinct layer, and the width of each norm.

    `widths` are those of the embeddings' norm, then of each layer's two norms; empty: the stream keeps its width.
    """

    heads: tuple[int, ...]
    columns: tuple[int, ...]
    widths: tuple[int, ...] = ()

    @property
    def counts(self) -> tuple[tuple[int, int], ...]:
        """Returns heads and columns of each distinct layer."""
        return tuple(zip(self.heads, self.columns, strict=True))

    @property
    def key(self) -> list[int | float | str]:
        """Returns the sizes as the journal's key."""
        return [*self.heads, "columns", *self.columns, "widths", *self.widths]

    @property
    def depth(self) -> int:
        """Returns the number of distinct layers that keep something."""
        return sum(heads + columns > 0 for heads, columns in self.counts)

    def units(self, scores: Sequence[LayerScores]) -> Kept:
        """Returns the units of each layer that stay: those with the highest scores."""
        return tuple(
            (best_units(layer.heads, heads), best_units(layer.columns, columns))
            for layer, (heads, columns) in zip(scores, self.counts, strict=True)
        )


def candidate_of(kept: Kept, widths: tuple[int, ...] = ()) -> Candidate:
    """Returns the sizes of a selection."""
    return Candidate(tuple(len(heads) for heads, _ in kept), tuple(len(columns) for _, columns in kept), widths)
