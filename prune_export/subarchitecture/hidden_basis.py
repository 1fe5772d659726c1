"""The basis of a narrower residual stream, one for the whole network, and choices of units by covariance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from exporters.encoder import Norm


def hidden_basis(moments: Sequence[Tensor], size: int, *, is_centered: bool = True) -> Tensor:
    """Returns V `[hidden, size]`, by which states x of all layers become states xV of a network of hidden size `size`.

    `moments` are the second moments of the states after each norm, before its weight and bias, `[hidden, hidden]`; each
    counts as much as the others. V spans the `size` - 1 directions with the most of it (as in SliceGPT, Ashkboos et al.
    2024, section 3, per layer), rotated so that its columns add up to zero: LayerNorm subtracts the mean over the
    coordinates, which is then zero already. The constant part of the states counts, because it is in the deviation by which
    LayerNorm divides. RMSNorm is not `is_centered`: V then spans `size` directions. At full size V is the identity.
    """
    hidden = len(moments[0])
    if size == hidden:
        return torch.eye(hidden)
    mean = torch.stack([moment / moment.trace().clamp(min=1e-30) for moment in moments]).sum(dim=0)
    directions = torch.linalg.eigh(mean).eigenvectors.flip(1)  # [hidden, hidden]
    if not is_centered:
        narrow: Tensor = directions[:, :size].float()
        return narrow
    basis: Tensor = (directions[:, : size - 1] @ _mean_free_rows(size)).float()
    return basis


def _mean_free_rows(size: int) -> Tensor:
    """Returns orthonormal rows `[size - 1, size]`, with the sum 0: a reflection that takes the last axis to (1, …, 1)."""
    ones = torch.full((size,), size**-0.5, dtype=torch.float64)
    normal = ones.clone()
    normal[-1] -= 1
    normal /= normal.norm()
    return (torch.eye(size, dtype=torch.float64) - 2 * torch.outer(normal, normal))[:-1]


def narrow_norm(norm: Norm, size: int) -> Norm:
    """Returns the norm of `size` features without a weight and bias of its own."""
    weight = norm.weight.new_ones(size)
    return replace(norm, weight=weight, bias=None if norm.bias is None else torch.zeros_like(weight))


def norm_scales(norm: Norm, basis: Tensor) -> Tensor:
    """Returns a `[size]`, the weights of the narrower norm in place of `norm`.

    They are the diagonal of Vᵀ diag(weight) V, divided by the squared lengths of the columns of V. Weights near zero are
    replaced by a small one, because writers are divided by them.
    """
    squares = basis.square()
    scales = (squares * norm.weight[:, None]).sum(dim=0) / squares.sum(dim=0).clamp(min=1e-12)
    least = 1e-3 * norm.weight.abs().mean().clamp(min=1e-12)
    return torch.where(scales.abs() < least, least, scales)


def writer_map(norm: Norm | None, basis: Tensor) -> Tensor:
    """Returns T `[size, hidden]`, by which the parent's summands before `norm` become those of the narrower network.

    T = diag(a)⁻¹ Vᵀ diag(weight) (I - 11ᵀ/hidden): the narrower norm's weights a then give Vᵀ of the parent's states, up to
    the norm's own mean and deviation. At full size T is the identity. Where no norm follows the sum, T is Vᵀ.
    """
    hidden, size = basis.shape
    if size == hidden:
        return torch.eye(hidden, device=basis.device)
    if norm is None:
        return basis.T
    rows: Tensor = basis.T * norm.weight / norm_scales(norm, basis)[:, None]
    return rows - rows.mean(dim=1, keepdim=True)


def greedy_units(covariance: Tensor, count: int) -> tuple[int, ...]:
    """Chooses `count` units from which the others are best reconstructed by a linear map, one after the other.

    Each step takes the unit that lowers the trace of the residual covariance most (greedy column subset selection; Farahat
    et al. 2013, "Efficient greedy feature selection for unsupervised learning"). `covariance` is `[units, units]`, float64.
    """
    if count == len(covariance):
        return tuple(range(count))
    residual = covariance.clone()
    is_free = torch.ones(len(residual), dtype=torch.bool, device=residual.device)
    least = 1e-9 * float(covariance.diagonal().mean()) + 1e-30
    chosen: list[int] = []
    for _ in range(count):
        gains = residual.square().sum(dim=0) / residual.diagonal().clamp(min=least)
        unit = int(gains.masked_fill(~is_free, -1).argmax())
        chosen.append(unit)
        is_free[unit] = False
        if float(residual[unit, unit]) > least:
            residual = residual - torch.outer(residual[:, unit], residual[unit]) / residual[unit, unit]
    return tuple(sorted(chosen))
