"""The bias of attention scores by the distance of query and key."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from torch import Tensor

from exporters.encoder import RelativeBias
from exporters.onnx.context import GraphContext


def relative_bias(
    context: GraphContext, scores: RelativeBias, heads: tuple[int, ...], dtype: ir.DataType, *, first_only: bool
) -> ir.Value:
    """Returns `[1, heads, sequence, sequence]` (`[1, heads, 1, sequence]` for the first query), made once for all layers."""
    label = f"relative_bias_{heads}_{first_only}"
    if label not in context.shared:
        builder = context.builder
        rows = _all_heads(context, scores, dtype, first_only=first_only)
        if heads != tuple(range(scores.table.shape[1])):
            rows = builder.op("Gather", rows, builder.integers(*heads), axis=0)
        context.shared[label] = builder.op("Unsqueeze", rows, builder.integers(0))
    return context.shared[label]


def _all_heads(context: GraphContext, scores: RelativeBias, dtype: ir.DataType, *, first_only: bool) -> ir.Value:
    """Returns the bias of all heads of the original model, `[heads, query, key]`."""
    label = f"relative_bias_{first_only}"
    if label not in context.shared:

        def by_distance(table: Tensor) -> Tensor:
            return table[scores.row_of_distance.to(table.device)].t()

        builder, reach = context.builder, scores.reach
        table = builder.weight(scores.table, "relative_bias", dtype, by_distance)
        zero, one = builder.constant(0, np.int64), builder.constant(1, np.int64)
        keys = builder.op("Range", zero, builder.op("Squeeze", context.sequence), one)
        queries = zero if first_only else builder.op("Unsqueeze", keys, builder.integers(1))
        keys = builder.op("Unsqueeze", keys, builder.integers(0))
        least, most = builder.constant(-reach, np.int64), builder.constant(reach, np.int64)
        distances = builder.op("Clip", builder.op("Sub", queries, keys), least, most)
        context.shared[label] = builder.op("Gather", table, builder.op("Add", distances, most), axis=1)
    return context.shared[label]
