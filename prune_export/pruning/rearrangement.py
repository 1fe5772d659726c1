"""Exchanges kept units for removed ones, by the block-diagonal Fisher information."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST_SWAPS = 10_000


def rearrange(gradients: Tensor, keep: tuple[int, ...]) -> tuple[int, ...]:
    """Returns as many units as `keep` has, exchanged one by one as long as that lowers the loss of removal.

    `gradients` is `[samples, units]` of one block. With m the mask of the removed units and F = GᵀG / samples, the loss to
    second order is mᵀFm / 2. Kwon et al. 2022, section 4.2, "mask rearrangement", solves the same problem greedily. Each
    step takes the removed unit whose return gains most and the kept one whose removal then costs least. It ends at a local
    optimum. The result is never worse than `keep`.
    """
    samples, units = gradients.shape
    if not 0 < len(keep) < units:
        return keep
    exact = gradients.double()
    fisher = exact.T @ exact / samples  # [units, units]
    diagonal = fisher.diagonal()
    removed = torch.ones(units, dtype=torch.bool)
    removed[list(keep)] = False
    product = fisher @ removed.double()  # F m, kept up to date
    smallest_gain = 1e-12 * max(float(diagonal.sum()), 1e-300)
    for _ in range(_MOST_SWAPS):
        outside, inside = torch.nonzero(removed).flatten(), torch.nonzero(~removed).flatten()
        return_costs = diagonal[outside] - 2 * product[outside]
        returning = outside[int(return_costs.argmin())]
        removal_costs = diagonal[inside] + 2 * product[inside] - 2 * fisher[returning, inside]
        leaving = inside[int(removal_costs.argmin())]
        if float(return_costs.min() + removal_costs.min()) >= -smallest_gain:
            break
        removed[returning], removed[leaving] = False, True
        product += fisher[leaving] - fisher[returning]
    return tuple(torch.nonzero(~removed).flatten().tolist())
