"""Single dimensions inside heads: query/key dimensions, and value dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from exporters.encoder import Attention
from exporters.errors import SurgeryError
from prune_export.facts.plan import Indices


def remove_query_key_dimensions(block: Attention, keep: Mapping[int, Indices]) -> Attention:
    """Keeps, of each head in `keep`, only the query/key dimensions listed there; needs a dropped key bias.

    For each dimension that goes:

    1. key row zero: it adds the same to all scores of a query, which softmax ignores;
    2. query row zero, query bias zero: it adds nothing;
    3. query row zero, query bias not: it adds `query_bias * (key_row · x)` to the scores of a key, whoever asks. All such
       dimensions of a head become one: a query of constant 1 against the sum of those key rows.

    A head whose dimensions all go attends uniformly; it stays, with one dimension of zeros if no head needs more. The
    heads of a block get one common size, the largest that any needs; missing dimensions are zeros, which is exact. The
    attention scale stays that of the original size.

    Raises:
        SurgeryError: a dimension with both a query and a key row would go.
    """
    if not keep:
        return block
    assert block.key_bias is None, "fold_biases first"
    size = block.query_key_size
    query_is_zero = ~block.query_weight.ne(0).any(dim=2)  # [heads, query_key_size]
    key_is_zero = ~block.key_weight.ne(0).any(dim=2)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for position, head in enumerate(block.heads):
        kept = keep.get(head, tuple(range(size)))
        gone = sorted(set(range(size)) - set(kept))
        for dimension in gone:
            if not (query_is_zero[position, dimension] or key_is_zero[position, dimension]):
                raise SurgeryError(
                    f"head {head}: query/key dimension {dimension} has both a query and a key row, and cannot be "
                    "removed exactly"
                )
        rows = list(kept)
        query_weight, query_bias = block.query_weight[position, rows], block.query_bias[position, rows]
        key_weight = block.key_weight[position, rows]
        constant = [
            dimension
            for dimension in gone
            if not key_is_zero[position, dimension] and block.query_bias[position, dimension] != 0
        ]
        if constant:
            weights = block.query_bias[position, constant].double()
            merged = (weights @ block.key_weight[position, constant].double()).to(key_weight.dtype)
            query_weight = torch.cat([query_weight, torch.zeros_like(merged)[None]])
            query_bias = torch.cat([query_bias, query_bias.new_ones(1)])
            key_weight = torch.cat([key_weight, merged[None]])
        parts.append((query_weight, query_bias, key_weight))
    common = max(1, max(len(bias) for _, bias, _ in parts))
    if common == size:
        return block
    return replace(
        block,
        query_weight=torch.stack([_grown(weight, common) for weight, _, _ in parts]),
        query_bias=torch.stack([_grown(bias, common) for _, bias, _ in parts]),
        key_weight=torch.stack([_grown(weight, common) for _, _, weight in parts]),
    )


def remove_value_dimensions(block: Attention, keep: Mapping[int, Indices]) -> Attention:
    """Keeps, of each head in `keep`, only the value dimensions listed there; needs folded value biases.

    A dimension may go if its row of the value weights or its column of the output weights is zero. The heads of a block
    get one common size, the largest that any needs; missing dimensions are zeros.

    Raises:
        SurgeryError: a dimension that contributes would go.
    """
    if not keep:
        return block
    assert block.value_bias is None, "fold_biases first"
    size = block.value_size
    contributes = block.value_weight.ne(0).any(dim=2) & block.output_weight.ne(0).any(dim=0)  # [heads, value_size]
    values: list[Tensor] = []
    outputs: list[Tensor] = []
    for position, head in enumerate(block.heads):
        kept = list(keep.get(head, tuple(range(size))))
        for dimension in set(range(size)) - set(kept):
            if contributes[position, dimension]:
                raise SurgeryError(
                    f"head {head}: value dimension {dimension} contributes to the output and cannot be removed exactly"
                )
        values.append(block.value_weight[position, kept])
        outputs.append(block.output_weight[:, position, kept].t())
    common = max(1, max(len(value) for value in values))
    if common == size:
        return block
    return replace(
        block,
        value_weight=torch.stack([_grown(value, common) for value in values]),
        output_weight=torch.stack([_grown(output, common) for output in outputs]).permute(2, 0, 1).contiguous(),
    )


def _grown(rows: Tensor, count: int) -> Tensor:
    """`rows` with zeros appended along the first dimension up to `count`."""
    return torch.cat([rows, rows.new_zeros(count - rows.shape[0], *rows.shape[1:])])
