"""L0 gates: the hard concrete distribution, gates as parametrizations, and the Lagrangian that holds their target.

McCarley et al. 2019, "Structured Pruning of a BERT-based Question Answering Model", section 3: a gate multiplies each
head's context, or each column's activation. On a linear map's inputs that is the same as on the columns of its weight,
so the gates of a layer sit on the weights of its attention output and down projections.

Louizos et al. 2018, "Learning Sparse Neural Networks through L0 Regularization", section 2.2 and equations 10 to 13.
With u uniform on (0, 1) and the parameter log α:

    s = sigmoid((log u - log(1 - u) + log α) / β)
    s̄ = s (ζ - γ) + γ
    z = min(1, max(0, s̄))
    P(z ≠ 0) = sigmoid(log α - β log(-γ / ζ))
    ẑ = min(1, max(0, sigmoid(log α) (ζ - γ) + γ))      at test time

Wang et al. 2020, "Structured Pruning of Large Language Models", section 4.2 ("augmented Lagrangian"): the target for the
expected size is held by multipliers that are maximised while all else is minimised,

    max over λ₁, λ₂, min over the gates:   L + λ₁ (s - t) + λ₂ (s - t)²

with s the expected fraction that is pruned and t its target, which rises linearly from 0 ("target warm-up", ibid.).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prune_export.training.stage import LayerModules

TEMPERATURE = 2 / 3  # β
LOW, HIGH = -0.1, 1.1  # γ, ζ
_EDGE = 1e-6  # u stays this far from 0 and 1, where its logit is infinite


def sample(log_alpha: Tensor, uniform: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Returns gates z for the uniform numbers `uniform`, of the shape of `log_alpha`; differentiable in `log_alpha`."""
    u = uniform.clamp(_EDGE, 1 - _EDGE)
    concrete = torch.sigmoid((u.log() - (1 - u).log() + log_alpha) / temperature)
    return (concrete * (HIGH - LOW) + LOW).clamp(0, 1)


def probability_open(log_alpha: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Returns P(z ≠ 0) of each gate; their sum is the expected L0 norm."""
    return torch.sigmoid(log_alpha - temperature * math.log(-LOW / HIGH))


def at_test_time(log_alpha: Tensor) -> Tensor:
    """Returns ẑ of each gate, without noise."""
    return (torch.sigmoid(log_alpha) * (HIGH - LOW) + LOW).clamp(0, 1)


class HardConcreteGates(nn.Module):
    """Gates of `units` units on the columns of a weight `[out_features, units * size]`.

    While training, they are z for the uniform numbers of the last `draw`. In evaluation mode, and before the first draw,
    they are ẑ.
    """

    def __init__(self, units: int, size: int, *, initial: float, temperature: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((units,), float(initial)))
        self.size, self.temperature = size, temperature
        self.uniform: Tensor | None = None

    def draw(self, generator: torch.Generator) -> None:
        """Draws new uniform numbers, which hold until the next draw."""
        drawn = torch.rand(self.log_alpha.shape, generator=generator)
        self.uniform = drawn.to(self.log_alpha.device)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.values().to(weight.dtype).repeat_interleave(self.size)

    def values(self) -> Tensor:
        """Returns the factors `[units]`."""
        if self.training and self.uniform is not None:
            return sample(self.log_alpha, self.uniform, self.temperature)
        return at_test_time(self.log_alpha)

    def probabilities(self) -> Tensor:
        """Returns the probability that each gate is not 0, `[units]`."""
        return probability_open(self.log_alpha, self.temperature)


def add_gates(module: nn.Linear, gates: HardConcreteGates) -> None:
    """Makes the module's weight one whose columns are multiplied by the gates."""
    parametrize.register_parametrization(module, "weight", gates)


def remove_gates(module: nn.Linear, factors: Tensor) -> None:
    """Removes the gates from the module's weight, and multiplies its columns by `factors` `[in_features]`."""
    parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    with torch.no_grad():
        module.weight.mul_(factors.to(module.weight))


@dataclass(frozen=True, slots=True, eq=False)
class LayerGates:
    """The gates of one kind in the distinct layer `layer`; `cost` is that of one unit, for all applications of the layer."""

    kind: Literal["heads", "columns"]
    layer: int
    modules: LayerModules
    gates: HardConcreteGates
    cost: float

    @property
    def index(self) -> int:
        """Returns the index of this kind in pairs of heads and columns."""
        return 0 if self.kind == "heads" else 1

    def at_test_time(self) -> Tensor:
        """Returns ẑ of each gate, without gradients."""
        return at_test_time(self.gates.log_alpha.detach())

    def apply(self, kept: tuple[int, ...]) -> int:
        """Multiplies the weights by the gates in `kept`, zeros the other units, and returns how many are not 0."""
        values, modules = self.at_test_time(), self.modules
        factors = torch.zeros_like(values)
        factors[list(kept)] = values[list(kept)]
        inputs = factors.repeat_interleave(self.gates.size)
        remove_gates(modules.attention_output if self.kind == "heads" else modules.down, inputs)
        read = (modules.query, modules.key, modules.value) if self.kind == "heads" else (modules.gate, modules.up)
        for projection in filter(None, read):
            projection.zero(inputs.eq(0))
        return int(factors.ne(0).sum())


def lagrangian(sparsity: Tensor, target: float, multipliers: Tensor) -> Tensor:
    """Returns the term of the loss, which is 0 where the target is met exactly. `multipliers` are λ₁, λ₂ `[2]`."""
    gap = sparsity - target
    return multipliers[0] * gap + multipliers[1] * gap.square()


def target_at(step: int, total: int, final: float, *, warmup: float, cooldown: float) -> float:
    """Returns t before step `step` of `total`: 0 in the first `warmup` of the steps, `final` in the last `cooldown`."""
    first, last = warmup * total, (1 - cooldown) * total
    if step >= last:
        return final
    if step <= first:
        return 0.0
    return final * (step - first) / (last - first)
