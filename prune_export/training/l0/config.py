"""The recipe's section for L0 gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from prune_export.training.keys import CountOrZero, EpochsOrZero, NotNegative, Positive, SomeExamples, key

Blocks = Literal["both", "attention", "feed_forward"]
Constraint = Literal["lagrangian", "penalty"]
Initial = Literal["constant", "fisher"]


@dataclass(frozen=True, slots=True)
class L0Config:
    """`[method]` with `kind = "l0"`: hard concrete gates on heads and feed-forward columns, then retraining.

    Whatever the constraint, no more than the budget is left at the end; with "penalty" and no budget, gates that are 0 at
    test time go. Gates learn at the constant rate `optimiser.score_learning_rate`.
    """

    frozen: Annotated[bool, key("gates are trained alone; otherwise together with the weights")] = True
    blocks: Annotated[Blocks, key("what has gates")] = "both"
    constraint: Annotated[
        Constraint,
        key(
            "a Lagrangian holds what is expected to be left at a target that moves to the budget; a penalty adds to the loss"
        ),
    ] = "lagrangian"
    attention_penalty: Annotated[NotNegative, key("times the expected fraction of open heads (penalty)")] = 1.0
    feed_forward_penalty: Annotated[NotNegative, key("times the expected fraction of open columns (penalty)")] = 1.0
    multiplier_learning_rate: Annotated[
        Positive | None, key("that of the Lagrangian's multipliers; none: ten times that of the gates")
    ] = None
    initial: Annotated[Initial, key("gates begin alike, or in the order of the Fisher information per FLOP")] = (
        "constant"
    )
    initial_log_alpha: Annotated[float, key("where log α begins")] = 2.5
    initial_spread: Annotated[NotNegative, key("how far from it, up and down, with `fisher`")] = 1.0
    initial_samples: Annotated[SomeExamples, key("training examples for the Fisher information")] = 512
    temperature: Annotated[Positive, key("β of the hard concrete distribution")] = 2 / 3
    distil_gates: Annotated[bool, key("the recipe's distillation also while gates are trained")] = False
    retrain_steps: Annotated[
        CountOrZero | None,
        key("trains what is left, as a slim network; instead of `retrain_epochs`; none: no retraining"),
    ] = None
    retrain_epochs: Annotated[EpochsOrZero | None, key("the same in epochs; instead of `retrain_steps`")] = None
    retrain_learning_rate: Annotated[Positive | None, key("the highest learning rate of that; none: the recipe's")] = (
        None
    )
