"""Whole attention heads."""

from __future__ import annotations

from dataclasses import replace

from exporters.encoder import Attention
from exporters.errors import SurgeryError
from prune_export.facts.plan import Indices


def remove_heads(block: Attention, keep: Indices) -> Attention:
    """Keeps the heads whose original indices are in `keep`, at least one; needs folded value biases.

    A head may go if each of its value dimensions has a zero row in the value weights or a zero column in the output
    weights: its context then contributes nothing (its bias is folded already).

    Raises:
        SurgeryError: a head that contributes would go.
    """
    assert block.value_bias is None, "fold_biases first"
    positions = [position for position, head in enumerate(block.heads) if head in keep]
    if len(positions) == len(block.heads):
        return block
    contributes = (block.value_weight.ne(0).any(dim=2) & block.output_weight.ne(0).any(dim=0)).any(dim=1)
    for position, head in enumerate(block.heads):
        if head not in keep and contributes[position]:
            raise SurgeryError(
                f"head {head} contributes to the output and cannot be removed exactly: expected zeros in its value rows "
                "or its columns of the output projection"
            )
    return replace(
        block,
        heads=tuple(block.heads[position] for position in positions),
        query_weight=block.query_weight[positions],
        query_bias=block.query_bias[positions],
        key_weight=block.key_weight[positions],
        key_bias=None if block.key_bias is None else block.key_bias[positions],
        value_weight=block.value_weight[positions],
        output_weight=block.output_weight[:, positions],
    )
