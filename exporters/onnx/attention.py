"""Attention, in the forms that targets choose from.

Each form takes the block's input `x` in the matmul type and the target's layout, and returns the heads' contexts side
by side, `[..., heads * value_size]`, in the matmul type. `queries` are the hidden states at the query positions, in the
same layout: `x` itself, or its first tokens. The attention scale is multiplied into the query weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from exporters.distances import Distances
from exporters.encoder import Attention, RelativeBias, Rotary
from exporters.onnx.builder import transposed
from exporters.onnx.context import GraphContext
from exporters.onnx.distances import attended_pairs, distance_terms, token_mask
from exporters.onnx.layout import batch_first
from exporters.onnx.linear import add_bias, project
from exporters.onnx.packing import cumulative_lengths, token_offsets
from exporters.onnx.precision import NUMPY_DTYPES
from exporters.onnx.quantized import quantized_input, quantized_matrix, weight_scales
from exporters.onnx.relative_bias import relative_bias
from exporters.onnx.rotary import rotated, window_bias
from exporters.onnx.tiled import tiled_attention
from exporters.onnx.windowed import block_bias, blocked_attention, is_long

# What Hugging Face adds to the scores of masked positions: the most negative float32.
MASKED = float(np.finfo(np.float32).min)


def _project(
    context: GraphContext, x: ir.Value, queries: ir.Value, block: Attention
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Projects to query (scaled), key and value, each `[..., heads * size]`; with rotary scores `[batch, sequence, …]`."""

    def projected(label: str, x: ir.Value, weight: Tensor, bias: Tensor | None, scale: float = 1.0) -> ir.Value:
        product = project(context, x, weight.flatten(0, 1), label, constant_scale=scale)
        return product if bias is None else add_bias(context, product, bias.flatten(), label, constant_scale=scale)

    query = projected("query", queries, block.query_weight, block.query_bias, block.scores.scale)
    key = projected("key", x, block.key_weight, block.key_bias)
    value = projected("value", x, block.value_weight, block.value_bias)
    if isinstance(block.scores, Rotary):
        if context.target.layout == "rows":
            width = len(block.heads) * block.query_key_size
            key = batch_first(context, key, width)
            value = batch_first(context, value, len(block.heads) * block.value_size)
            query = batch_first(context, query, width) if queries is x else query
        key = rotated(context, key, block, block.scores)
        if queries is x:  # the angles of the first token are zero
            query = rotated(context, query, block, block.scores)
    return query, key, value


def additive_mask(context: GraphContext) -> ir.Value:
    """Returns `[batch, 1, 1, sequence]`: 0 at attended positions, the most negative float32 elsewhere; made once."""
    if "additive_mask" not in context.shared:
        builder = context.builder
        mask = builder.cast(context.attention_mask, ir.DataType.INT64, context.precision.residual)
        absent = builder.op("Sub", builder.constant(1.0, np.float32), mask)
        rows = builder.op("Mul", absent, builder.constant(MASKED, np.float32))
        context.shared["additive_mask"] = builder.op("Unsqueeze", rows, builder.integers(1, 2))
    return context.shared["additive_mask"]


def _added_to_scores(context: GraphContext, block: Attention, *, first_only: bool) -> ir.Value:
    """Returns what is added to the scores in the residual type, the mask included."""
    if isinstance(block.scores, Rotary) and block.scores.window is not None:
        least = np.finfo(NUMPY_DTYPES[context.precision.residual]).min
        return window_bias(context, block.scores.window, least, context.precision.residual, first_only=first_only)
    if isinstance(block.scores, Distances):
        return _mask_of_pairs(context, first_only=first_only)
    mask = additive_mask(context)
    if not isinstance(block.scores, RelativeBias):
        return mask
    label = f"added_to_scores_{block.heads}_{first_only}"
    if label not in context.shared:
        bias = relative_bias(context, block.scores, block.heads, context.precision.residual, first_only=first_only)
        context.shared[label] = context.builder.op("Add", bias, mask)
    return context.shared[label]


def _mask_of_pairs(context: GraphContext, *, first_only: bool) -> ir.Value:
    """Returns `[batch, 1, queries, sequence]`: 0 at pairs of tokens, the most negative float32 elsewhere; made once.

    Scores are far too small to be seen beside that number: a query of padding attends to all tokens alike.
    """
    label = f"mask_of_pairs_{first_only}"
    if label not in context.shared:
        builder, pairs = context.builder, attended_pairs(context, first_only=first_only)
        zero, least = builder.constant(0, np.float32), builder.constant(MASKED, np.float32)
        context.shared[label] = builder.op("Where", pairs, zero, least)
    return context.shared[label]


def plain_attention(context: GraphContext, x: ir.Value, queries: ir.Value, block: Attention) -> ir.Value:
    """Attends by matrix products, Softmax and an added mask: ai.onnx operations only; layout "batch-first" or "rows"."""
    builder, heads = context.builder, len(block.heads)
    rows = context.target.layout == "rows"
    query, key, value = _project(context, x, queries, block)

    def split(joined: ir.Value, size: int, perm: list[int], *, first_only: bool = False) -> ir.Value:
        label = f"split_{heads}_{size}_{first_only}"
        if label not in context.shared:
            leading = (-1, 1 if first_only else context.sequence) if rows else (0, -1)
            context.shared[label] = builder.shape_of(*leading, heads, size)
        return builder.op("Transpose", builder.op("Reshape", joined, context.shared[label]), perm=perm)

    by_head, by_head_transposed = [0, 2, 1, 3], [0, 2, 3, 1]
    # [batch, heads, sequence, query_key_size]; with one query position, the first "sequence" below is 1
    query = split(query, block.query_key_size, by_head, first_only=queries is not x)
    key = split(key, block.query_key_size, by_head_transposed)  # [batch, heads, query_key_size, sequence]
    value = split(value, block.value_size, by_head)  # [batch, heads, sequence, value_size]
    scores = context.to_residual(builder.op("MatMul", query, key))  # [batch, heads, sequence, sequence]
    for term in distance_terms(context, block, query, key, first_only=queries is not x):
        scores = builder.op("Add", scores, context.to_residual(term))
    scores = builder.op("Add", scores, _added_to_scores(context, block, first_only=queries is not x))
    weights = context.to_matmul(builder.op("Softmax", scores, axis=-1))
    contexts = builder.op("Transpose", builder.op("MatMul", weights, value), perm=by_head)
    width = heads * block.value_size
    return builder.op("Reshape", contexts, builder.integers(-1, width) if rows else builder.integers(0, -1, width))


def fused_attention(context: GraphContext, x: ir.Value, queries: ir.Value, block: Attention) -> ir.Value:
    """Attends by ONNX Runtime's Attention, or QAttention if all three projections are in dynamic 8 bits; layout "rows".

    One operation multiplies with query, key and value weights side by side, splits heads and attends. It covers neither
    other queries than `x`, nor some projections in 8 bits, 8 bits by fixed ranges or 16 bits, nor 8 bits with a bias of
    scores, nor terms by distance, which need the projections: `plain_attention` does then. Rotary scores take
    MultiHeadAttention.
    """
    if isinstance(block.scores, Rotary) and queries is x and context.precision.matmul == ir.DataType.FLOAT:
        contexts = _rotary_attention(context, x, block, block.scores.window)
        width = len(block.heads) * block.value_size
        return context.builder.op("Reshape", contexts, context.builder.integers(-1, width))
    quantized = {context.quantizes(label) for label in ("query", "key", "value")}
    static = context.quantization is not None and context.quantization.ranges is not None
    observed = context.observed is not None
    fp32 = context.precision.matmul == ir.DataType.FLOAT
    # All that QAttention takes.
    suits_integers = block.query_key_size == block.value_size and not isinstance(block.scores, RelativeBias)
    if (
        queries is not x
        or isinstance(block.scores, Distances)
        or len(quantized) > 1
        or observed
        or not fp32
        or (True in quantized and (static or not suits_integers))
    ):
        return plain_attention(context, x, queries, block)
    builder, heads = context.builder, len(block.heads)
    width, query_key_width = heads * block.value_size, heads * block.query_key_size
    weights = [
        (block.query_weight.flatten(0, 1), block.scores.scale),
        (block.key_weight.flatten(0, 1), 1.0),
        (block.value_weight.flatten(0, 1), 1.0),
    ]
    biases = [
        (_or_zeros(block.query_bias, query_key_width), block.scores.scale),
        (_or_zeros(block.key_bias, query_key_width), 1.0),
        (_or_zeros(block.value_bias, width), 1.0),
    ]
    bias = builder.joined_weight(biases, "query_key_value.bias", ir.DataType.FLOAT)
    attributes = {"num_heads": heads, "scale": 1.0, "mask_filter_value": MASKED}
    if True in quantized:
        contexts = _integer_attention(context, x, weights, bias, attributes)
    else:
        distances: list[ir.Value | None] = []
        if isinstance(block.scores, RelativeBias):
            distances = [
                None,  # the past
                relative_bias(context, block.scores, block.heads, ir.DataType.FLOAT, first_only=False),
            ]
        contexts = builder.contrib(
            "Attention",
            batch_first(context, x, block.query_weight.shape[2]),
            builder.joined_weight(weights, "query_key_value.weight", ir.DataType.FLOAT, transposed),
            bias,
            _integer_mask(context),
            *distances,
            dtype=ir.DataType.FLOAT,
            qkv_hidden_sizes=[query_key_width, query_key_width, width],
            **attributes,
        )
    return builder.op("Reshape", contexts, builder.integers(-1, width))


def _rotary_attention(context: GraphContext, x: ir.Value, block: Attention, window: int | None) -> ir.Value:
    """Attends by MultiHeadAttention: tile by tile, or where there is a window, long sequences in blocks."""
    projections, heads = _project(context, x, x, block), len(block.heads)
    if window is None:
        return tiled_attention(context, projections, additive_mask(context), block)
    builder, dtype, by_block = context.builder, context.precision.matmul, is_long(context, window)
    label = f"bias_of_windows_{window}"
    if label not in context.shared:
        context.shared[label] = builder.conditional(
            by_block,
            lambda: block_bias(context.branch(), window),
            lambda: _attention_bias(context.branch(), block, first_only=False),
            dtype,
        )
    bias = context.shared[label]

    return builder.conditional(
        by_block,
        lambda: blocked_attention(context.branch(), projections, bias, block, window),
        lambda: _multi_head_attention(context.branch(), projections, bias, heads),
        dtype,
    )


def _integer_attention(
    context: GraphContext,
    x: ir.Value,
    weights: Sequence[tuple[Tensor, float]],
    bias: ir.Value,
    attributes: Mapping[str, int | float],
) -> ir.Value:
    """Adds one QAttention, whose three projections must be of one size."""
    builder = context.builder
    integers, scale, zero = quantized_input(context, x)
    matrix = builder.joined_weight(weights, "query_key_value.weight_int8", ir.DataType.INT8, quantized_matrix)
    scales = builder.joined_weight(weights, "query_key_value.weight_scale", ir.DataType.FLOAT, weight_scales)
    return builder.contrib(
        "QAttention",
        batch_first(context, integers, weights[0][0].shape[1]),
        matrix,
        bias,
        scale,
        scales,
        _integer_mask(context),
        zero,
        dtype=ir.DataType.FLOAT,
        **attributes,
    )


def _integer_mask(context: GraphContext) -> ir.Value:
    """Returns the attention mask as int32 `[batch, sequence]`; made once."""
    if "integer_mask" not in context.shared:
        context.shared["integer_mask"] = context.builder.op("Cast", context.attention_mask, to=int(ir.DataType.INT32))
    return context.shared["integer_mask"]


def _or_zeros(bias: Tensor | None, width: int) -> Tensor:
    return _zeros(width) if bias is None else bias.flatten()


@cache
def _zeros(width: int) -> Tensor:
    """Returns zeros in always the same memory, so that layers that share their weights share these, too."""
    return torch.zeros(width)


def multi_head_attention(context: GraphContext, x: ir.Value, queries: ir.Value, block: Attention) -> ir.Value:
    """Attends by one MultiHeadAttention; `x` is `[batch, sequence, hidden]`.

    The mask is an additive bias, which is right for padding on either side and leaves ONNX Runtime its fused CUDA kernels
    (contrib_ops/cuda/bert/multihead_attention.cc): cuDNN's if the session allows it, CUTLASS's memory-efficient one if the
    length is a multiple of 8 in fp16, of 16 in fp32. A `[batch, sequence]` key_padding_mask would leave neither.
    The kernels keep softmax in fp32.
    """
    query, key, value = _project(context, x, queries, block)
    first_only = queries is not x
    if isinstance(block.scores, Distances):
        # A query of zeros, whose scores are all the same bias, attends to all tokens alike.
        query = context.builder.op("Mul", query, token_mask(context, context.precision.matmul, first_only=first_only))
        bias = _bias_by_distance(context, block, query, key, first_only=first_only)
    else:
        bias = _attention_bias(context, block, first_only=first_only)
    return _multi_head_attention(context, (query, key, value), bias, len(block.heads))


def _multi_head_attention(
    context: GraphContext, projections: tuple[ir.Value, ir.Value, ir.Value], bias: ir.Value, heads: int
) -> ir.Value:
    dtype = context.precision.matmul
    return context.builder.contrib(
        "MultiHeadAttention", *projections, None, None, bias, dtype=dtype, num_heads=heads, scale=1.0
    )


def _bias_by_distance(
    context: GraphContext, block: Attention, query: ir.Value, key: ir.Value, *, first_only: bool
) -> ir.Value:
    """Returns the terms by distance in the matmul type, and half of its least number at padding; the heads' are joined.

    That is `[batch, heads, queries, sequence]`. Half of the number cannot become infinite in fp16 when scores are added.
    """
    builder, number = context.builder, NUMPY_DTYPES[context.precision.matmul]

    def split(joined: ir.Value, perm: list[int]) -> ir.Value:
        shape = builder.integers(0, -1, len(block.heads), block.query_key_size)
        return builder.op("Transpose", builder.op("Reshape", joined, shape), perm=perm)

    terms = distance_terms(context, block, split(query, [0, 2, 1, 3]), split(key, [0, 2, 3, 1]), first_only=first_only)
    bias = builder.constant(0, number)
    for index, term in enumerate(terms):
        bias = builder.op("Add", bias, term) if index else term
    least = builder.constant(np.finfo(number).min / 2, number)
    return builder.op("Where", attended_pairs(context, first_only=first_only), bias, least)


def packed_multi_head_attention(context: GraphContext, x: ir.Value, queries: ir.Value, block: Attention) -> ir.Value:
    """Attends by one PackedMultiHeadAttention, which computes nothing for padding; layout "packed"."""
    del queries  # every token is a query position
    return context.builder.contrib(
        "PackedMultiHeadAttention",
        *_project(context, x, x, block),
        None,
        token_offsets(context),
        cumulative_lengths(context),
        dtype=context.precision.matmul,
        num_heads=len(block.heads),
        scale=1.0,
    )


def _attention_bias(context: GraphContext, block: Attention, *, first_only: bool) -> ir.Value:
    """Returns what is added to the scores in the matmul type, made once for all layers with the same heads.

    That is the mask, `[batch, 1, queries, sequence]`, and the bias by distance where there is one, `[batch, heads, queries,
    sequence]`; with `first_only` there is one query.
    """
    builder, dtype = context.builder, context.precision.matmul
    if isinstance(block.scores, Rotary) and block.scores.window is not None:
        least = np.finfo(NUMPY_DTYPES[dtype]).min
        return window_bias(context, block.scores.window, least, dtype, first_only=first_only)
    if not isinstance(block.scores, RelativeBias):
        return _masked_bias(context, np.finfo(NUMPY_DTYPES[dtype]).min, first_only=first_only)
    label = f"attention_bias_{block.heads}_{first_only}"
    if label not in context.shared:
        # Half of the least number in fp16: the sum must not become infinite either.
        least = np.finfo(NUMPY_DTYPES[dtype]).min / 2
        bias = relative_bias(context, block.scores, block.heads, dtype, first_only=first_only)
        context.shared[label] = builder.op("Add", bias, _masked_bias(context, least, first_only=first_only))
    return context.shared[label]


def _masked_bias(context: GraphContext, least: np.floating[Any], *, first_only: bool) -> ir.Value:
    """Returns `[batch, 1, sequence, sequence]` (`[batch, 1, 1, sequence]` for one query) in the matmul type; made once.

    It is 0 at attended positions, and `least` elsewhere, finite in the type: fp16 must not become infinite.
    """
    builder, dtype = context.builder, context.precision.matmul
    label = f"masked_bias_{least}_{first_only}"
    if label not in context.shared:
        number = NUMPY_DTYPES[dtype]
        most_negative = builder.constant(least, number)
        absent = builder.op(
            "Sub", builder.constant(1.0, number), builder.cast(context.attention_mask, ir.DataType.INT64, dtype)
        )
        rows = builder.op("Unsqueeze", builder.op("Mul", absent, most_negative), builder.integers(1, 2))
        if not first_only:
            shape = builder.shape_of(context.batch, 1, context.sequence, context.sequence)
            rows = builder.op("Expand", rows, shape)
        context.shared[label] = rows
    return context.shared[label]
