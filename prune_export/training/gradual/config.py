"""The recipe's section for gradual pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from prune_export.training.keys import Count, CountOrZero, Epochs, Positive, SomeExamples, key


@dataclass(frozen=True, slots=True)
class GradualConfig:
    """`[method]` with `kind = "gradual"`: prune a step, train what is left, and again, to each of the budget's `flops`.

    Each step is what `prune-export prune` does once. Training follows it: `recovery_*` after a step on the way, the
    schedule's length after one that reaches a budget; each time the learning rate begins anew.
    """

    score: Annotated[
        Literal["fisher", "taylor"], key("Fisher information of each sample, or the first-order change")
    ] = "fisher"
    step: Annotated[
        Annotated[float, Meta(gt=0, lt=1)],
        key("the least fraction of the FLOPs that a step leaves of those before it; steps to a budget are alike"),
    ] = 0.8
    recovery_steps: Annotated[
        Count | None, key("training after a step on the way; instead of `recovery_epochs`; none: the schedule's length")
    ] = None
    recovery_epochs: Annotated[Epochs | None, key("the same in epochs; instead of `recovery_steps`")] = None
    recovery_learning_rate: Annotated[
        Positive | None, key("the highest learning rate of these; none: the recipe's")
    ] = None
    rearrangement: Annotated[bool, key("looks for pairs of heads or columns to exchange after selection")] = True
    reconstruction: Annotated[
        Literal["full", "scales", "none"],
        key("least squares after each step: all weights that are left, or one scale each"),
    ] = "full"
    samples: Annotated[SomeExamples, key("training examples that scores and reconstruction see")] = 512
    align: Annotated[Count, key("columns of a layer stay in multiples of this")] = 1
    keep_layers: Annotated[tuple[CountOrZero, ...], key("layers that lose nothing, from 0")] = ()
    drop_blocks: Annotated[bool, key("whole blocks may go")] = True
