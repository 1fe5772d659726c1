"""The recipe's section for students of fewer layers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StudentConfig:
    """`[method]` with `kind = "student"`: some of the model's layers, taught in three trainings.

    1. *Intermediate layers*: hidden states only (`intermediate_*`).
    2. *Prediction layer*: logits with `temperature` and `weight`, the task's loss with 1 - weight (`prediction_*`); from
       `prediction_teacher`, where that is another one than the recipe's.
    3. *Fine-tuning*: the task's own loss (`fine_tuning_*`).

    A training of 0 steps and epochs is left out. `keep` are the layers that the student begins with, counted from 0;
    empty: `layers` of them at even distances, the last one included. The defaults are those published for
    deepset/tinyroberta-6l-768d (intermediate), deepset/tinyroberta-squad2 (prediction) and deepset/roberta-base-squad2
    (fine-tuning).
    """

    layers: int = 6
    keep: tuple[int, ...] = ()
    intermediate_steps: int | None = None
    intermediate_epochs: float | None = 4
    intermediate_learning_rate: float = 1e-4
    prediction_steps: int | None = None
    prediction_epochs: float | None = 4
    prediction_learning_rate: float = 3e-5
    prediction_teacher: str | None = None
    temperature: float = 1.5
    weight: float = 0.75
    fine_tuning_steps: int | None = None
    fine_tuning_epochs: float | None = 2
    fine_tuning_learning_rate: float = 3e-5
