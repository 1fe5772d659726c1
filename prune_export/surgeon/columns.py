"""Columns of a feed-forward block."""

from __future__ import annotations

import torch

from exporters.encoder import ACTIVATIONS, FeedForward, Linear
from exporters.errors import SurgeryError
from prune_export.facts.plan import Indices
from prune_export.surgeon.biases import shifted


def remove_columns(block: FeedForward, keep: Indices) -> FeedForward:
    """Keeps the columns in `keep`, possibly none (see `replace_emptied`).

    1. Column of `down` zero: nothing of it reaches the output.
    2. Row of `up` zero: the column is the constant `activation(up_bias)`, and `down` carries that into its bias.

    Raises:
        SurgeryError: a column that depends on the input and reaches the output would go.
    """
    if len(keep) == block.columns:
        return block
    stays = torch.zeros(block.columns, dtype=torch.bool)
    stays[list(keep)] = True
    row_is_zero = ~block.up.weight.ne(0).any(dim=1)
    reaches = block.down.weight.ne(0).any(dim=0)
    wrong = torch.nonzero(~stays & ~row_is_zero & reaches).flatten().tolist()
    if wrong:
        raise SurgeryError(
            f"column {wrong[0]} (and {len(wrong) - 1} more) depends on the input and reaches the output, and cannot be "
            "removed exactly: expected zeros in its row of the up projection or its column of the down projection"
        )
    constant = torch.where(~stays & reaches, ACTIVATIONS[block.activation](block.up.bias.double()), 0.0)
    bias = shifted(block.down.bias, block.down.weight, constant)
    kept = torch.nonzero(stays).flatten()
    return FeedForward(
        up=Linear(block.up.weight[kept], block.up.bias[kept]),
        activation=block.activation,
        down=Linear(block.down.weight[:, kept], bias),
    )
