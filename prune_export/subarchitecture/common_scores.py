"""What the attention scores of all layers have in common, in a narrower network of fewer heads."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from exporters.distances import Distances, Projection, normalized_embeddings
from exporters.encoder import AttentionScores, Norm, RelativeBias
from prune_export.facts.plan import Indices
from prune_export.pruning.reconstruction.forward import normalized
from prune_export.subarchitecture.hidden_basis import narrow_norm, norm_scales, writer_map
from prune_export.subarchitecture.line_fit import fit_lines


class CommonScores:
    """Makes the scores of a narrower network, in the `basis` V of its hidden states; what layers share is made once."""

    def __init__(self, basis: Tensor) -> None:
        self.basis = basis
        self._tables: dict[Indices, Tensor] = {}
        self._embeddings: tuple[Tensor, Norm | None] | None = None

    def narrowed(self, scores: AttentionScores, heads: Indices) -> AttentionScores:
        """Returns the scores of the parent's `heads`, whose own tensors have been taken, and which are numbered anew.

        A table of biases by distance keeps the columns of these heads. Embeddings of distances become those in the basis,
        and maps of them W become W V.
        """
        if isinstance(scores, RelativeBias):
            if heads not in self._tables:
                self._tables[heads] = scores.table[:, list(heads)].contiguous()
            return replace(scores, table=self._tables[heads])
        if not isinstance(scores, Distances) or scores.embeddings is None:
            return scores
        if self._embeddings is None:
            self._embeddings = self._narrow(scores, scores.embeddings)
        embeddings, norm = self._embeddings
        key, query = self._projection(scores.key), self._projection(scores.query)
        return replace(scores, embeddings=embeddings, norm=norm, key=key, query=query)

    def _projection(self, projection: Projection | None) -> Projection | None:
        return None if projection is None else replace(projection, weight=projection.weight @ self.basis)

    def _narrow(self, scores: Distances, embeddings: Tensor) -> tuple[Tensor, Norm | None]:
        norm = scores.norm
        narrow = embeddings @ writer_map(norm, self.basis).T
        if norm is None or self.basis.shape[1] == len(norm.weight):
            return narrow, norm
        unit = normalized(narrow_norm(norm, self.basis.shape[1]), narrow)
        bias = None if norm.bias is None else self.basis.T @ norm.bias
        rows, targets = (
            [unit, unit],
            [normalized_embeddings(scores) @ self.basis] * 2,
        )  # both are fitted to and judged by
        weight, bias, *_ = fit_lines(rows, targets, norm_scales(norm, self.basis), bias)
        return narrow, replace(norm, weight=weight, bias=bias)


def distance_moments(scores: AttentionScores) -> tuple[Tensor, ...]:
    """Returns E[eeᵀ] of the embeddings of distances e, `[hidden, hidden]`, float64; empty for scores that have none."""
    if not isinstance(scores, Distances) or scores.embeddings is None:
        return ()
    rows = normalized_embeddings(scores, torch.float64)
    return (rows.T @ rows / len(rows),)
