"""Writes an Encoder as Hugging Face weights of full size: removed units become zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from exporters.axes import axes_of, fill_missing, leaves, pad, scatter, sizes_of, zeros
from exporters.encoder import (
    Attention,
    AttentionScores,
    ConstantBlock,
    DotProduct,
    Encoder,
    FeedForward,
    Layer,
    Ungated,
)
from prune_export.families.names import Dimensions, Family
from prune_export.families.table import Table, write


def state_dict(family: Family, config: Any, encoder: Encoder) -> dict[str, Tensor]:
    """Returns the weights of an ordinary Hugging Face model of `family` that computes what `encoder` does.

    Removed heads, head dimensions and columns are zeros in them; a kept head has its original index.
    """
    dimensions = family.dimensions(config)
    embeddings = fill_missing(encoder.embeddings, dimensions.sizes)
    if not dimensions.types:
        embeddings = replace(embeddings, token_type=None)
    if not dimensions.has_position_rows:
        embeddings = replace(embeddings, position=None)
    weights = write_part(family.embeddings, embeddings, family.body(""))
    for path, layer in zip(family.layer_paths(config), encoder.layers, strict=True):
        weights |= write_part(family.layers, full_size(layer, dimensions), f"{path}.")
        if isinstance(layer.attention, ConstantBlock) and family.own_scores:
            weights |= write_part(family.own_scores, _empty_scores(family, config), f"{path}.")
    if family.scores:
        weights |= write_part(family.scores, _scores_of(family, config, encoder), family.body(""))
    weights_of_body = set(weights)
    table = family.heads[encoder.task]
    weights |= write_part(table, encoder.head)
    if "decoder.bias" in table and table["decoder.weight"].name not in weights_of_body:  # it then has two names
        weights[f"{table['decoder.weight'].module}.bias"] = weights[table["decoder.bias"].name]
    return weights


def _scores_of(family: Family, config: Any, encoder: Encoder) -> AttentionScores:
    """Returns the scores that all layers have in common; their tensors are zero where no layer has attention."""
    blocks = (layer.attention for layer in encoder.layers)
    own = next((block.scores for block in blocks if isinstance(block, Attention)), None)
    return _empty_scores(family, config) if own is None else own


def _empty_scores(family: Family, config: Any) -> AttentionScores:
    """Returns scores of full size whose tensors are zero."""
    sizes = family.dimensions(config).sizes
    tensors = {path: torch.zeros(axes.shape(sizes)) for path, axes in axes_of(family.scores_kind).items()}
    return family.attention_scores(config, 0, tensors)


def write_part(table: Table, part: Any, prefix: str = "") -> dict[str, Tensor]:
    """Returns the tensors of a part of a description under a checkpoint's names: `prefix` and the names in `table`."""
    tensors = {path: (value, axes) for path, value, axes in leaves(part) if isinstance(value, Tensor)}
    return {f"{prefix}{name}": value for name, value in write(table, tensors).items()}


def full_size(layer: Layer, dimensions: Dimensions, *, columns: Sequence[int] | None = None) -> Layer:
    """Returns the layer at its unpruned sizes, with every head at its original index; removed units are zero.

    `columns` are the original indices of its columns (None: the first ones).
    """
    sizes = dimensions.sizes
    attention, feed_forward = layer.attention, layer.feed_forward
    if isinstance(attention, ConstantBlock):
        bias = attention.bias
        attention = zeros(Attention, sizes, heads=(), scores=DotProduct(dimensions.head_size**-0.5))
        attention = replace(attention, output_bias=bias)
    else:
        attention = fill_missing(attention, sizes_of(attention))
        for axis in ("query_key", "value"):
            attention = pad(attention, axis, sizes[axis])
        attention = scatter(attention, "head", attention.heads, sizes["head"])
    if isinstance(feed_forward, ConstantBlock):
        bias = feed_forward.bias
        feed_forward = zeros(FeedForward, sizes, gating=Ungated(dimensions.activation))
        feed_forward = replace(feed_forward, down=replace(feed_forward.down, bias=bias))
    else:
        indices = range(feed_forward.columns) if columns is None else columns
        feed_forward = scatter(feed_forward, "intermediate", indices, sizes["intermediate"])
    return replace(layer, attention=attention, feed_forward=feed_forward)
