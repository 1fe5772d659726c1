"""From scores to masks of 0 and 1, with the straight-through gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def top_k(scores: Tensor, fraction: float) -> Tensor:
    """1 for the `int(fraction * n)` highest of the n scores ("hard" movement pruning, Sanh et al. 2020)."""
    count = int(fraction * scores.numel() + 1e-6)
    mask = torch.zeros(scores.numel(), dtype=scores.dtype, device=scores.device)
    mask[scores.flatten().argsort(descending=True, stable=True)[:count]] = 1
    return mask.view_as(scores)


def above(scores: Tensor, threshold: float, *, sigmoid: bool, least: float = 0.0) -> Tensor:
    """1 where the score, or its sigmoid, is above `threshold` ("soft" movement pruning, Sanh et al. 2020).

    At least `least` of the scores, and one, give 1: the highest (as in nn_pruning's ThresholdBinarizer).
    """
    values = scores.sigmoid() if sigmoid else scores
    mask = (values > threshold).to(scores.dtype)
    if mask.sum() < max(1, int(least * scores.numel()) + 1) and least > 0:
        return top_k(scores, (int(least * scores.numel()) + 1) / scores.numel())
    return mask


def straight_through(mask: Tensor, scores: Tensor) -> Tensor:
    """`mask`, whose gradient goes to `scores` as it is (Bengio et al. 2013): dL/dS = dL/dM, which for a masked weight W * M
    is the sum of dL/d(W*M) * W over the block (Sanh et al. 2020)."""
    return (scores - scores.detach()) + mask
