"""Removes whole attention heads."""

from __future__ import annotations

from exporters.axes import take
from exporters.encoder import Attention, AttentionScores
from exporters.errors import SurgeryError
from prune_export.facts.plan import Indices
from prune_export.surgeon.exactness import exact_for
from prune_export.surgeon.zeros import contributing_dimensions


@exact_for(AttentionScores)
def remove_heads(block: Attention, keep: Indices) -> Attention:
    """Keeps the heads whose original indices are in `keep`. The value bias has to be folded before.

    A head may be removed if each of its value dimensions has a zero row in the value weights or a zero column in the output
    weights: its context then contributes nothing, whatever the scores.

    Raises:
        SurgeryError: a head to be removed contributes to the output.
    """
    assert block.value_bias is None, "fold_value_bias first"
    positions = [position for position, head in enumerate(block.heads) if head in keep]
    if len(positions) == len(block.heads):
        return block
    contributes = contributing_dimensions(block).any(dim=1)
    for position, head in enumerate(block.heads):
        if head not in keep and contributes[position]:
            raise SurgeryError(
                f"head {head} contributes to the output and cannot be removed exactly: expected zeros in its value rows "
                "or its columns of the output projection"
            )
    return take(block, "head", positions)
