"""The recipe's section for gradual pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class GradualConfig:
    """`[method]` with `kind = "gradual"`: prune a step, train what is left, and again, to each of the budget's `flops`.

    A step keeps `step` of the FLOPs that the one before left, or a little more, so that steps to a budget are alike.
    Each is what `prune-export prune` does once: scores from `samples` training examples, exact selection,
    `rearrangement`, `reconstruction` ("full", "scales", "none"). `recovery_steps` or `recovery_epochs` of training
    follow a step on the way, the schedule's `steps` or `epochs` one that reaches a budget; each time the learning rate
    begins anew. Columns stay in multiples of `align`, `keep_layers` lose nothing, and without `drop_blocks` no block
    goes as a whole.
    """

    score: Literal["fisher", "taylor"] = "fisher"
    step: float = 0.8
    recovery_steps: int | None = None
    recovery_epochs: float | None = None
    recovery_learning_rate: float | None = None
    rearrangement: bool = True
    reconstruction: Literal["full", "scales", "none"] = "full"
    samples: int = 512
    align: int = 1
    keep_layers: tuple[int, ...] = ()
    drop_blocks: bool = True
