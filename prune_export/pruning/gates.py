"""Gates: a factor on every attention head and feed-forward column, put into a network by hooks and removed again.

Kwon et al. 2022, section 3: a mask variable of 1 multiplies each head's context and each column's activation. Every row of a
batch has factors of its own, so that one backward pass gives each sample's gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prune_export.checkpoint.load import Checkpoint
from prune_export.slim_model.blocks import SlimAttention, SlimFeedForward, SlimLayer
from prune_export.slim_model.model import SlimModel


@dataclass(frozen=True, slots=True, eq=False)
class GatedLayer:
    """The modules of a layer whose inputs are gated.

    The attention's output projection takes the contexts of `heads` heads, joined. The down projection takes `columns`
    activations. A module is None where its block was removed.
    """

    attention_output: nn.Module | None
    heads: int
    down: nn.Module | None
    columns: int


def hugging_face_layers(checkpoint: Checkpoint, model: nn.Module) -> tuple[GatedLayer, ...]:
    """Returns the distinct layers of the checkpoint's Hugging Face model `model`, by the paths of its family."""
    family, config = checkpoint.family, checkpoint.config
    sizes = family.dimensions(config)
    paths = dict.fromkeys(family.layer_paths(config, task=checkpoint.task))
    return tuple(
        GatedLayer(
            model.get_submodule(f"{path}.{family.module('attention.output_weight')}"),
            sizes.heads,
            model.get_submodule(f"{path}.{family.module('feed_forward.down.weight')}"),
            sizes.intermediate,
        )
        for path in paths
    )


def slim_layers(model: SlimModel) -> tuple[GatedLayer, ...]:
    """Returns the distinct layers of a slim network."""
    layers = []
    for layer in model.layers:
        assert isinstance(layer, SlimLayer)
        attention = layer.attention if isinstance(layer.attention, SlimAttention) else None
        feed_forward = layer.feed_forward if isinstance(layer.feed_forward, SlimFeedForward) else None
        layers.append(
            GatedLayer(
                None if attention is None else attention.output,
                0 if attention is None else len(attention.heads),
                None if feed_forward is None else feed_forward.down,
                0 if feed_forward is None else feed_forward.up.out_features,
            )
        )
    return tuple(layers)


@dataclass(slots=True)
class Gates:
    """The factors of each layer for the current batch: heads `[batch, heads]`, columns `[batch, columns]`, float32."""

    layers: tuple[GatedLayer, ...]
    heads: list[Tensor] = field(default_factory=list)
    columns: list[Tensor] = field(default_factory=list)

    def open(self, rows: int, device: torch.device | str = "cpu") -> list[Tensor]:
        """Makes new factors of 1 for a batch of `rows`; returns the heads' and the columns' of each layer in turn."""
        self.heads = [torch.ones(rows, layer.heads, device=device, requires_grad=True) for layer in self.layers]
        self.columns = [torch.ones(rows, layer.columns, device=device, requires_grad=True) for layer in self.layers]
        return [gate for pair in zip(self.heads, self.columns, strict=True) for gate in pair]


@contextmanager
def gated(layers: Sequence[GatedLayer]) -> Iterator[Gates]:
    """Hooks the gates into a network while the block runs."""
    gates = Gates(tuple(layers))
    handles = []

    def on_heads(index: int) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            contexts = inputs[0].unflatten(-1, (gates.layers[index].heads, -1))  # [batch, sequence, heads, size]
            return ((contexts * gates.heads[index][:, None, :, None]).flatten(-2),)

        return hook

    def on_columns(index: int) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            return (inputs[0] * gates.columns[index][:, None, :],)  # [batch, sequence, columns]

        return hook

    try:
        for index, layer in enumerate(gates.layers):
            if layer.attention_output is not None:
                handles.append(layer.attention_output.register_forward_pre_hook(on_heads(index)))
            if layer.down is not None:
                handles.append(layer.down.register_forward_pre_hook(on_columns(index)))
        yield gates
    finally:
        for handle in handles:
            handle.remove()
