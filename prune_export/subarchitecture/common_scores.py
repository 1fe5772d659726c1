"""What the attention scores of all layers have in common, in a narrower network of fewer heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from exporters.distances import Distances, Projection, normalized_embeddings
from exporters.encoder import Attention, AttentionScores, ConstantBlock, Norm, RelativeBias
from prune_export.facts.plan import Indices
from prune_export.pruning.reconstruction.forward import normalized
from prune_export.subarchitecture.hidden_basis import narrow_norm, norm_scales, writer_map
from prune_export.subarchitecture.line_fit import fit_lines


class CommonScores:
    """Makes the scores of a narrower network, in the `basis` V of its hidden states, and joins what layers share."""

    def __init__(self, basis: Tensor) -> None:
        self.basis = basis
        self._made: dict[str, Any] = {}

    def narrowed(self, scores: AttentionScores, heads: Indices) -> AttentionScores:
        """Returns the scores of the parent's `heads`, whose own tensors have been taken, and which are numbered anew.

        A table of biases by distance keeps the columns of these heads. Embeddings of distances become those in the basis,
        and maps of them W become W V.
        """
        if isinstance(scores, RelativeBias):
            return replace(scores, table=scores.table[:, list(heads)].contiguous())
        if not isinstance(scores, Distances):
            return scores
        embeddings, norm = self._narrow(scores)
        key, query = self._projection(scores.key), self._projection(scores.query)
        return replace(scores, embeddings=embeddings, norm=norm, key=key, query=query)

    def joined(self, block: Attention | ConstantBlock) -> Attention | ConstantBlock:
        """Returns the block with what the scores of all layers have in common as the same objects, the first one's."""
        if isinstance(block, ConstantBlock):
            return block
        scores = block.scores
        names: tuple[str, ...] = ("table",) if isinstance(scores, RelativeBias) else ()
        names = ("embeddings", "norm") if isinstance(scores, Distances) else names
        common = {name: self._made.setdefault(name, getattr(scores, name)) for name in names}
        return replace(block, scores=replace(scores, **common))

    def _projection(self, projection: Projection | None) -> Projection | None:
        return None if projection is None else replace(projection, weight=projection.weight @ self.basis)

    def _narrow(self, scores: Distances) -> tuple[Tensor | None, Norm | None]:
        size, norm = self.basis.shape[1], scores.norm
        if norm is not None and size == len(norm.weight):
            return scores.embeddings, norm
        bare = None if norm is None else narrow_norm(norm, size)
        if scores.embeddings is None:
            return None, bare
        narrow = scores.embeddings @ writer_map(norm, self.basis).T
        if norm is None or bare is None:
            return narrow, None
        unit = normalized(bare, narrow)
        bias = None if norm.bias is None else self.basis.T @ norm.bias
        targets = normalized_embeddings(scores) @ self.basis
        # These rows are all that there are: they judge the fit as well, as the second batch.
        weight, bias, *_ = fit_lines([unit] * 2, [targets] * 2, norm_scales(norm, self.basis), bias)
        return narrow, replace(norm, weight=weight, bias=bias)


def distance_moments(scores: AttentionScores) -> tuple[Tensor, ...]:
    """Returns E[eeᵀ] of the embeddings of distances e, `[hidden, hidden]`, float64; empty for scores that have none."""
    if not isinstance(scores, Distances) or scores.embeddings is None:
        return ()
    rows = normalized_embeddings(scores, torch.float64)
    return (rows.T @ rows / len(rows),)
