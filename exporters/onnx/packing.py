"""Padding removal: the hidden states of real tokens only, and the inputs with which PackedMultiHeadAttention finds them.

Everything follows from the attention mask, so padding may be on either side, or in between. Each run
waits once for the device, because the number of real tokens decides on shapes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.onnx.context import GraphContext
from exporters.onnx.precision import NUMPY_DTYPES


def packed_rows(context: GraphContext, rows: ir.Value) -> ir.Value:
    """Selects the rows `[tokens, width]` of real tokens from `[batch * sequence, width]`."""
    return context.builder.op("Gather", rows, _real_tokens(context), axis=0)


def unpacked(context: GraphContext, x: ir.Value, width: int) -> ir.Value:
    """Scatters the rows of real tokens into `[batch * sequence, width]`, with zeros for padding."""
    builder = context.builder
    count = builder.op("Mul", context.batch, context.sequence)
    zero = builder.constant(0.0, NUMPY_DTYPES[context.precision.residual])
    zeros = builder.op("Expand", zero, builder.shape_of(count, width))
    return builder.op("ScatterND", zeros, builder.op("Unsqueeze", _real_tokens(context), builder.integers(1)), x)


def token_offsets(context: GraphContext) -> ir.Value:
    """Returns int32 `[batch, sequence]`: the indices of real tokens, then those of padding, in a batch padded right.

    PackedMultiHeadAttention has kernels that unpack; they expect the tokens first in each row, however the batch was padded.
    """
    if "token_offsets" not in context.shared:
        builder = context.builder
        positions = builder.op(
            "Range",
            builder.constant(0, np.int64),
            builder.op("Squeeze", context.sequence, builder.integers(0)),
            builder.constant(1, np.int64),
        )
        counts = builder.op("ReduceSum", context.attention_mask, builder.integers(1), keepdims=1)  # [batch, 1]
        real = builder.op("Less", positions, counts)  # [batch, sequence]
        indices = [_indices(context, real), _indices(context, builder.op("Not", real))]
        flat = builder.op("Concat", *indices, axis=0)
        offsets = builder.op("Reshape", flat, builder.shape_of(context.batch, context.sequence))
        context.shared["token_offsets"] = builder.op("Cast", offsets, to=int(ir.DataType.INT32))
    return context.shared["token_offsets"]


def cumulative_lengths(context: GraphContext) -> ir.Value:
    """Returns int32 `[batch + 1]`: 0, then the number of real tokens in the rows up to each row."""
    if "cumulative_lengths" not in context.shared:
        builder = context.builder
        counts = builder.op("ReduceSum", context.attention_mask, builder.integers(1), keepdims=0)
        sums = builder.op("CumSum", counts, builder.constant(0, np.int64))
        sums = builder.op("Concat", builder.integers(0), sums, axis=0)
        context.shared["cumulative_lengths"] = builder.op("Cast", sums, to=int(ir.DataType.INT32))
    return context.shared["cumulative_lengths"]


def _real_tokens(context: GraphContext) -> ir.Value:
    """Returns int64 `[tokens]`: the indices of real tokens in `[batch * sequence, …]`."""
    if "token_places" not in context.shared:
        real = context.builder.op("Cast", context.attention_mask, to=int(ir.DataType.BOOL))
        context.shared["token_places"] = _indices(context, real)
    return context.shared["token_places"]


def _indices(context: GraphContext, flags: ir.Value) -> ir.Value:
    """Returns int64: the indices at which `flags` `[batch, sequence]` is true, counted over all rows."""
    builder = context.builder
    flat = builder.op("Reshape", flags, builder.integers(-1))
    return builder.op("Squeeze", builder.op("NonZero", flat), builder.integers(0))
