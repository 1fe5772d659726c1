"""Layouts in which hidden states travel through a graph, and the ways in and out.

* "batch-first": `[batch, sequence, features]`;
* "rows": `[batch * sequence, features]`; with it, ONNX Runtime does not turn Add + LayerNormalization, which is faster on
  CPUs, into its SkipLayerNormalization;
* "packed": `[tokens, features]`, the rows of real tokens only (packing.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir

from exporters.onnx.packing import packed_rows, unpacked

if TYPE_CHECKING:
    from exporters.onnx.context import Context

Layout = Literal["batch-first", "rows", "packed"]


def enter(context: Context, x: ir.Value, width: int) -> ir.Value:
    """`x` `[batch, sequence, width]` in the target's layout."""
    builder = context.builder
    match context.target.layout:
        case "batch-first":
            return x
        case "rows":
            return builder.op("Reshape", x, builder.integers(-1, width))
        case "packed":
            return packed_rows(context, builder.op("Reshape", x, builder.integers(-1, width)))


def leave(context: Context, x: ir.Value, width: int) -> ir.Value:
    """`[batch, sequence, width]` from the target's layout; of padding, "packed" knows nothing and gives zeros."""
    match context.target.layout:
        case "batch-first":
            return x
        case "rows":
            return batch_first(context, x, width)
        case "packed":
            return batch_first(context, unpacked(context, x, width), width)


def batch_first(context: Context, rows: ir.Value, width: int) -> ir.Value:
    """`[batch, sequence, width]` from `[batch * sequence, width]`."""
    builder = context.builder
    label = f"batch_first_{width}"
    if label not in context.shared:
        context.shared[label] = builder.shape_of(-1, context.sequence, width)
    return builder.op("Reshape", rows, context.shared[label])


def first_tokens(context: Context, x: ir.Value, width: int) -> ir.Value:
    """The first token of each sequence: `[batch, 1, width]` for "batch-first", else `[batch, width]`."""
    builder = context.builder
    if context.target.layout == "batch-first":
        return builder.op("Slice", x, builder.integers(0), builder.integers(1), builder.integers(1))
    rows = leave(context, x, width)
    return builder.op("Gather", rows, builder.constant(0, np.int64), axis=1)
