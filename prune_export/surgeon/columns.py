"""Columns of a feed-forward block."""

from __future__ import annotations

from dataclasses import replace

import torch

from exporters.axes import take
from exporters.encoder import ACTIVATIONS, FeedForward, Ungated
from exporters.errors import SurgeryError
from prune_export.facts.plan import Indices
from prune_export.surgeon.biases import shifted
from prune_export.surgeon.exactness import exact_for


@exact_for(Ungated)
def remove_columns(block: FeedForward, keep: Indices) -> FeedForward:
    """Keeps the columns in `keep`, possibly none (see `replace_emptied_feed_forward`).

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
    activation = ACTIVATIONS[block.gating.activation]
    constant = torch.where(~stays & reaches, activation(block.up.bias.double()), 0.0)
    bias = shifted(block.down.bias, block.down.weight, constant)
    kept = take(block, "intermediate", torch.nonzero(stays).flatten().tolist())
    return replace(kept, down=replace(kept.down, bias=bias))
