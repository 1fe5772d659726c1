"""The recipe's section for distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from prune_export.training.keys import MOST, Fraction, NotNegative, Positive, key


@dataclass(frozen=True, slots=True)
class Distillation:
    """`[distillation]`: the loss is (1 - `weight`) · task + `weight` · logits + `hidden_weight` · hidden states.

    The teacher is the recipe's `teacher`, or, without one, the network that the recipe starts from.
    """

    weight: Annotated[Fraction, key("how much the teacher's logits count; the task counts the rest")] = 0.9
    temperature: Annotated[
        Positive, key("softens the logits of both networks; their loss is multiplied by its square")
    ] = 2.0
    hidden_weight: Annotated[NotNegative, key("how much the teacher's hidden states count")] = 0.0
    layer_map: Annotated[
        tuple[Annotated[int, Meta(ge=-1, le=MOST)], ...],
        key(
            "the teacher's hidden state for each of the network's: its embeddings' first, then each layer's, from 1 "
            "(0: the embeddings'; -1: none); empty: at even distances"
        ),
    ] = ()
