"""Conversions between `[batch, sequence, features]` and the target's layout of hidden states (`Layout`, context.py)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.onnx.context import GraphContext
from exporters.onnx.packing import packed_rows, unpacked


def enter(context: GraphContext, x: ir.Value, width: int) -> ir.Value:
    """Converts `x` `[batch, sequence, width]` to the target's layout."""
    builder = context.builder
    match context.target.layout:
        case "batch-first":
            return x
        case "rows":
            return builder.op("Reshape", x, builder.integers(-1, width))
        case "packed":
            return packed_rows(context, builder.op("Reshape", x, builder.integers(-1, width)))


def leave(context: GraphContext, x: ir.Value, width: int) -> ir.Value:
    """Converts `x` from the target's layout to `[batch, sequence, width]`; "packed" gives zeros for padding."""
    match context.target.layout:
        case "batch-first":
            return x
        case "rows":
            return batch_first(context, x, width)
        case "packed":
            return batch_first(context, unpacked(context, x, width), width)


def batch_first(context: GraphContext, rows: ir.Value, width: int) -> ir.Value:
    """Reshapes `rows` `[batch * sequence, width]` to `[batch, sequence, width]`."""
    builder = context.builder
    label = f"batch_first_{width}"
    if label not in context.shared:
        context.shared[label] = builder.shape_of(-1, context.sequence, width)
    return builder.op("Reshape", rows, context.shared[label])


def first_tokens(context: GraphContext, x: ir.Value, width: int) -> ir.Value:
    """Selects each sequence's first token: `[batch, 1, width]` for "batch-first", `[batch, width]` otherwise."""
    builder = context.builder
    if context.target.layout == "batch-first":
        return builder.op("Slice", x, builder.integers(0), builder.integers(1), builder.integers(1))
    rows = leave(context, x, width)
    return builder.op("Gather", rows, builder.constant(0, np.int64), axis=1)
