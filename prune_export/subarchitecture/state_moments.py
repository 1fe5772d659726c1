"""Second moments of a parent's hidden states: what the basis of a narrower network depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from exporters.axes import to_device
from exporters.encoder import Attention, Encoder, Norm
from prune_export.pruning.reconstruction.forward import attention_sum, feed_forward_sum, normalized
from prune_export.slim_model.blocks import SlimEmbeddings
from prune_export.subarchitecture.common_scores import distance_moments


@torch.no_grad()
def state_moments(encoder: Encoder, batches: Sequence[Mapping[str, Tensor]], device: str = "cpu") -> tuple[Tensor, ...]:
    """Returns E[nnᵀ] of the normalized states n, before a norm's weight and bias, over all tokens but padding.

    Each is `[hidden, hidden]`, float64: that of the embeddings unless they are projected, then after attention and
    feed-forward block of each layer. The norm is the one that makes the state, and before blocks (pre-norm) the first one
    that reads it. Embeddings of distances, which go through the maps of the states, are the last one. `batches` hold int64
    `input_ids` and `attention_mask`, and `token_type_ids` where the network takes them.
    """
    embeddings = SlimEmbeddings(encoder.embeddings, dropout=0.0).to(device)
    layers = [to_device(layer, device) for layer in encoder.layers]
    norms = [to_device(norm, device) for norm in encoder.norms]
    is_projected = encoder.embeddings.projection is not None
    sums = [torch.zeros(encoder.hidden_size, encoder.hidden_size, dtype=torch.float64, device=device) for _ in norms]
    tokens = 0
    for batch in batches:
        mask = batch["attention_mask"].bool().to(device)
        types = batch.get("token_type_ids")
        x = embeddings(batch["input_ids"].to(device), None if types is None else types.to(device))
        states = [x]
        for layer in layers:
            x = normalized(layer.attention_norm, attention_sum(layer, x, mask))
            states.append(x)
            x = normalized(layer.feed_forward_norm, feed_forward_sum(layer, x))
            states.append(x)
        for total, norm, state in list(zip(sums, norms, states, strict=True))[is_projected:]:
            rows = _undone(norm, state[mask]) if encoder.is_post_norm else _bare(norm, state[mask])
            total += (rows.T @ rows).double()
        tokens += int(mask.sum())
    blocks = (layer.attention for layer in encoder.layers)
    of_distances = next((distance_moments(block.scores) for block in blocks if isinstance(block, Attention)), ())
    return (*((total / max(tokens, 1)).cpu() for total in sums[is_projected:]), *of_distances)


def _undone(norm: Norm, states: Tensor) -> Tensor:
    """Returns what the norm gave before its weight and bias."""
    scale = torch.where(norm.weight == 0, torch.ones_like(norm.weight), norm.weight)
    return (states if norm.bias is None else states - norm.bias) / scale


def _bare(norm: Norm, states: Tensor) -> Tensor:
    """Returns what the norm gives of `states` before its weight and bias."""
    return normalized(replace(norm, weight=torch.ones_like(norm.weight), bias=None), states)
