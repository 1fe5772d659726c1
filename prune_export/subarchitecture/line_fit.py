"""Fits of one line per unit: the weight and bias of a norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prune_export.pruning.reconstruction.least_squares import is_held_out


def fit_lines(
    features: Sequence[Tensor], targets: Sequence[Tensor], weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, float, float]:
    """Fits weight and bias `[units]` of each unit by least squares; rows `[rows, units]` are given per batch.

    Without a bias the lines go through the origin.

    Returns:
        Both, and the errors on held-out batches before and after, relative to the targets' size. `weight` and `bias` stay as
        they are where that does not lower the error.
    """
    sums = torch.zeros(2, 6, len(weight), dtype=torch.float64, device=weight.device)
    for batch, (rows, values) in enumerate(zip(features, targets, strict=True)):
        x, t = rows.double(), values.double()
        terms = (torch.ones_like(x), x, t, x * x, x * t, t * t)
        sums[int(is_held_out(batch))] += torch.stack([term.sum(dim=0) for term in terms])
    n, x, t, xx, xt, _ = sums[0]
    if bias is None:
        slope, offset = xt / xx.clamp(min=1e-12), torch.zeros_like(xt)
    else:
        slope = (xt - x * t / n) / (xx - x * x / n).clamp(min=1e-12)
        offset = (t - slope * x) / n

    def error(a: Tensor, b: Tensor) -> float:
        n, x, t, xx, xt, tt = sums[1]
        squares = a * a * xx + n * b * b + tt + 2 * (a * b * x - a * xt - b * t)
        return float(squares.sum() / tt.sum().clamp(min=1e-30))

    before = error(weight.double(), torch.zeros_like(offset) if bias is None else bias.double())
    after = error(slope, offset)
    if after < before:
        return slope.float(), None if bias is None else offset.float(), before, after
    return weight, bias, before, before
