"""Attention heads of another size: a plain configuration has heads of hidden size / heads dimensions each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from exporters.axes import pad
from exporters.encoder import Attention
from prune_export.pruning.reconstruction.forward import contexts

_FRESH = 0.02  # the deviation with which transformers initialises weights


def resize_heads(attention: Attention, size: int, states: Sequence[Tensor], attended: Sequence[Tensor]) -> Attention:
    """Returns `attention` with heads of `size` dimensions, near to the original on the inputs `states`.

    `states` are `[batch, sequence, hidden]`, `attended` bool `[batch, sequence]`. Scores are scaled by size^-0.5, as
    transformers does; the query takes up the difference.

    Smaller heads: the scores q·k of each head keep the `size` leading directions of Sq^½ Sk^½, with Sq the second moment of
    its queries and Sk the covariance of its keys (a constant added to all keys changes no softmax), the best approximation
    of that rank over independent queries and keys. What a head adds keeps the leading directions of W_O Sc^½, with Sc the
    second moment of its contexts.

    Larger heads: the new dimensions of keys and values are small random numbers, those of queries and of the output
    projection zero. The output is the same, and every new weight gets a gradient from the first step or the second one.
    """
    old = attention.query_key_size
    if size == old:
        return attention
    is_larger = size > old
    attention = (
        _with_larger_heads(attention, size) if is_larger else _with_smaller_heads(attention, size, states, attended)
    )
    scale = size**-0.5
    factor = attention.scores.scale / scale
    return replace(
        attention,
        query_weight=attention.query_weight * factor,
        query_bias=attention.query_bias * factor,
        scores=replace(attention.scores, scale=scale),
    )


def _with_larger_heads(attention: Attention, size: int) -> Attention:
    old = attention.query_key_size
    attention = pad(pad(attention, "query_key", size), "value", size)
    generator = torch.Generator().manual_seed(0)

    def filled(weight: Tensor) -> Tensor:  # [heads, size, hidden]
        fresh = torch.randn(weight.shape, generator=generator).to(weight.device) * _FRESH
        return torch.cat([weight[:, :old], fresh[:, old:]], dim=1)

    return replace(attention, key_weight=filled(attention.key_weight), value_weight=filled(attention.value_weight))


def _with_smaller_heads(
    attention: Attention, size: int, states: Sequence[Tensor], attended: Sequence[Tensor]
) -> Attention:
    count, old = len(attention.heads), attention.query_key_size
    zeros = attention.query_weight.new_zeros(count, old)
    query_bias, value_bias = (zeros if bias is None else bias for bias in (attention.query_bias, attention.value_bias))
    device = attention.query_weight.device
    query_moment, key_moment, context_moment = (
        torch.zeros(count, old, old, dtype=torch.float64, device=device) for _ in range(3)
    )
    key_sum, tokens = torch.zeros(count, old, dtype=torch.float64, device=device), 0
    for x, mask in zip(states, attended, strict=True):
        rows = x[mask]
        query = torch.einsum("th,ndh->ntd", rows, attention.query_weight) + query_bias[:, None]
        key = torch.einsum("th,ndh->ntd", rows, attention.key_weight)
        context = contexts(attention, x, mask)[mask].unflatten(-1, (count, -1)).transpose(0, 1)  # [heads, tokens, size]
        for moment, values in ((query_moment, query), (key_moment, key), (context_moment, context)):
            moment += (values.transpose(1, 2) @ values).double()
        key_sum += key.sum(dim=1).double()
        tokens += len(rows)
    key_mean = key_sum / tokens
    key_covariance = key_moment / tokens - key_mean[:, :, None] * key_mean[:, None, :]
    query_map, key_map = _bilinear_maps(query_moment / tokens, key_covariance, size)
    output = attention.output_weight.permute(1, 0, 2).double()  # [heads, hidden, size]
    value_map, new_output = _output_maps(output, context_moment / tokens, size)

    def mapped(by: Tensor, weight: Tensor) -> Tensor:
        return (by @ weight.double()).float()

    def mapped_bias(by: Tensor, bias: Tensor) -> Tensor:
        return (by @ bias.double()[:, :, None])[:, :, 0].float()

    return replace(
        attention,
        query_weight=mapped(query_map, attention.query_weight),
        query_bias=mapped_bias(query_map, query_bias),
        key_weight=mapped(key_map, attention.key_weight),
        key_bias=None if attention.key_bias is None else zeros[:, :size],
        value_weight=mapped(value_map, attention.value_weight),
        value_bias=mapped_bias(value_map, value_bias),
        output_weight=new_output.permute(1, 0, 2).float(),
    )


def _roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the square root of symmetric matrices and its inverse; directions without any content stay out of it."""
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp(min=0)
    kept = values > 1e-10 * values.amax(dim=-1, keepdim=True)
    root = values.sqrt()
    inverse = torch.where(kept, 1 / root.clamp(min=1e-150), torch.zeros_like(root))
    return (vectors * root[..., None, :]) @ vectors.mT, (vectors * inverse[..., None, :]) @ vectors.mT


def _bilinear_maps(query_moment: Tensor, key_covariance: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Returns maps A, B `[heads, size, old]` such that (A q)·(B k) is nearest to q·k."""
    query_root, query_inverse = _roots(query_moment)
    key_root, key_inverse = _roots(key_covariance)
    left, values, right = torch.linalg.svd(query_root @ key_root)
    root = values[:, :size, None].sqrt()
    return root * (left[:, :, :size].mT @ query_inverse), root * (right[:, :size] @ key_inverse)


def _output_maps(output: Tensor, context_moment: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Returns a map of values `[heads, size, old]` and an output `[heads, hidden, size]`: the nearest to `output`."""
    root, inverse = _roots(context_moment)
    left, values, right = torch.linalg.svd(output @ root, full_matrices=False)
    scale = values[:, :size].sqrt()
    return scale[:, :, None] * (right[:, :size] @ inverse), left[:, :, :size] * scale[:, None, :]
