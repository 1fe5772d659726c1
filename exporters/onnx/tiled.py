"""Attention whose scores are never held whole: memory grows with the length, not with its square."""

from __future__ import annotations

import onnx_ir as ir

from exporters.encoder import Attention
from exporters.onnx.context import GraphContext
from exporters.onnx.precision import NUMPY_DTYPES


def tiled_attention(
    context: GraphContext, projections: tuple[ir.Value, ir.Value, ir.Value], added: ir.Value, block: Attention
) -> ir.Value:
    """Attends by MultiHeadAttention without an input for the mask, which makes ONNX Runtime compute scores tile by tile.

    On CPUs its kernel of that kind (Dao et al. 2022, "FlashAttention"; contrib_ops/cpu/bert/multihead_attention.cc) takes
    neither mask nor bias. The mask is one more dimension of each head instead: 1 in queries, and in keys what is `added` to
    their scores, `[batch, 1, 1, sequence]`. `projections` are query, key and value `[batch, sequence, width]` in float32.
    """
    builder, heads = context.builder, len(block.heads)
    query, key, value = projections
    label = f"mask_dimension_{heads}"
    if label not in context.shared:
        shape = builder.shape_of(context.batch, context.sequence, heads, 1)
        context.shared[label] = builder.op("Expand", builder.op("Transpose", added, perm=[0, 3, 1, 2]), shape)
        ones = builder.constant(1, NUMPY_DTYPES[context.precision.matmul])
        context.shared[f"{label}_of_queries"] = builder.op("Expand", ones, shape)

    def with_dimension(x: ir.Value, column: ir.Value) -> ir.Value:
        by_head = builder.op("Reshape", x, builder.integers(0, 0, heads, block.query_key_size))
        wider = builder.op("Concat", by_head, column, axis=3)
        return builder.op("Reshape", wider, builder.integers(0, 0, heads * (block.query_key_size + 1)))

    return builder.contrib(
        "MultiHeadAttention",
        with_dimension(query, context.shared[f"{label}_of_queries"]),
        with_dimension(key, context.shared[label]),
        value,
        dtype=context.precision.matmul,
        num_heads=heads,
        scale=1.0,
    )
