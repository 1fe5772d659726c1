"""A target for the expected size, held by multipliers that are maximised while all else is minimised.

Wang et al. 2020, "Structured Pruning of Large Language Models", section 4.2 ("augmented Lagrangian"):

    max over λ₁, λ₂, min over the gates:   L + λ₁ (s - t) + λ₂ (s - t)²

with s the expected fraction that is pruned and t its target, which rises linearly from 0 ("target warm-up", ibid.).
"""

from __future__ import annotations

from torch import Tensor


def lagrangian(sparsity: Tensor, target: float, multipliers: Tensor) -> Tensor:
    """What is added to the loss; `multipliers` are λ₁, λ₂ `[2]`. Zero where the target is met exactly."""
    gap = sparsity - target
    return multipliers[0] * gap + multipliers[1] * gap.square()


def target_at(step: int, total: int, final: float, *, warmup: float, cooldown: float) -> float:
    """t before step `step` of `total`: 0 in the first `warmup` of the steps, `final` in the last `cooldown`."""
    first, last = warmup * total, (1 - cooldown) * total
    if step >= last:
        return final
    if step <= first:
        return 0.0
    return final * (step - first) / (last - first)
