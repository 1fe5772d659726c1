"""Rotary scores: the rotation of queries and keys, and which keys a query sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from exporters.encoder import Attention, Rotary
from exporters.onnx.context import GraphContext
from exporters.onnx.precision import NUMPY_DTYPES
from exporters.rotary import pairs_of


def rotated(context: GraphContext, x: ir.Value, block: Attention, scores: Rotary) -> ir.Value:
    """Rotates `x` `[batch, sequence, heads * query_key_size]`, in the matmul type.

    ONNX Runtime's RotaryEmbedding does where the target has it and all heads have the same pairs.
    """
    pairs = pairs_of(block)
    if context.target.rotary_embedding and len(set(pairs)) == 1:
        builder, dtype = context.builder, context.precision.matmul
        return builder.contrib(
            "RotaryEmbedding",
            x,
            builder.integers(0),
            *(_table(context, scores, function, pairs[0]) for function in (torch.cos, torch.sin)),
            dtype=dtype,
            num_heads=len(pairs),
        )
    return _plain(context, x, scores, pairs)


def _plain(context: GraphContext, x: ir.Value, scores: Rotary, pairs: tuple[tuple[int, ...], ...]) -> ir.Value:
    builder, heads, half = context.builder, len(pairs), len(pairs[0])
    cosine, sine = (_by_head(context, scores, function, pairs) for function in (torch.cos, torch.sin))
    by_pair = builder.op("Reshape", x, builder.integers(0, 0, heads, 2 * half))
    sizes = builder.integers(half, half)
    first, second = builder.op_outputs("Split", by_pair, sizes, count=2, axis=3)  # [batch, sequence, heads, pairs]
    turned = [
        builder.op("Sub", builder.op("Mul", first, cosine), builder.op("Mul", second, sine)),
        builder.op("Add", builder.op("Mul", second, cosine), builder.op("Mul", first, sine)),
    ]
    return builder.op("Reshape", builder.op("Concat", *turned, axis=3), builder.integers(0, 0, 2 * heads * half))


def _by_head(
    context: GraphContext, scores: Rotary, function: Callable[[Tensor], Tensor], pairs: tuple[tuple[int, ...], ...]
) -> ir.Value:
    """Returns the cosines or sines, made once: `[sequence, heads, pairs]`, or one row for all heads that are alike."""
    builder = context.builder
    label = f"{function.__name__}_{scores.frequencies.data_ptr()}_{pairs}"
    if label not in context.shared:
        alike = len(set(pairs)) == 1
        table = _table(context, scores, function, pairs[0] if alike else tuple(range(len(scores.frequencies))))
        rows = builder.op("Slice", table, builder.integers(0), context.sequence, builder.integers(0))
        if alike:
            rows = builder.op("Unsqueeze", rows, builder.integers(1))
        else:
            rows = builder.op("Gather", rows, builder.constant(pairs, np.int64), axis=1)
        context.shared[label] = rows
    return context.shared[label]


def _table(
    context: GraphContext, scores: Rotary, function: Callable[[Tensor], Tensor], pairs: tuple[int, ...]
) -> ir.Value:
    """Returns the cosines or sines of all positions, `[max_length, pairs]`; angles are float32, as in transformers."""

    def values(frequencies: Tensor) -> Tensor:
        positions = torch.arange(context.max_length, dtype=torch.float32, device=frequencies.device)
        return function(positions[:, None] * frequencies[list(pairs)])

    label = f"{function.__name__}_table_{scores.frequencies.data_ptr()}_{pairs}"
    if label not in context.shared:
        context.shared[label] = context.builder.weight(
            scores.frequencies, f"rotary.{function.__name__}", context.precision.matmul, values
        )
    return context.shared[label]


def visible_keys(context: GraphContext, window: int, *, first_only: bool) -> ir.Value:
    """Returns which keys a query sees, bool `[batch, 1, queries, sequence]`; made once.

    Those are the attended ones at most `window` positions away, and its own, so that no row is empty: the row of a padded
    query could otherwise become NaN in fp16, and so could all rows that multiply it by zero.
    """
    builder = context.builder
    label = f"visible_keys_{window}_{first_only}"
    if label not in context.shared:
        zero, one = builder.constant(0, np.int64), builder.constant(1, np.int64)
        keys = builder.op("Range", zero, builder.op("Squeeze", context.sequence), one)
        queries = zero if first_only else builder.op("Unsqueeze", keys, builder.integers(1))
        distances = builder.op("Abs", builder.op("Sub", queries, builder.op("Unsqueeze", keys, builder.integers(0))))
        near = builder.op("Less", distances, builder.constant(window + 1, np.int64))
        itself = builder.op("Equal", distances, zero)
        attended = builder.op("Cast", context.attention_mask, to=int(ir.DataType.BOOL))
        attended = builder.op("Unsqueeze", attended, builder.integers(1, 2))
        context.shared[label] = builder.op("And", near, builder.op("Or", attended, itself))
    return context.shared[label]


def window_bias(
    context: GraphContext, window: int, least: np.floating[Any], dtype: ir.DataType, *, first_only: bool
) -> ir.Value:
    """Returns 0 for keys that a query sees and `least` for others, `[batch, 1, queries, sequence]`; made once."""
    label = f"window_bias_{window}_{least}_{dtype}_{first_only}"
    if label not in context.shared:
        number = NUMPY_DTYPES[dtype]
        context.shared[label] = context.builder.op(
            "Where",
            visible_keys(context, window, first_only=first_only),
            context.builder.constant(0.0, number),
            context.builder.constant(least, number),
        )
    return context.shared[label]
