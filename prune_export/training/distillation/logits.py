"""Learning the teacher's outputs: soft targets at a temperature.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2: cross entropy with the teacher's softened
distribution, times T², so that its gradients stay as large as those of the labels whatever the temperature. Here the KL
divergence, which differs by the teacher's own entropy, a constant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from exporters.tasks import Task


def logits_loss(task: Task, student: Any, teacher: Any, attention_mask: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student), a scalar.

    Question answering: distributions over positions, the mean of start's and end's; padding has no part in either
    network's. Text classification: over classes (squared error where there is one: a regression). Tokens and masked
    words: over classes, the mean over tokens that are no padding. `student` and `teacher` are transformers' outputs of
    the task.
    """
    match task:
        case "question-answering":
            padding = ~attention_mask.bool()
            parts = [
                _divergence(
                    _without(student[name], padding), _without(teacher[name], padding), temperature, padding
                ).mean()
                for name in ("start_logits", "end_logits")
            ]
            return (parts[0] + parts[1]) / 2
        case "feature-extraction":
            return torch.zeros((), device=attention_mask.device)  # no logits: hidden states are all that there is
        case _:
            found, wanted = student["logits"].float(), teacher["logits"].float()
            if task == "text-classification":
                if found.shape[-1] == 1:
                    return functional.mse_loss(found, wanted)
                return _divergence(found, wanted, temperature).mean()
            tokens = attention_mask.to(found.dtype)
            return (_divergence(found, wanted, temperature) * tokens).sum() / tokens.sum().clamp(min=1)


def _without(logits: Tensor, padding: Tensor) -> Tensor:
    return logits.float().masked_fill(padding, torch.finfo(torch.float32).min)


def _divergence(student: Tensor, teacher: Tensor, temperature: float, left_out: Tensor | None = None) -> Tensor:
    """T² · KL over the last dimension, `[…]`; places that are `left_out` count nothing."""
    found = (student / temperature).log_softmax(dim=-1)
    wanted = (teacher / temperature).log_softmax(dim=-1)
    terms = wanted.exp() * (wanted - found)
    if left_out is not None:
        terms = terms.masked_fill(left_out, 0.0)  # 0 · (-inf - -inf) is no number
    return terms.sum(dim=-1) * temperature**2
