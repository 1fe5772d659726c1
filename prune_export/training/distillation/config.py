"""The recipe's section for distillation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distillation:
    """`[distillation]`: the loss becomes (1 - weight) · task + weight · logits + hidden_weight · hidden states.

    `temperature` softens the logits; their loss is multiplied by its square. `layer_map` says which of the teacher's
    hidden states each of the student's is compared with: its embeddings' first, then each layer's, counted from 1 (0:
    the embeddings'; -1: with none); empty: at even distances. The teacher is the recipe's, or, without one, the
    network that the recipe starts from.
    """

    weight: float = 0.9
    temperature: float = 2.0
    hidden_weight: float = 0.0
    layer_map: tuple[int, ...] = ()
