"""Removes columns of a feed-forward block."""

from __future__ import annotations

from dataclasses import replace

import torch

from exporters.axes import take
from exporters.encoder import FeedForward, Gated, Ungated
from exporters.errors import SurgeryError
from prune_export.facts.plan import Indices
from prune_export.surgeon.biases import shifted
from prune_export.surgeon.exactness import exact_for
from prune_export.surgeon.zeros import constant_columns


@exact_for(Ungated, Gated)
def remove_columns(block: FeedForward, keep: Indices) -> FeedForward:
    """Keeps the columns in `keep`, possibly none (see `replace_emptied_feed_forward`).

    A column may be removed in two cases:

    1. Its column of `down` is zero: nothing of it reaches the output.
    2. It is a constant (`constant_columns`), which `down` maps to a shift of its bias.

    Raises:
        SurgeryError: a column to be removed depends on the input and reaches the output.
    """
    if len(keep) == block.columns:
        return block
    is_kept = torch.zeros(block.columns, dtype=torch.bool)
    is_kept[list(keep)] = True
    is_constant, values = constant_columns(block)
    reaches_output = block.down.weight.ne(0).any(dim=0)
    wrong = torch.nonzero(~is_kept & ~is_constant & reaches_output).flatten().tolist()
    if wrong:
        raise SurgeryError(
            f"column {wrong[0]} (and {len(wrong) - 1} more) depends on the input and reaches the output, and cannot be "
            "removed exactly: expected zeros in its row of the up projection (and of the gate) or its column of the down "
            "projection"
        )
    constant = torch.where(~is_kept & reaches_output, values, 0.0)
    bias = shifted(block.down.bias, block.down.weight, constant)
    kept = take(block, "intermediate", torch.nonzero(is_kept).flatten().tolist())
    return replace(kept, down=replace(kept.down, bias=bias))
