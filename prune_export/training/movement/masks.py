"""Scores, and the parametrizations that mask weights and biases by them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prune_export.training.movement.binarize import above, straight_through, top_k
from prune_export.training.movement.config import Selection


@dataclass(slots=True)
class Level:
    """What all scores are compared with at present: the method sets it before each step."""

    selection: Selection
    value: float
    least: float


class Scores(nn.Module):
    """One score for each block of a matrix, `[rows, columns]` of blocks.

    With `chosen` the mask is a buffer of the same shape, which the method fills; otherwise it follows from the scores and
    the level.
    """

    def __init__(self, rows: int, columns: int, level: Level, *, initial: float, chosen: bool) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.full((rows, columns), initial))
        self.level = level
        self.register_buffer("keep", torch.ones(rows, columns) if chosen else None)
        self.keep: Tensor | None

    def mask(self) -> Tensor:
        """`[rows, columns]` of 0 and 1; gradients go straight through to the scores."""
        return straight_through(self.hard(), self.values)

    @torch.no_grad()
    def hard(self) -> Tensor:
        """The mask without gradients."""
        if self.keep is not None:
            return self.keep
        level = self.level
        if level.selection == "topk":
            return top_k(self.values, level.value)
        return above(self.values, level.value, sigmoid=level.selection == "sigmoid_threshold", least=level.least)


class _Masked(nn.Module):
    """A parametrization by scores. Several may use the same scores; the one that owns them registers them, so that they
    stand once among the model's parameters."""

    def __init__(self, scores: Scores, *, owner: bool) -> None:
        super().__init__()
        if owner:
            self.scores = scores
        self._uses = (scores,)  # in a tuple, so that torch does not register it

    @property
    def used(self) -> Scores:
        return self._uses[0]


class BlockMask(_Masked):
    """Masks a weight `[out_features, in_features]` in blocks of one size; `transposed`: by the scores' transpose."""

    def __init__(self, scores: Scores, *, owner: bool, transposed: bool = False) -> None:
        super().__init__(scores, owner=owner)
        self.transposed = transposed

    def forward(self, weight: Tensor) -> Tensor:
        mask = self.used.mask()
        mask = mask.T if self.transposed else mask
        rows, columns = mask.shape
        blocks = weight.view(rows, weight.shape[0] // rows, columns, weight.shape[1] // columns)
        return (blocks * mask[:, None, :, None]).view_as(weight)


class RowMask(_Masked):
    """Masks a bias `[out_features]` where no block of its row of the weight stays; scores learn from weights only."""

    def __init__(self, scores: Scores) -> None:
        super().__init__(scores, owner=False)

    def forward(self, bias: Tensor) -> Tensor:
        rows = self.used.hard().amax(dim=1)
        return bias * rows.repeat_interleave(bias.shape[0] // rows.shape[0])
