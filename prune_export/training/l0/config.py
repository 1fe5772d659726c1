"""The recipe's section for L0 gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Blocks = Literal["both", "attention", "feed_forward"]
Constraint = Literal["lagrangian", "penalty"]
Initial = Literal["constant", "fisher"]


@dataclass(frozen=True, slots=True)
class L0Config:
    """`[method]` with `kind = "l0"`: hard concrete gates on heads and feed-forward columns, then retraining.

    `frozen`: the gates are trained alone (McCarley et al. 2019); otherwise together with the weights. `blocks` says
    what has gates. A budget of `flops` is for both kinds of blocks jointly, one of `heads` and `columns` for each
    separately. `constraint`: "lagrangian" holds what is expected to be left at a target that moves from 1 to the
    budget between the schedule's `warmup` and `cooldown` (Wang et al. 2020); "penalty" adds `attention_penalty` and
    `feed_forward_penalty` times the expected fraction of heads and columns that are open (McCarley et al. 2019).
    Whatever the constraint, no more than the budget is left at the end; with "penalty" and no budget, gates that are 0
    at test time go.

    Gates learn with the optimiser's `score_learning_rate`, multipliers with `multiplier_learning_rate` (None: ten times
    that), at constant rates. log α begins at `initial_log_alpha` ("constant"), or around it, up to `initial_spread`
    away, in the order of the Fisher information of `initial_samples` training examples ("fisher"); `temperature` is β.
    `distil_gates`: the recipe's distillation also while gates are trained, not only afterwards. `retrain_steps` or
    `retrain_epochs` train what is left, as a slim network; both None: no retraining.
    """

    frozen: bool = True
    blocks: Blocks = "both"
    constraint: Constraint = "lagrangian"
    attention_penalty: float = 1.0
    feed_forward_penalty: float = 1.0
    multiplier_learning_rate: float | None = None
    initial: Initial = "constant"
    initial_log_alpha: float = 2.5
    initial_spread: float = 1.0
    initial_samples: int = 512
    temperature: float = 2 / 3
    distil_gates: bool = False
    retrain_steps: int | None = None
    retrain_epochs: float | None = None
    retrain_learning_rate: float | None = None
