"""Weighted least squares from second moments: memory is bounded by the width of a block, whatever the number of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# The decrease of the error, relative to the targets' size, below which it is rounding.
_LEAST_GAIN = 1e-7

# Penalties on changes of the weights, relative to the mean square of a feature. The held-out samples choose one.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)


_HELD_OUT = 8  # one batch in so many is held out


def is_held_out(batch: int) -> bool:
    """Says whether the batch with that index judges the fits, and is not fitted to."""
    return batch % _HELD_OUT == 1


def token_weights(sums: Tensor, *, is_centered: bool) -> Tensor:
    """Returns the weight of each token's squared error, `[tokens]` of residual sums `[tokens, hidden]`.

    The norm divides by the deviation; RMSNorm, which is not `is_centered`, by the root of the mean square.
    """
    return 1 / (sums.var(dim=-1) if is_centered else sums.square().mean(dim=-1)).clamp(min=1e-12)


def composed(input_map: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Returns weight `[…, size]` and bias `[…]` of a linear map after an input map, as one linear map.

    The input map is `[hidden, size + 1]`, float64, its last column a constant. There is no bias where neither of them has a
    constant.
    """
    exact = weight.double()
    shift = exact @ input_map[:, -1]
    if bias is None:
        return (exact @ input_map[:, :-1]).float(), shift.float() if shift.any() else None
    return (exact @ input_map[:, :-1]).float(), (bias.double() + shift).float()


class Moments:
    """Second moments of features and targets, in float64: all that a linear fit and its error depend on.

    `features` is `[features + 1, features + 1]`, `cross` `[targets, features + 1]`: a constant 1 is the last feature, so
    that a bias is fitted as one more weight. `targets` is the weighted sum of the targets' squares.
    """

    def __init__(self, features: int, targets: int, device: str = "cpu") -> None:
        options = {"dtype": torch.float64, "device": device}
        self.features = torch.zeros(features + 1, features + 1, **options)  # type: ignore[call-overload]
        self.cross = torch.zeros(targets, features + 1, **options)  # type: ignore[call-overload]
        self.targets = 0.0

    def add(self, features: Tensor, targets: Tensor, weights: Tensor) -> None:
        """Adds rows: features `[rows, features]`, targets `[rows, targets]`, weights `[rows]`.

        Products of one batch are float32 (a few thousand terms), their sums over batches float64.
        """
        root = weights.sqrt()[:, None]
        with_one = torch.cat([features, features.new_ones(len(features), 1)], dim=1) * root
        scaled = targets * root
        self.features += (with_one.T @ with_one).double()
        self.cross += (scaled.T @ with_one).double()
        self.targets += float(scaled.square().sum(dtype=torch.float64))

    def error(self, weight: Tensor) -> float:
        """Returns the weighted sum of squared errors of `weight`, `[targets, features + 1]`."""
        fitted = ((weight @ self.features) * weight).sum()
        return self.targets + float(fitted - 2 * (weight * self.cross).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The result of a fit: `weight` is unchanged where no candidate lowers the held-out error.

    `before` and `after` are held-out errors relative to the targets' size.
    """

    weight: Tensor
    before: float
    after: float

    @property
    def accepted(self) -> bool:
        return self.after < self.before


def fit(train: Moments, held_out: Moments, start: Tensor, solve: Callable[[Moments, Tensor, float], Tensor]) -> Fit:
    """Returns the best of `solve(train, start, ridge)` by the error on `held_out`, or `start` if none is better.

    `start` is `[targets, features + 1]`, float64.
    """
    scale = max(held_out.targets, 1e-300)
    before = held_out.error(start)
    best, least = start, before - _LEAST_GAIN * scale
    for ridge in RIDGES:
        candidate = solve(train, start, ridge)
        error = held_out.error(candidate)
        if torch.isfinite(candidate).all() and error < least:
            best, least = candidate, error
    return Fit(best, before / scale, (before if best is start else least) / scale)


def ridge_regression(train: Moments, start: Tensor, ridge: float) -> Tensor:
    """Returns argmin over W of `Σ w |W f - t|² + λ |W - start|²`, or `start` where the system is singular.

    The bias, the last column, has no penalty.
    """
    penalty = _penalty(train.features, ridge)
    penalty[-1] = 0
    system = train.features + torch.diag(penalty)
    system[-1, -1] = system[-1, -1].clamp(min=1e-30)
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed:
        return start
    return torch.cholesky_solve((train.cross + start * penalty).T, factor).T


def ridge_without_constant(train: Moments, start: Tensor, ridge: float) -> Tensor:
    """Returns what `ridge_regression` does for a linear map without a bias: the last column is zero."""
    features = train.features[:-1, :-1]
    penalty = _penalty(features, ridge, has_constant=False)
    factor, failed = torch.linalg.cholesky_ex(features + torch.diag(penalty))
    if failed:
        return start
    weight = torch.cholesky_solve((train.cross[:, :-1] + start[:, :-1] * penalty).T, factor).T
    return torch.cat([weight, torch.zeros_like(start[:, -1:])], dim=1)


def unit_scales(size: int) -> Callable[[Moments, Tensor, float], Tensor]:
    """Returns a solver that scales each unit of `size` features by one factor and leaves the bias as it is.

    Kwon et al. 2022, section 4.3, "mask tuning": least squares of the block's output over the mask's values, here from
    second moments. With unit u's output `W_u f_u`, the normal equations have `Σ_ij (WᵀW ∘ ffᵀ)_ij` over the features of two
    units.
    """

    def solve(train: Moments, start: Tensor, ridge: float) -> Tensor:
        weight, bias = start[:, :-1], start[:, -1]
        count = weight.shape[1] // size
        products = (weight.T @ weight) * train.features[:-1, :-1]
        normal = products.view(count, size, count, size).sum(dim=(1, 3))
        targets = (weight * (train.cross[:, :-1] - bias[:, None] * train.features[-1, :-1])).sum(dim=0)
        right = targets.view(count, size).sum(dim=1)
        penalty = _penalty(normal, ridge, has_constant=False)
        factor, failed = torch.linalg.cholesky_ex(normal + torch.diag(penalty))
        if failed:
            return start
        scales = torch.cholesky_solve((right + penalty)[:, None], factor)[:, 0]
        return torch.cat([weight * scales.repeat_interleave(size), bias[:, None]], dim=1)

    return solve


def _penalty(features: Tensor, ridge: float, *, has_constant: bool = True) -> Tensor:
    diagonal = features.diagonal()
    counted = diagonal[:-1] if has_constant and len(diagonal) > 1 else diagonal
    return torch.full_like(diagonal, max(ridge * float(counted.mean()), 1e-30))
