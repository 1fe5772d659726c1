"""The recipe's section for movement pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from prune_export.training.keys import Count, Epochs, Fraction, NotNegative, Positive, SomeExamples, key

Shape = Literal["hybrid", "struct", "block", "unstructured"]
Selection = Literal["topk", "threshold", "sigmoid_threshold"]
Penalty = Literal["l1", "l0", "none"]
Initial = Literal["constant", "fisher"]

# (initial, final): the fraction that is kept, or the threshold.
THRESHOLDS: dict[Selection, tuple[float, float]] = {
    "topk": (1.0, 0.5),
    "threshold": (-3.0, 0.0),
    "sigmoid_threshold": (0.0, 0.1),
}


@dataclass(frozen=True, slots=True)
class MovementConfig:
    """`[method]` with `kind = "movement"`: each unit of a weight has a score, and what scores low is masked.

    With a budget of FLOPs, which needs `hybrid` or `struct`, scores only rank: `selection` and thresholds mean nothing, and
    what stays is chosen anew every `refresh` steps.
    """

    shape: Annotated[
        Shape,
        key(
            "units: blocks in attention and columns in the feed-forward network (`hybrid`), heads and columns (`struct`), "
            "blocks (`block`), single weights (`unstructured`)"
        ),
    ] = "hybrid"
    block: Annotated[
        tuple[Count, Count],
        key("rows and columns of a block of query, key and value (transposed in the output projection)"),
    ] = (32, 32)
    selection: Annotated[Selection, key("the highest scores stay, or those above a threshold")] = "sigmoid_threshold"
    initial_threshold: Annotated[
        float | None, key("fraction kept (`topk`) or threshold at first; none: 1, -3 (`threshold`) or 0 (its sigmoid)")
    ] = None
    final_threshold: Annotated[
        float | None, key("the same at the end; none: 0.5, 0 (`threshold`) or 0.1 (its sigmoid)")
    ] = None
    initial: Annotated[Initial, key("scores begin alike, or in the order of the Fisher information per FLOP")] = (
        "constant"
    )
    initial_score: Annotated[float, key("where scores begin")] = 0.0
    initial_spread: Annotated[NotNegative, key("how far from it, up and down, with `fisher`")] = 1.0
    initial_samples: Annotated[SomeExamples, key("training examples for the Fisher information")] = 512
    least: Annotated[Fraction, key("the fraction of each score tensor that stays whatever the threshold")] = 0.005
    penalty: Annotated[
        Penalty | None, key("pushes scores down; none: `l1` with a threshold and no budget, otherwise `none`")
    ] = None
    penalty_weight: Annotated[NotNegative, key("how much; with a threshold it decides the size")] = 10.0
    attention_penalty: Annotated[NotNegative, key("times `penalty_weight`, in attention")] = 1.0
    feed_forward_penalty: Annotated[NotNegative, key("times `penalty_weight`, in the feed-forward network")] = 1.0
    refresh: Annotated[Count, key("steps between choices of what stays (budget of FLOPs)")] = 4
    fill: Annotated[
        bool, key("trains what is left once more, as a slim network; zeros in kept heads may grow back")
    ] = False
    fill_steps: Annotated[
        Count | None, key("length of that; instead of `fill_epochs`; none: as long as the first training")
    ] = None
    fill_epochs: Annotated[Epochs | None, key("the same in epochs; instead of `fill_steps`")] = None
    fill_learning_rate: Annotated[Positive | None, key("the highest learning rate of that; none: the recipe's")] = None
