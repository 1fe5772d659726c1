"""Biases of keys and values that attention does not need."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from exporters.encoder import Attention


def fold_biases(block: Attention) -> Attention:
    """Drops the key bias and moves the value bias into the output bias; exact.

    1. Key bias: it adds `query · key_bias` to all scores of a query alike, and softmax ignores a common shift.
    2. Value bias: softmax rows sum to 1, so each context is shifted by `value_bias` whatever the scores, and the output
       by `output_weight @ value_bias`.

    Not for scores with more terms in the key (`relative_key_query`): families refuse those.
    """
    output_bias = block.output_bias
    if block.value_bias is not None:
        output_bias = shifted(output_bias, block.output_weight.flatten(1), block.value_bias.flatten())
    return replace(block, key_bias=None, value_bias=None, output_bias=output_bias)


def shifted(bias: Tensor, weight: Tensor, constant: Tensor) -> Tensor:
    """`bias + weight @ constant`, summed in float64: a fold may add thousands of terms."""
    if not constant.any():
        return bias
    used = torch.nonzero(constant).flatten()
    change = weight[:, used].double() @ constant[used].double()
    return (bias.double() + change).to(bias.dtype)
