"""The terms of scores by the distance of query and key, from tables that are computed when the file is written."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from exporters.distances import Distances, Projection, normalized_embeddings, position_key, position_query, projected
from exporters.encoder import Attention
from exporters.onnx.context import GraphContext


def distance_terms(
    context: GraphContext, block: Attention, query: ir.Value, key: ir.Value, *, first_only: bool
) -> list[ir.Value]:
    """Returns the terms by distance, each `[batch, heads, queries, sequence]` in the matmul type; empty for other scores.

    `query` is `[batch, heads, queries, query_key_size]`, scaled; `key` is `[batch, heads, query_key_size, sequence]`. With
    `first_only` there is one query, the first token.
    """
    scores, builder = block.scores, context.builder
    if not isinstance(scores, Distances) or not scores.terms:
        return []
    index = _index(context, scores, len(block.heads), first_only=first_only)
    terms = []
    if (to_key := position_key(block)) is not None:
        table = _table(context, scores, to_key, "position_key", transposed=True, scale=1.0)
        products = builder.op("MatMul", query, _reached(context, scores, table, axis=2, first_only=first_only))
        terms.append(builder.op("GatherElements", products, index, axis=3))
    if (to_query := position_query(block)) is not None:
        table = _table(context, scores, to_query, "position_query", transposed=False, scale=scores.scale)
        products = builder.op("MatMul", _reached(context, scores, table, axis=1, first_only=first_only), key)
        terms.append(builder.op("GatherElements", products, index, axis=2))
    return terms


def attended_pairs(context: GraphContext, *, first_only: bool) -> ir.Value:
    """Returns which pairs of a query and a key are tokens, not padding: bool `[batch, 1, queries, sequence]`; made once."""
    label = f"attended_pairs_{first_only}"
    if label not in context.shared:
        builder = context.builder
        mask = builder.op("Cast", context.attention_mask, to=int(ir.DataType.BOOL))
        queries = token_mask(context, ir.DataType.BOOL, first_only=first_only)
        keys = builder.op("Unsqueeze", mask, builder.integers(1, 2))
        context.shared[label] = builder.op("And", builder.op("Unsqueeze", queries, builder.integers(1)), keys)
    return context.shared[label]


def token_mask(context: GraphContext, dtype: ir.DataType, *, first_only: bool) -> ir.Value:
    """Returns the attention mask as `[batch, queries, 1]` of type `dtype`; made once."""
    label = f"token_mask_{dtype}_{first_only}"
    if label not in context.shared:
        builder, mask = context.builder, context.attention_mask
        if first_only:
            mask = builder.op("Slice", mask, builder.integers(0), builder.integers(1), builder.integers(1))
        column = builder.op("Unsqueeze", mask, builder.integers(2))
        context.shared[label] = builder.op("Cast", column, to=int(dtype))
    return context.shared[label]


def _table(
    context: GraphContext, scores: Distances, projection: Projection, label: str, *, transposed: bool, scale: float
) -> ir.Value:
    """Returns the rows of all distances in the matmul type.

    They are `[heads, rows, query_key]`, or `[heads, query_key, rows]` where they are transposed.
    """
    norm = () if scores.norm is None else tuple(t for t in (scores.norm.weight, scores.norm.bias) if t is not None)
    weight = projection.weight
    assert scores.embeddings is not None
    sources = [t for t in (weight, projection.bias, scores.embeddings, *norm) if t is not None]
    heads, size, _ = weight.shape
    rows = len(scores.embeddings)
    return context.builder.computed_weight(
        sources,
        label,
        context.precision.matmul,
        (heads, size, rows) if transposed else (heads, rows, size),
        partial(_evaluate_table, scores, projection, transposed, scale),
        label,
        scale,
    )


def _evaluate_table(scores: Distances, projection: Projection, transposed: bool, scale: float) -> Tensor:
    """Computes a table in float64."""
    embeddings = normalized_embeddings(scores, torch.float64)
    table = scale * projected(embeddings, projection)
    return table.transpose(1, 2) if transposed else table


def _rows(context: GraphContext, scores: Distances) -> ir.Value:
    return context.builder.constant(scores.row_of_distance.tolist(), np.int64)


def _ends(context: GraphContext, scores: Distances, *, first_only: bool) -> tuple[ir.Value, ir.Value]:
    """Returns the first row that a sequence of this length reaches, and the one after the last; int64, one element."""
    label = f"distance_ends_{first_only}"
    if label not in context.shared:
        builder, rows = context.builder, _rows(context, scores)
        farthest = builder.op("Sub", context.sequence, builder.integers(1))
        farthest = builder.op("Min", farthest, builder.integers(scores.reach))
        least = builder.op("Gather", rows, builder.op("Sub", builder.integers(scores.reach), farthest))
        most = builder.op("Gather", rows, builder.op("Add", builder.integers(scores.reach), farthest))
        if first_only:  # keys are not before the first token
            most = builder.op("Gather", rows, builder.integers(scores.reach))
        context.shared[label] = least
        context.shared[f"{label}_after"] = builder.op("Add", most, builder.integers(1))
    return context.shared[label], context.shared[f"{label}_after"]


def _reached(context: GraphContext, scores: Distances, table: ir.Value, *, axis: int, first_only: bool) -> ir.Value:
    """Cuts a table to the rows that a sequence of this length reaches."""
    least, after = _ends(context, scores, first_only=first_only)
    return context.builder.op("Slice", table, least, after, context.builder.integers(axis))


def _index(context: GraphContext, scores: Distances, heads: int, *, first_only: bool) -> ir.Value:
    """Returns the row of each pair among the rows that are reached: int32 `[batch, heads, queries, sequence]`.

    It is made once per number of heads: GatherElements does not broadcast.
    """
    builder = context.builder
    label = f"distance_index_{first_only}"
    if label not in context.shared:
        zero, one = builder.constant(0, np.int64), builder.constant(1, np.int64)
        keys = builder.op("Range", zero, builder.op("Squeeze", context.sequence), one)
        queries = builder.integers(0) if first_only else keys
        distances = builder.op(
            "Sub",
            builder.op("Unsqueeze", queries, builder.integers(1)),
            builder.op("Unsqueeze", keys, builder.integers(0)),
        )
        reach = builder.constant(scores.reach, np.int64)
        distances = builder.op("Clip", distances, builder.constant(-scores.reach, np.int64), reach)
        rows = builder.op("Gather", _rows(context, scores), builder.op("Add", distances, reach))
        least, _ = _ends(context, scores, first_only=first_only)
        context.shared[label] = builder.op("Cast", builder.op("Sub", rows, least), to=int(ir.DataType.INT32))
    expanded = f"{label}_{heads}"
    if expanded not in context.shared:
        shape = builder.shape_of(context.batch, heads, 1 if first_only else context.sequence, context.sequence)
        context.shared[expanded] = builder.op("Expand", context.shared[label], shape)
    return context.shared[expanded]
