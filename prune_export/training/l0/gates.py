"""Gates as parametrizations: a factor on what each head or column contributes.

McCarley et al. 2019, "Structured Pruning of a BERT-based Question Answering Model", section 3: a gate multiplies each
head's context, or each column's activation. On a linear map's inputs that is the same as on the columns of its weight,
so the gates of a layer sit on the weights of its attention output and down projections.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prune_export.training.l0 import hard_concrete


class Gates(nn.Module):
    """`units` gates on the columns of a weight `[out_features, units * size]`.

    While training, the gates are those of the uniform numbers of the last `draw`; in evaluation mode (and before any
    draw) they are ẑ.
    """

    def __init__(self, units: int, size: int, *, initial: float, temperature: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((units,), float(initial)))
        self.size, self.temperature = size, temperature
        self.uniform: Tensor | None = None

    def draw(self, generator: torch.Generator) -> None:
        """New uniform numbers, used until the next draw."""
        drawn = torch.rand(self.log_alpha.shape, generator=generator)
        self.uniform = drawn.to(self.log_alpha.device)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.values().to(weight.dtype).repeat_interleave(self.size)

    def values(self) -> Tensor:
        """The factors `[units]`."""
        if self.training and self.uniform is not None:
            return hard_concrete.sample(self.log_alpha, self.uniform, self.temperature)
        return hard_concrete.at_test_time(self.log_alpha)

    def probabilities(self) -> Tensor:
        """How likely each gate is not 0, `[units]`."""
        return hard_concrete.probability_open(self.log_alpha, self.temperature)


def put_on(module: nn.Linear, gates: Gates) -> None:
    """Multiplies the columns of the module's weight by the gates from now on."""
    parametrize.register_parametrization(module, "weight", gates)


def take_off(module: nn.Linear, factors: Tensor) -> None:
    """Leaves the weight without gates, its columns multiplied by `factors` `[in_features]`."""
    parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    with torch.no_grad():
        module.weight.mul_(factors.to(module.weight))
