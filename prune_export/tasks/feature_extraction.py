"""Feature extraction: the last hidden states as they are. There is no loss to train with and no answer to compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.encoder import FeatureHead
from prune_export.tasks.classes import mean_over_tokens
from prune_export.tasks.spec import Classes, Labels, Outputs, TaskSpec


def _loss(_outputs: Mapping[str, Tensor], _labels: Labels, _config: Any) -> Tensor | None:
    return None


def _sample_losses(outputs: Any, batch: Labels, generator: torch.Generator) -> Tensor:
    """Returns the losses of a unit Gaussian around the features: their gradient is that of the product with noise."""
    states = outputs["last_hidden_state"]
    noise = torch.randn(states.shape, generator=generator).to(states.device)
    return mean_over_tokens((states * noise).sum(dim=2), batch["attention_mask"].bool())


def _divergence(_student: Any, _teacher: Any, attention_mask: Tensor, _temperature: float) -> Tensor:
    """Returns 0, because there are no logits."""
    return torch.zeros((), device=attention_mask.device)


def _decode(outputs: Outputs, _text: str, _offsets: NDArray[np.int64] | None, _classes: Classes) -> NDArray[np.float32]:
    return outputs["last_hidden_state"]


FEATURE_EXTRACTION = TaskSpec(
    name="feature-extraction",
    head=FeatureHead,
    suffix="Model",
    output_class="BaseModelOutput",
    loss=_loss,
    sample_losses=_sample_losses,
    divergence=_divergence,
    agree=None,
    decode=_decode,
    label_names=(),
    base_model=True,
)
