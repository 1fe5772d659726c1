"""Which units, with the counts fixed: the block-diagonal Fisher information knows what stands in for what."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST_SWAPS = 10_000


def rearrange(gradients: Tensor, keep: tuple[int, ...]) -> tuple[int, ...]:
    """As many units as `keep` has, exchanged one by one while that lowers what is lost.

    `gradients` is `[samples, units]` of one block. With m the mask of what goes and F = GᵀG / samples, the loss to second
    order is mᵀFm / 2 (Kwon et al. 2022, section 4.2, "mask rearrangement", solves the same problem greedily). Each step
    takes the removed unit whose return gains most and the kept one whose removal then costs least; it ends at a local
    optimum. The result is never worse than `keep`.
    """
    samples, units = gradients.shape
    if not 0 < len(keep) < units:
        return keep
    exact = gradients.double()
    fisher = exact.T @ exact / samples  # [units, units]
    diagonal = fisher.diagonal()
    gone = torch.ones(units, dtype=torch.bool)
    gone[list(keep)] = False
    pull = fisher @ gone.double()  # F m, kept up to date
    least = 1e-12 * max(float(diagonal.sum()), 1e-300)
    for _ in range(_MOST_SWAPS):
        outside, inside = torch.nonzero(gone).flatten(), torch.nonzero(~gone).flatten()
        returning = diagonal[outside] - 2 * pull[outside]
        back = outside[int(returning.argmin())]
        leaving = diagonal[inside] + 2 * pull[inside] - 2 * fisher[back, inside]
        away = inside[int(leaving.argmin())]
        if float(returning.min() + leaving.min()) >= -least:
            break
        gone[back], gone[away] = False, True
        pull += fisher[away] - fisher[back]
    return tuple(torch.nonzero(~gone).flatten().tolist())


def lost(gradients: Tensor, keep: tuple[int, ...]) -> float:
    """mᵀFm / 2 for the units that are not in `keep`."""
    gone = torch.ones(gradients.shape[1], dtype=torch.bool)
    gone[list(keep)] = False
    return float(gradients[:, gone].double().sum(dim=1).square().mean() / 2)
