"""The recipe's section for movement pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shape = Literal["hybrid", "struct", "block", "unstructured"]
Selection = Literal["topk", "threshold", "sigmoid_threshold"]


@dataclass(frozen=True, slots=True)
class MovementConfig:
    """`[method]` with `kind = "movement"`; see docs/methods.md."""

    shape: Shape = "hybrid"
    selection: Selection = "sigmoid_threshold"
    fill: bool = False
