"""The embeddings of distances as a PyTorch module."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from exporters.distances import Distances
from prune_export.slim_model.blocks import SlimNorm, make_parameter


class SlimDistances(nn.Module):
    """The embeddings of distances and their norm, which the scores of all layers have in common."""

    def __init__(self, scores: Distances) -> None:
        super().__init__()
        assert scores.embeddings is not None
        self.embeddings = make_parameter(scores.embeddings)
        self.norm = None if scores.norm is None else SlimNorm(scores.norm)
        self._scores = scores

    def forward(self) -> Tensor:
        """Returns what the layers' projections are applied to: `[rows, features]`."""
        return self.embeddings if self.norm is None else self.norm(self.embeddings)

    def describe(self) -> Distances:
        """Returns scores with the current embeddings and norm, and the projections of the first layer."""
        norm = None if self.norm is None else self.norm.describe()
        return replace(self._scores, embeddings=self.embeddings.detach(), norm=norm)
