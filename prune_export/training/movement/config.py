"""The recipe's section for movement pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    """`[method]` with `kind = "movement"` (docs/methods.md explains each).

    `shape`: "hybrid" (blocks in attention, columns in the feed-forward network), "struct" (heads, columns), "block" (blocks
    everywhere) or "unstructured" (single weights). `block` is rows and columns of a block of the query, key and value
    weights (transposed in the output projection) and, with "block", of the feed-forward weights.
    `initial_threshold` and `final_threshold` are fractions kept for "topk", thresholds otherwise (None: THRESHOLDS).
    Scores begin at `initial_score` ("constant"), or around it, up to `initial_spread` away, in the order of the Fisher
    information of `initial_samples` training examples ("fisher", with "hybrid" or "struct").
    `penalty` (None: "l1" with a threshold, else "none") has the weight `penalty_weight`, times `attention_penalty` or
    `feed_forward_penalty`. At least the fraction `least` of each score tensor stays with a threshold.
    With a budget of FLOPs, which needs "hybrid" or "struct", scores only rank: `selection` and thresholds mean nothing, and
    what stays is chosen anew every `refresh` steps.
    `fill`: a second training of what is left, `fill_steps` or `fill_epochs` long (both None: as long as the first), in which
    zeros inside kept heads may grow back, at `fill_learning_rate` (None: the recipe's).
    """

    shape: Shape = "hybrid"
    block: tuple[int, int] = (32, 32)
    selection: Selection = "sigmoid_threshold"
    initial_threshold: float | None = None
    final_threshold: float | None = None
    initial: Initial = "constant"
    initial_score: float = 0.0
    initial_spread: float = 1.0
    initial_samples: int = 512
    least: float = 0.005
    penalty: Penalty | None = None
    penalty_weight: float = 10.0
    attention_penalty: float = 1.0
    feed_forward_penalty: float = 1.0
    refresh: int = 4
    fill: bool = False
    fill_steps: int | None = None
    fill_epochs: float | None = None
    fill_learning_rate: float | None = None
