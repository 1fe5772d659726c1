"""Padding removal: hidden states of real tokens only, and what PackedMultiHeadAttention wants to know of them.

Everything follows from the attention mask, so padding may be on either side, or in between. It costs one host
synchronisation a run, since the number of real tokens decides on shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from exporters.onnx.precision import NUMPY_DTYPES

if TYPE_CHECKING:
    from exporters.onnx.context import Context


def packed_rows(context: Context, rows: ir.Value) -> ir.Value:
    """The rows `[tokens, width]` of real tokens out of `[batch * sequence, width]`."""
    return context.builder.op("Gather", rows, _places(context), axis=0)


def unpacked(context: Context, x: ir.Value, width: int) -> ir.Value:
    """`[batch * sequence, width]` from the rows of real tokens, with zeros for padding."""
    builder = context.builder
    count = builder.op("Mul", context.batch, context.sequence)
    zero = builder.constant(0.0, NUMPY_DTYPES[context.precision.accurate])
    zeros = builder.op("Expand", zero, builder.shape_of(count, width))
    return builder.op("ScatterND", zeros, builder.op("Unsqueeze", _places(context), builder.integers(1)), x)


def token_offsets(context: Context) -> ir.Value:
    """int32 `[batch, sequence]`: where each real token stands, then where padding stands, both in a batch padded right.

    PackedMultiHeadAttention has kernels that unpack; they take the first places of a row for its tokens, whatever the
    original padding was.
    """
    if "token_offsets" not in context.shared:
        builder = context.builder
        positions = builder.op(
            "Range", builder.constant(0, np.int64), _scalar(context, context.sequence), _one(context)
        )
        counts = builder.op("ReduceSum", context.attention_mask, builder.integers(1), keepdims=1)  # [batch, 1]
        real = builder.op("Less", positions, counts)  # [batch, sequence]
        places = [_indices(context, real), _indices(context, builder.op("Not", real))]
        offsets = builder.op("Reshape", builder.op("Concat", *places, axis=0), _shape(context))
        context.shared["token_offsets"] = builder.op("Cast", offsets, to=int(ir.DataType.INT32))
    return context.shared["token_offsets"]


def cumulative_lengths(context: Context) -> ir.Value:
    """int32 `[batch + 1]`: 0, then how many real tokens the first rows have together."""
    if "cumulative_lengths" not in context.shared:
        builder = context.builder
        counts = builder.op("ReduceSum", context.attention_mask, builder.integers(1), keepdims=0)
        sums = builder.op("CumSum", counts, builder.constant(0, np.int64))
        sums = builder.op("Concat", builder.integers(0), sums, axis=0)
        context.shared["cumulative_lengths"] = builder.op("Cast", sums, to=int(ir.DataType.INT32))
    return context.shared["cumulative_lengths"]


def _places(context: Context) -> ir.Value:
    """int64 `[tokens]`: the rows of real tokens in `[batch * sequence, …]`."""
    if "token_places" not in context.shared:
        real = context.builder.op("Cast", context.attention_mask, to=int(ir.DataType.BOOL))
        context.shared["token_places"] = _indices(context, real)
    return context.shared["token_places"]


def _indices(context: Context, flags: ir.Value) -> ir.Value:
    """int64: where `flags` `[batch, sequence]` is true, counted over all rows."""
    builder = context.builder
    flat = builder.op("Reshape", flags, builder.integers(-1))
    return builder.op("Squeeze", builder.op("NonZero", flat), builder.integers(0))


def _shape(context: Context) -> ir.Value:
    return context.builder.shape_of(context.batch, context.sequence)


def _scalar(context: Context, vector: ir.Value) -> ir.Value:
    return context.builder.op("Squeeze", vector, context.builder.integers(0))


def _one(context: Context) -> ir.Value:
    return context.builder.constant(1, np.int64)
