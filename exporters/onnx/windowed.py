"""Attention in blocks of queries, for scores with a window: time and memory grow with the length, not with its square."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.encoder import Attention
from exporters.onnx.context import GraphContext
from exporters.onnx.precision import NUMPY_DTYPES


def is_long(context: GraphContext, window: int) -> ir.Value:
    """Returns whether blocks are worth their copies: a bool scalar, made once.

    Measured on CPUs with windows of 64: at 256 tokens they cost a seventh more, at 384 a quarter less.
    """
    builder, label = context.builder, f"is_long_{window}"
    if label not in context.shared:
        length = builder.op("Squeeze", context.sequence)
        context.shared[label] = builder.op("Greater", length, builder.constant(5 * window, np.int64))
    return context.shared[label]


def blocked_attention(
    context: GraphContext,
    projections: tuple[ir.Value, ir.Value, ir.Value],
    bias: ir.Value,
    block: Attention,
    window: int,
) -> ir.Value:
    """Attends by MultiHeadAttention, block by block: each of 2 * window queries, with the 4 * window keys that they can see.

    `projections` are query, key and value `[batch, sequence, width]`, `bias` is `block_bias`. The length is padded to whole
    blocks, and keys and values by a window on either side.
    """
    builder, heads = context.builder, len(block.heads)
    query, key, value = projections
    width, value_width = heads * block.query_key_size, heads * block.value_size
    pads = builder.op("Concat", builder.integers(0, 0, 0, 0), _ends(context, 2 * window), builder.integers(0), axis=0)
    queries = builder.op("Reshape", builder.op("Pad", query, pads), builder.integers(-1, 2 * window, width))
    contexts = builder.contrib(
        "MultiHeadAttention",
        queries,
        _neighbourhoods(context, key, width, window),
        _neighbourhoods(context, value, value_width, window),
        None,
        None,
        bias,
        dtype=context.precision.matmul,
        num_heads=heads,
        scale=1.0,
    )
    contexts = builder.op("Reshape", contexts, builder.shape_of(context.batch, -1, value_width))
    return builder.op("Slice", contexts, builder.integers(0), context.sequence, builder.integers(1))


def _ends(context: GraphContext, block: int) -> ir.Value:
    """Returns how many positions the last block lacks: int64, one element."""
    builder = context.builder
    size = builder.integers(block)
    return builder.op("Mod", builder.op("Sub", size, builder.op("Mod", context.sequence, size)), size)


def _neighbourhoods(context: GraphContext, x: ir.Value, width: int, window: int) -> ir.Value:
    """Returns the positions within and around each block: `[batch * blocks, 4 * window, width]` of `x` `[…, width]`."""
    builder = context.builder
    around = builder.op("Add", _ends(context, 2 * window), builder.integers(window))
    pads = builder.op("Concat", builder.integers(0, window, 0, 0), around, builder.integers(0), axis=0)
    halves = builder.op("Reshape", builder.op("Pad", x, pads), builder.shape_of(context.batch, -1, 2 * window, width))
    axis = builder.integers(1)
    first = builder.op("Slice", halves, builder.integers(0), builder.integers(-1), axis)
    second = builder.op("Slice", halves, axis, builder.integers(np.iinfo(np.int64).max), axis)
    return builder.op("Reshape", builder.op("Concat", first, second, axis=2), builder.integers(-1, 4 * window, width))


def block_bias(context: GraphContext, window: int) -> ir.Value:
    """Returns 0 for keys that a query sees and the least number for others: `[batch * blocks, 1, 2 * window, 4 * window]`.

    A query sees the attended keys at most `window` positions away, and itself (see `visible_keys`).
    """
    builder, number = context.builder, NUMPY_DTYPES[context.precision.matmul]
    away = np.arange(4 * window) - window - np.arange(2 * window)[:, None]
    attended = builder.op("Cast", context.attention_mask, to=int(context.precision.matmul))
    rows = _neighbourhoods(context, builder.op("Unsqueeze", attended, builder.integers(2)), 1, window)
    rows = builder.op(
        "Greater", builder.op("Reshape", rows, builder.integers(-1, 1, 1, 4 * window)), builder.constant(0, number)
    )
    seen = builder.op(
        "And",
        builder.constant(np.abs(away) <= window, np.bool_),
        builder.op("Or", rows, builder.constant(away == 0, np.bool_)),
    )
    return builder.op("Where", seen, builder.constant(0, number), builder.constant(np.finfo(number).min, number))
