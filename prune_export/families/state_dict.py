"""An Encoder back under Hugging Face's names, at full size: what was removed becomes zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from exporters.encoder import (
    Attention,
    ConstantBlock,
    Encoder,
    FeedForward,
    Layer,
    Linear,
    MaskedLanguageHead,
    Norm,
    SequenceHead,
    SpanHead,
    TokenHead,
)
from prune_export.families.names import Dimensions, Family


def state_dict(family: Family, config: Any, encoder: Encoder) -> dict[str, Tensor]:
    """The weights of an ordinary Hugging Face model of `family` that computes what `encoder` does.

    Removed heads, head dimensions and columns come back as zeros; a kept head stands at its original index.
    """
    return _Writer(family, config, family.dimensions(config)).state_dict(encoder)


class _Writer:
    def __init__(self, family: Family, config: Any, dimensions: Dimensions) -> None:
        self.family = family
        self.config = config
        self.dimensions = dimensions
        self.found: dict[str, Tensor] = {}

    def body(self, path: str) -> str:
        return f"{self.family.prefix}.{path}"

    def put(self, path: str, module: Linear | Norm) -> None:
        self.found[f"{path}.weight"], self.found[f"{path}.bias"] = module.weight, module.bias

    def state_dict(self, encoder: Encoder) -> dict[str, Tensor]:
        self.embeddings(encoder)
        for index, layer in enumerate(encoder.layers):
            self.layer(self.body(self.family.layer(self.config, index)), layer)
        self.head(encoder)
        return {name: tensor.contiguous() for name, tensor in self.found.items()}

    def embeddings(self, encoder: Encoder) -> None:
        names, sizes, parts = self.family.embeddings, self.dimensions, encoder.embeddings
        self.found[f"{self.body(names.word)}.weight"] = parts.word
        self.found[f"{self.body(names.position)}.weight"] = parts.position
        if names.token_type is not None and sizes.types:
            rows = parts.token_type
            rows = torch.zeros(sizes.types, sizes.embedding) if rows is None else rows
            self.found[f"{self.body(names.token_type)}.weight"] = rows
        self.put(self.body(names.norm), parts.norm)
        if names.projection is not None and parts.projection is not None:
            self.put(self.body(names.projection), parts.projection)

    def layer(self, path: str, layer: Layer) -> None:
        names, sizes = self.family.layers, self.dimensions
        attention = full_size_attention(layer.attention, sizes)
        feed_forward = full_size_feed_forward(layer.feed_forward, sizes)
        for name, weight, bias in (
            (names.query, attention.query_weight, attention.query_bias),
            (names.key, attention.key_weight, attention.key_bias),
            (names.value, attention.value_weight, attention.value_bias),
        ):
            assert bias is not None
            self.put(f"{path}.{name}", Linear(weight.flatten(0, 1), bias.flatten()))
        self.put(f"{path}.{names.attention_output}", Linear(attention.output_weight.flatten(1), attention.output_bias))
        self.put(f"{path}.{names.attention_norm}", layer.attention_norm)
        self.put(f"{path}.{names.up}", feed_forward.up)
        self.put(f"{path}.{names.down}", feed_forward.down)
        self.put(f"{path}.{names.feed_forward_norm}", layer.feed_forward_norm)

    def head(self, encoder: Encoder) -> None:
        family = self.family
        match encoder.head:
            case SpanHead(output):
                self.put(family.span_output, output)
            case TokenHead(output):
                self.put(family.token_output, output)
            case SequenceHead(dense, _, output):
                names = family.sequence_head
                self.put(self.body(names.dense) if names.dense_in_body else names.dense, dense)
                self.put(names.output, output)
            case MaskedLanguageHead(dense, _, norm, decoder):
                masked = family.masked_language_head
                self.put(masked.dense, dense)
                self.put(masked.norm, norm)
                self.found[masked.bias] = decoder.bias
                self.found[f"{masked.decoder}.weight"] = decoder.weight
                self.found[f"{masked.decoder}.bias"] = decoder.bias


def full_size_attention(block: Attention | ConstantBlock, sizes: Dimensions) -> Attention:
    """The block with every original head at its index and of its original size; what is missing is zero."""
    heads, size, hidden = sizes.heads, sizes.head_size, sizes.hidden
    query_weight, key_weight, value_weight = (torch.zeros(heads, size, hidden) for _ in range(3))
    query_bias, key_bias, value_bias = (torch.zeros(heads, size) for _ in range(3))
    output_weight = torch.zeros(hidden, heads, size)
    if isinstance(block, ConstantBlock):
        output_bias = block.bias
    else:
        kept, output_bias = list(block.heads), block.output_bias
        query_weight[kept, : block.query_key_size] = block.query_weight
        query_bias[kept, : block.query_key_size] = block.query_bias
        key_weight[kept, : block.query_key_size] = block.key_weight
        value_weight[kept, : block.value_size] = block.value_weight
        if block.key_bias is not None:
            key_bias[kept, : block.query_key_size] = block.key_bias
        if block.value_bias is not None:
            value_bias[kept, : block.value_size] = block.value_bias
        output_weight[:, kept, : block.value_size] = block.output_weight
    return Attention(
        heads=tuple(range(heads)),
        query_weight=query_weight,
        query_bias=query_bias,
        key_weight=key_weight,
        key_bias=key_bias,
        value_weight=value_weight,
        value_bias=value_bias,
        output_weight=output_weight,
        output_bias=output_bias,
        scale=size**-0.5,
    )


def full_size_feed_forward(block: FeedForward | ConstantBlock, sizes: Dimensions) -> FeedForward:
    """The block with its original number of columns: the kept ones first, then zeros."""
    up_weight, up_bias = torch.zeros(sizes.intermediate, sizes.hidden), torch.zeros(sizes.intermediate)
    down_weight = torch.zeros(sizes.hidden, sizes.intermediate)
    if isinstance(block, ConstantBlock):
        return FeedForward(Linear(up_weight, up_bias), sizes.activation, Linear(down_weight, block.bias))
    up_weight[: block.columns], up_bias[: block.columns] = block.up.weight, block.up.bias
    down_weight[:, : block.columns] = block.down.weight
    return FeedForward(Linear(up_weight, up_bias), block.activation, Linear(down_weight, block.down.bias))
