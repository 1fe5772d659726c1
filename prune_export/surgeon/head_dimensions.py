"""Removes single dimensions inside heads: query/key dimensions, and value dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from exporters.axes import concatenate, pad, sizes_of, take
from exporters.encoder import Attention, AttentionScores, ContentScores
from exporters.errors import SurgeryError
from prune_export.facts.plan import Indices
from prune_export.surgeon.exactness import exact_for
from prune_export.surgeon.zeros import contributing_dimensions, scoring_dimensions


@exact_for(ContentScores)
def remove_query_key_dimensions(block: Attention, keep: Mapping[int, Indices]) -> Attention:
    """Keeps, of each head in `keep`, only the query/key dimensions listed there. The key bias has to be dropped before.

    A dimension may be removed in three cases:

    1. Its key row is zero: it adds the same to all scores of a query, which softmax ignores.
    2. Its query row and query bias are zero: it adds nothing.
    3. Its query row is zero, its query bias is not: it adds `query_bias * (key_row · x)` to the scores of a key, for every
       query. All such dimensions of a head become one: a query of constant 1 against the sum of those key rows.

    A head that loses all dimensions attends uniformly, or by distance alone where the scores have such a bias. It is kept,
    with one dimension of zeros if no head needs more. The heads of a block get one common size, the largest that any needs;
    missing dimensions are zeros, which is exact. The attention scale remains that of the original size.

    Raises:
        SurgeryError: a dimension to be removed has both a query and a key row.
    """
    if not keep:
        return block
    assert block.key_bias is None, "drop_key_bias first"
    scoring = scoring_dimensions(block)
    heads = []
    for position in range(len(block.heads)):
        kept, removed = split_dimensions(block, scoring, position, keep)
        heads.append(_with_constant_query(kept, removed))
    return with_common_size(block, heads, "query_key")


def split_dimensions(
    block: Attention, scoring: Tensor, position: int, keep: Mapping[int, Indices]
) -> tuple[Attention, Attention]:
    """Returns the head at `position` with the query/key dimensions that it keeps, and with those that it loses.

    Raises:
        SurgeryError: one of the latter is `scoring`, bool `[heads, query_key]`.
    """
    head, alone = block.heads[position], take(block, "head", [position])
    kept = keep.get(head, tuple(range(block.query_key_size)))
    removed = sorted(set(range(block.query_key_size)) - set(kept))
    for dimension in removed:
        if scoring[position, dimension]:
            raise SurgeryError(
                f"head {head}: query/key dimension {dimension} has both a query and a key row, and cannot be "
                "removed exactly"
            )
    return take(alone, "query_key", kept), take(alone, "query_key", removed)


def _with_constant_query(kept: Attention, removed: Attention) -> Attention:
    """Returns a single head with case 3 applied to its removed dimensions; tensors are `[1, dimensions, …]`."""
    if kept.query_bias is None or removed.query_bias is None:
        return kept
    constant = removed.query_bias[0].ne(0) & removed.key_weight[0].ne(0).any(dim=1)
    if not constant.any():
        return kept
    weights = removed.query_bias[0, constant].double()
    merged = (weights @ removed.key_weight[0, constant].double()).to(kept.key_weight.dtype)[None, None]
    return replace(
        kept,
        query_weight=torch.cat([kept.query_weight, torch.zeros_like(merged)], dim=1),
        query_bias=torch.cat([kept.query_bias, kept.query_bias.new_ones(1, 1)], dim=1),
        key_weight=torch.cat([kept.key_weight, merged], dim=1),
    )


@exact_for(AttentionScores)
def remove_value_dimensions(block: Attention, keep: Mapping[int, Indices]) -> Attention:
    """Keeps, of each head in `keep`, only the value dimensions listed there. The value bias has to be folded before.

    A dimension may be removed if its row of the value weights or its column of the output weights is zero, whatever the
    scores. The heads of a block get one common size, the largest that any needs; missing dimensions are zeros.

    Raises:
        SurgeryError: a dimension to be removed contributes to the output.
    """
    if not keep:
        return block
    assert block.value_bias is None, "fold_value_bias first"
    contributing = contributing_dimensions(block)
    heads = []
    for position, head in enumerate(block.heads):
        kept = keep.get(head, tuple(range(block.value_size)))
        for dimension in set(range(block.value_size)) - set(kept):
            if contributing[position, dimension]:
                raise SurgeryError(
                    f"head {head}: value dimension {dimension} contributes to the output and cannot be removed exactly"
                )
        heads.append(take(take(block, "head", [position]), "value", kept))
    return with_common_size(block, heads, "value")


def with_common_size(block: Attention, heads: list[Attention], axis: str) -> Attention:
    """Returns the heads as one block, padded to the largest size along `axis`; `block` itself where that has not changed."""
    common = max(1, *(sizes_of(head)[axis] for head in heads))
    if common == sizes_of(block)[axis]:
        return block
    return concatenate([pad(head, axis, common) for head in heads], "head")
