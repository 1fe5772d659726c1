"""Biases of keys and values that attention does not need."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from exporters.encoder import Attention, AttentionScores, ContentScores
from prune_export.surgeon.exactness import exact_for


@exact_for(ContentScores)
def drop_key_bias(block: Attention) -> Attention:
    """Drops the key bias: it adds `query · key_bias` to all scores of a query alike, and softmax ignores a common shift.

    Terms without query and key, such as a bias by distance, stay as they are.
    """
    return replace(block, key_bias=None)


@exact_for(AttentionScores)
def fold_value_bias(block: Attention) -> Attention:
    """Moves the value bias into the output bias.

    Softmax rows sum to 1, whatever the scores: each context is shifted by `value_bias`, and the output by
    `output_weight @ value_bias`.
    """
    if block.value_bias is None:
        return block
    output_bias = shifted(block.output_bias, block.output_weight.flatten(1), block.value_bias.flatten())
    return replace(block, value_bias=None, output_bias=output_bias)


def shifted(bias: Tensor | None, weight: Tensor, constant: Tensor) -> Tensor | None:
    """Returns `bias + weight @ constant`, summed in float64, because there may be thousands of terms."""
    if not constant.any():
        return bias
    nonzero = torch.nonzero(constant).flatten()
    shift = weight[:, nonzero].double() @ constant[nonzero].double()
    return (shift if bias is None else bias.double() + shift).to(weight.dtype)
