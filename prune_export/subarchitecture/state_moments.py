"""Second moments of a parent's hidden states: what the basis of a narrower network depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from exporters.axes import to_device
from exporters.encoder import Encoder
from prune_export.pruning.reconstruction.forward import attention_update, feed_forward_update, normalized
from prune_export.slim_model.blocks import SlimEmbeddings


@torch.no_grad()
def state_moments(encoder: Encoder, batches: Sequence[Mapping[str, Tensor]], device: str = "cpu") -> tuple[Tensor, ...]:
    """Returns E[nnᵀ] of the states n after each norm, before its weight and bias, over all tokens but padding.

    Each is `[hidden, hidden]`, float64: that of the embeddings unless they are projected, then of attention and feed-forward
    block of each layer. `batches` hold int64 `input_ids` and `attention_mask`, and `token_type_ids` where the network takes
    them.
    """
    embeddings = SlimEmbeddings(encoder.embeddings, dropout=0.0).to(device)
    layers = [to_device(layer, device) for layer in encoder.layers]
    assert embeddings.norm is not None
    first = [embeddings.norm.describe()] if encoder.embeddings.projection is None else []
    norms = first + [norm for layer in layers for norm in layer.sum_norms]
    sums = [torch.zeros(encoder.hidden_size, encoder.hidden_size, dtype=torch.float64, device=device) for _ in norms]
    tokens = 0
    for batch in batches:
        mask = batch["attention_mask"].bool().to(device)
        types = batch.get("token_type_ids")
        x = embeddings(batch["input_ids"].to(device), None if types is None else types.to(device))
        states = [x] if first else []
        for layer in layers:
            x = normalized(layer.attention_norm, x + attention_update(layer.attention, x, mask))
            states.append(x)
            x = normalized(layer.feed_forward_norm, x + feed_forward_update(layer.feed_forward, x))
            states.append(x)
        for total, norm, state in zip(sums, norms, states, strict=True):
            scale = torch.where(norm.weight == 0, torch.ones_like(norm.weight), norm.weight)
            rows = (state[mask] if norm.bias is None else state[mask] - norm.bias) / scale
            total += (rows.T @ rows).double()
        tokens += int(mask.sum())
    return tuple((total / max(tokens, 1)).cpu() for total in sums)
