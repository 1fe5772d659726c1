"""The recipe's section for students of fewer layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prune_export.training.keys import Count, CountOrZero, EpochsOrZero, Fraction, Positive, key

LAYERS = 6
# The published lengths, where a recipe gives neither steps nor epochs.
EPOCHS = {"intermediate": 4.0, "prediction": 4.0, "fine_tuning": 2.0}


@dataclass(frozen=True, slots=True)
class StudentConfig:
    """`[method]` with `kind = "student"`: some of the model's layers, taught in three trainings.

    1. *Intermediate layers*: hidden states only (`intermediate_*`).
    2. *Prediction layer*: logits, and the task's loss with 1 - `weight` (`prediction_*`).
    3. *Fine-tuning*: the task's own loss (`fine_tuning_*`).

    A training of 0 steps or epochs is left out. The defaults are those published for deepset/tinyroberta-6l-768d
    (intermediate), deepset/tinyroberta-squad2 (prediction) and deepset/roberta-base-squad2 (fine-tuning).
    """

    layers: Annotated[
        Count | None, key("how many layers, at even distances, the last one included; none: 6, or those in `keep`")
    ] = None
    keep: Annotated[
        tuple[CountOrZero, ...], key("the layers that the student begins with, from 0; instead of `layers`")
    ] = ()
    intermediate_steps: Annotated[CountOrZero | None, key("length; instead of `intermediate_epochs`")] = None
    intermediate_epochs: Annotated[EpochsOrZero | None, key("length; none, without steps: 4")] = None
    intermediate_learning_rate: Annotated[Positive, key("the highest learning rate")] = 1e-4
    prediction_steps: Annotated[CountOrZero | None, key("length; instead of `prediction_epochs`")] = None
    prediction_epochs: Annotated[EpochsOrZero | None, key("length; none, without steps: 4")] = None
    prediction_learning_rate: Annotated[Positive, key("the highest learning rate")] = 3e-5
    prediction_teacher: Annotated[str | None, key("another teacher than the recipe's, for the prediction layer")] = None
    temperature: Annotated[Positive, key("softens the logits of both networks")] = 1.5
    weight: Annotated[Fraction, key("how much the teacher's logits count; the task counts the rest")] = 0.75
    fine_tuning_steps: Annotated[CountOrZero | None, key("length; instead of `fine_tuning_epochs`")] = None
    fine_tuning_epochs: Annotated[EpochsOrZero | None, key("length; none, without steps: 2")] = None
    fine_tuning_learning_rate: Annotated[Positive, key("the highest learning rate")] = 3e-5
