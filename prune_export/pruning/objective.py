"""What each sample loses: the loss whose gradients tell how much a head or a column matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from exporters.tasks import Task

LABELLED: tuple[Task, ...] = ("question-answering", "text-classification")


def sample_losses(task: Task, outputs: Any, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
    """The loss of each sample, `[batch]`.

    Question answering and text classification: the loss of transformers' class (cross entropy, squared error for a
    regression), but padding can not be an answer, so that it does not depend on the other rows. The other tasks need no
    labels: targets are drawn from what the network itself predicts, with `generator`. The gradients' second moment is then
    the Fisher information in its proper sense (Kunstner et al. 2019), for features that of a unit Gaussian.
    """
    attended = batch["attention_mask"].bool()
    match task:
        case "question-answering":
            losses = [
                functional.cross_entropy(
                    outputs[f"{end}_logits"].masked_fill(~attended, torch.finfo(torch.float32).min),
                    batch[f"{end}_positions"],
                    reduction="none",
                )
                for end in ("start", "end")
            ]
            return (losses[0] + losses[1]) / 2
        case "text-classification":
            logits, labels = outputs["logits"], batch["labels"]
            if labels.is_floating_point():
                return functional.mse_loss(logits.squeeze(1), labels, reduction="none")
            return functional.cross_entropy(logits, labels, reduction="none")
        case "feature-extraction":
            states = outputs["last_hidden_state"]
            noise = torch.randn(states.shape, generator=generator).to(states.device)
            return _mean_over_tokens((states * noise).sum(dim=2), attended)
        case _:
            logits = outputs["logits"]  # [batch, sequence, classes]
            drawn = torch.multinomial(logits.detach().softmax(2).flatten(0, 1).cpu(), 1, generator=generator).flatten()
            losses_of = functional.cross_entropy(logits.flatten(0, 1), drawn.to(logits.device), reduction="none")
            return _mean_over_tokens(losses_of.view(attended.shape), attended)


def _mean_over_tokens(values: Tensor, attended: Tensor) -> Tensor:
    return (values * attended).sum(dim=1) / attended.sum(dim=1).clamp(min=1)
