"""How far the answers of two networks are apart, also where their hidden states have different widths."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from exporters.encoder import FeatureHead
from exporters.tasks import Task
from prune_export.tasks import SPECS

_STATES = FeatureHead.outputs[0]


def answers_divergence(task: Task, student: Any, teacher: Any, attention_mask: Tensor) -> Tensor:
    """Returns the task's divergence at temperature 1, a scalar.

    For feature extraction, whose answers are the hidden states, that is their squared error relative to the teacher's
    squares. States of another width are compared by 1 minus the linear CKA. `student` and `teacher` hold outputs by name,
    `attention_mask` is int64 `[batch, sequence]`.
    """
    if SPECS[task].head is not FeatureHead:
        return SPECS[task].divergence(student, teacher, attention_mask, 1.0)
    tokens = attention_mask.bool()
    states, expected = student[_STATES][tokens], teacher[_STATES][tokens]
    if states.shape != expected.shape:
        return 1 - linear_cka(states, expected)
    error: Tensor = (states - expected).square().sum() / expected.square().sum().clamp(min=1e-30)
    return error


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Returns the linear centred kernel alignment of `[rows, features]` and `[rows, other features]`, from 0 to 1.

    It does not depend on rotations, shifts or the scale of either. Kornblith et al. 2019, "Similarity of Neural Network
    Representations Revisited", section 3: |Yᵀ X|² / (|Xᵀ X| |Yᵀ Y|) of centred X and Y, in Frobenius norms.
    """
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    alignment: Tensor = (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()).clamp(min=1e-30)
    return alignment
