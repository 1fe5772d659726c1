"""The hard concrete distribution: gates in [0, 1] that are exactly 0, and exactly 1, with probabilities to be learnt.

Louizos et al. 2018, "Learning Sparse Neural Networks through L0 Regularization", section 2.2 and equations 10 to 13.
With u uniform on (0, 1) and the parameter log α:

    s = sigmoid((log u - log(1 - u) + log α) / β)
    s̄ = s (ζ - γ) + γ
    z = min(1, max(0, s̄))
    P(z ≠ 0) = sigmoid(log α - β log(-γ / ζ))
    ẑ = min(1, max(0, sigmoid(log α) (ζ - γ) + γ))      at test time
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 2 / 3  # β
LOW, HIGH = -0.1, 1.1  # γ, ζ
_EDGE = 1e-6  # u stays this far from 0 and 1, where its logit is infinite


def sample(log_alpha: Tensor, uniform: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Gates z for the uniform numbers `uniform`, of the shape of `log_alpha`; differentiable in `log_alpha`."""
    u = uniform.clamp(_EDGE, 1 - _EDGE)
    concrete = torch.sigmoid((u.log() - (1 - u).log() + log_alpha) / temperature)
    return (concrete * (HIGH - LOW) + LOW).clamp(0, 1)


def probability_open(log_alpha: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """P(z ≠ 0) of each gate; their sum is the expected L0 norm."""
    return torch.sigmoid(log_alpha - temperature * math.log(-LOW / HIGH))


def at_test_time(log_alpha: Tensor) -> Tensor:
    """ẑ of each gate, without noise."""
    return (torch.sigmoid(log_alpha) * (HIGH - LOW) + LOW).clamp(0, 1)
