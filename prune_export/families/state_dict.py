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
    Gated,
    Gating,
    Layer,
    Norm,
    Rotary,
    Ungated,
)
from exporters.errors import WeightsError
from exporters.rotary import restore_pairs
from prune_export.families.names import NORMS, Dimensions, Family
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
    weights: dict[str, Tensor] = {}

    def add(table: Table, part: Any, prefix: str = "", *, whole: bool = True) -> None:
        weights.update(write_part(family.present(table, config, prefix), part, prefix, whole=whole))

    add(family.embeddings, embeddings, family.body(""))
    for path, layer in zip(family.layer_paths(config), encoder.layers, strict=True):
        full = full_size(layer, dimensions, is_gated=family.is_gated)
        add(family.layers, replace(full, **_dead_norms(family, full, dimensions)), f"{path}.")
        if isinstance(layer.attention, ConstantBlock) and family.own_scores:
            add(family.own_scores, _empty_scores(family, config), f"{path}.", whole=False)
    if family.scores:
        add(family.scores, _scores_of(family, config, encoder), family.body(""), whole=False)
    if encoder.final_norm is not None:
        add(family.final_norm, encoder.final_norm, family.body(""))
    weights_of_body = set(weights)
    table = family.present(family.heads[encoder.task], config)
    add(table, encoder.head)
    if "decoder.bias" in table and table["decoder.weight"].name not in weights_of_body:  # it then has two names
        weights[f"{table['decoder.weight'].module}.bias"] = weights[table["decoder.bias"].name]
    return weights


def _dead_norms(family: Family, layer: Layer, dimensions: Dimensions) -> dict[str, Any]:
    """Returns norms for the fields in which the family has one and the layer, whose block is a constant, has none."""
    ones = torch.ones(dimensions.hidden)
    dead = (name for name in NORMS if f"{name}.weight" in family.layers and getattr(layer, name) is None)
    return {name: Norm(ones, torch.zeros_like(ones), dimensions.epsilon) for name in dead}


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


def write_part(table: Table, part: Any, prefix: str = "", *, whole: bool = False) -> dict[str, Tensor]:
    """Returns the tensors of a part of a description under a checkpoint's names: `prefix` and the names in `table`.

    Raises:
        WeightsError: the part has a bias that is not zero, the table has no place for it, and `whole` weights are wanted.
    """
    tensors = {path: (value, axes) for path, value, axes in leaves(part) if isinstance(value, Tensor)}
    for path, (value, _) in tensors.items() if whole else ():
        is_common = path.startswith("attention.scores.")  # and written once for all layers
        if path.endswith("bias") and path not in table and not is_common and value.any():
            raise WeightsError(
                f"'{path}' is not zero, and the network's Hugging Face class has no bias there: expected a network whose "
                "biases are those of its class; export the slim one"
            )
    return {f"{prefix}{name}": value for name, value in write(table, tensors).items()}


def full_size(layer: Layer, dimensions: Dimensions, *, is_gated: bool, columns: Sequence[int] | None = None) -> Layer:
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
        if isinstance(attention.scores, Rotary):
            attention = restore_pairs(attention)
        for axis in ("query_key", "value"):
            attention = pad(attention, axis, sizes[axis])
        attention = scatter(attention, "head", attention.heads, sizes["head"])
    if isinstance(feed_forward, ConstantBlock):
        bias = feed_forward.bias
        gating: Gating = Ungated(dimensions.activation)
        if is_gated:
            gating = zeros(Gated, sizes, activation=dimensions.activation)
        feed_forward = zeros(FeedForward, sizes, gating=gating)
        feed_forward = replace(feed_forward, down=replace(feed_forward.down, bias=bias))
    else:
        indices = range(feed_forward.columns) if columns is None else columns
        feed_forward = scatter(feed_forward, "intermediate", indices, sizes["intermediate"])
    return replace(layer, attention=attention, feed_forward=feed_forward)
