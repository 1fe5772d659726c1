"""The forward pass of a layer in parts, on a description's tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from exporters.distances import Distances, distance_terms, normalized_embeddings, position_key, position_query
from exporters.encoder import (
    ACTIVATIONS,
    Attention,
    ConstantBlock,
    FeedForward,
    Gated,
    Layer,
    Linear,
    Norm,
    RelativeBias,
    Rotary,
)

Block = TypeVar("Block", Attention | ConstantBlock, FeedForward | ConstantBlock)


def contexts(block: Attention, x: Tensor, attended: Tensor) -> Tensor:
    """Returns the heads' joined contexts `[batch, sequence, heads * value_size]`, the inputs of the output projection.

    `attended` is bool `[batch, sequence]`.
    """

    def project(weight: Tensor, bias: Tensor | None) -> Tensor:
        joined = functional.linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
        split: Tensor = joined.unflatten(-1, (len(block.heads), -1))
        return split.transpose(1, 2)  # [batch, heads, sequence, size]

    mask = attended[:, None, None, :]
    if isinstance(block.scores, RelativeBias):
        bias = block.scores.bias(block.heads, x.shape[1])
        mask = bias.masked_fill(~mask, torch.finfo(bias.dtype).min)  # [batch, heads, query, key]
    query, key = project(block.query_weight, block.query_bias), project(block.key_weight, block.key_bias)
    if isinstance(block.scores, Rotary):
        query, key = block.scores.rotate(query), block.scores.rotate(key)
        mask = block.scores.visible(mask)
    if isinstance(block.scores, Distances) and block.scores.terms:
        embeddings = normalized_embeddings(block.scores).to(x.device)
        terms = distance_terms(block.scores, embeddings, query, key, position_key(block), position_query(block))
        mask = (block.scores.scale * terms).masked_fill(~mask, torch.finfo(terms.dtype).min)
    separate = functional.scaled_dot_product_attention(
        query,
        key,
        project(block.value_weight, block.value_bias),
        mask,
        scale=block.scores.scale,
    )
    return separate.transpose(1, 2).flatten(2)


def activations(block: FeedForward, x: Tensor) -> Tensor:
    """Returns the activations `[batch, sequence, columns]`, the inputs of the down projection."""
    activation, up = ACTIVATIONS[block.gating.activation], functional.linear(x, block.up.weight, block.up.bias)
    if isinstance(block.gating, Gated):
        gate = block.gating.gate
        return activation(functional.linear(x, gate.weight, gate.bias)) * up
    return activation(up)


def attention_update(block: Attention | ConstantBlock, x: Tensor, attended: Tensor) -> Tensor:
    """Returns what the attention adds to the residual stream, `[batch, sequence, hidden]`."""
    if isinstance(block, ConstantBlock):
        return block.bias.expand_as(x)
    return functional.linear(contexts(block, x, attended), block.output.weight, block.output_bias)


def feed_forward_update(block: FeedForward | ConstantBlock, x: Tensor) -> Tensor:
    """Returns what the feed-forward block adds to the residual stream, `[batch, sequence, hidden]`."""
    if isinstance(block, ConstantBlock):
        return block.bias.expand_as(x)
    return functional.linear(activations(block, x), block.down.weight, block.down.bias)


def attention_sum(layer: Layer, x: Tensor, attended: Tensor) -> Tensor:
    """Returns the residual sum after the layer's attention, `[batch, sequence, hidden]`; no norm follows in it."""
    return x + attention_update(layer.attention, normalized(layer.attention_input_norm, x), attended)


def feed_forward_sum(layer: Layer, x: Tensor) -> Tensor:
    """Returns the residual sum after the layer's feed-forward block, `[batch, sequence, hidden]`; no norm follows in it."""
    return x + feed_forward_update(layer.feed_forward, normalized(layer.feed_forward_input_norm, x))


def normalized(norm: Norm | None, x: Tensor) -> Tensor:
    """Returns the norm of `x` over the last dimension; `x` itself without a norm."""
    if norm is None:
        return x
    if norm.epsilon is None:
        scaled = x * norm.weight
    elif norm.centered:
        return functional.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.epsilon)
    else:
        scaled = functional.rms_norm(x, norm.weight.shape, norm.weight, norm.epsilon)
    return scaled if norm.bias is None else scaled + norm.bias


def output_of(block: Attention | FeedForward | ConstantBlock) -> Linear:
    """Returns the block's output projection, `[written, features]`; that of a constant block has no features."""
    match block:
        case Attention():
            return block.output
        case FeedForward():
            return block.down
        case ConstantBlock():
            return Linear(block.bias.new_zeros(block.bias.shape[0], 0), block.bias)


def with_output(block: Block, output: Linear) -> Block:
    """Returns the block with another output projection, which may write another width."""
    match block:
        case Attention():
            weight = output.weight.unflatten(1, block.output_weight.shape[1:])
            return replace(block, output_weight=weight, output_bias=output.bias)
        case FeedForward():
            return replace(block, down=output)
        case ConstantBlock():
            return ConstantBlock(output.constant)
