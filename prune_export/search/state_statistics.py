"""Statistics of a parent's hidden states: what a basis and the choice of layers depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporters.axes import to_device
from exporters.encoder import Encoder
from prune_export.pruning.reconstruction.forward import attention_update, feed_forward_update, normalized
from prune_export.slim_model.blocks import SlimEmbeddings


@dataclass(frozen=True, slots=True, eq=False)
class StateStatistics:
    """Statistics over all tokens but padding.

    `moments` are E[nnᵀ] of the states n after each norm, before its weight and bias, `[hidden, hidden]`, float64: that of
    the embeddings unless they are projected, then of attention and feed-forward block of each layer. `effects` are the mean
    of 1 - cos(x, y) per layer, with x its input and y its output ("block influence"; Men et al. 2024, "ShortGPT", section
    3).
    """

    moments: tuple[Tensor, ...]
    effects: tuple[float, ...]

    def layers_by_effect(self, count: int) -> tuple[int, ...]:
        """Returns the `count` layers with the greatest effect, in order; of equal ones the later."""
        order = sorted(range(len(self.effects)), key=lambda layer: (self.effects[layer], layer))
        return tuple(sorted(order[len(order) - count :]))


@torch.no_grad()
def state_statistics(encoder: Encoder, batches: Sequence[Mapping[str, Tensor]], device: str = "cpu") -> StateStatistics:
    """Runs `encoder` on `batches`: int64 `input_ids`, `attention_mask`, and `token_type_ids` if the network takes them."""
    embeddings = SlimEmbeddings(encoder.embeddings, dropout=0.0).to(device)
    layers = [to_device(layer, device) for layer in encoder.layers]
    first = [embeddings.norm.describe()] if encoder.embeddings.projection is None else []
    norms = first + [norm for layer in layers for norm in (layer.attention_norm, layer.feed_forward_norm)]
    sums = [torch.zeros(encoder.hidden_size, encoder.hidden_size, dtype=torch.float64, device=device) for _ in norms]
    effects, tokens = [0.0] * len(layers), 0
    for batch in batches:
        mask = batch["attention_mask"].bool().to(device)
        types = batch.get("token_type_ids")
        x = embeddings(batch["input_ids"].to(device), None if types is None else types.to(device))
        states = [x] if first else []
        for index, layer in enumerate(layers):
            middle = normalized(layer.attention_norm, x + attention_update(layer.attention, x, mask))
            y = normalized(layer.feed_forward_norm, middle + feed_forward_update(layer.feed_forward, middle))
            effects[index] += float((1 - torch.cosine_similarity(x[mask], y[mask], dim=-1)).double().sum())
            states += [middle, y]
            x = y
        for total, norm, state in zip(sums, norms, states, strict=True):
            scale = torch.where(norm.weight == 0, torch.ones_like(norm.weight), norm.weight)
            rows = (state[mask] - norm.bias) / scale
            total += (rows.T @ rows).double()
        tokens += int(mask.sum())
    count = max(tokens, 1)
    return StateStatistics(tuple((total / count).cpu() for total in sums), tuple(effect / count for effect in effects))
