"""Makes networks for timing: blocks of one kind, shaped like those of a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import torch

from exporters.axes import Axes, Sizes, assemble, axes_of, map_leaves, sizes_of
from exporters.cost import LayerShape, layer_shape
from exporters.encoder import (
    Attention,
    AttentionScores,
    ConstantBlock,
    DotProduct,
    Encoder,
    FeatureHead,
    FeedForward,
    Gated,
    Gating,
    Layer,
    Rotary,
    Ungated,
)

P = TypeVar("P")

COPIES = 4  # blocks in a row: one alone is too short to time, and would stay in the cache


def largest_layer(encoder: Encoder) -> LayerShape:
    """Returns the largest number of heads, head size and number of columns that any layer has."""
    shapes = [layer_shape(layer) for layer in encoder.layers]
    names = ("heads", "query_key_size", "value_size", "columns")
    return LayerShape(*(max(getattr(shape, name) for shape in shapes) for name in names))


def _constant(layer: Layer) -> Layer:
    emptied = ConstantBlock(torch.zeros(layer.widths[1]))
    return replace(layer, attention=emptied, feed_forward=emptied)


def without_head(encoder: Encoder) -> Encoder:
    """Returns the network that gives its last hidden states."""
    return replace(encoder, task="feature-extraction", head=FeatureHead())


class BlockNetworks:
    """Networks for timing, made of blocks with random weights."""

    def __init__(self, encoder: Encoder) -> None:
        largest = largest_layer(encoder)
        self._encoder = encoder
        self._sizes = {
            "hidden": encoder.hidden_size,
            "written": encoder.hidden_size,
            "query_key": largest.query_key_size,
            "value": largest.value_size,
        }
        self._body = without_head(encoder)
        self._generator = torch.Generator().manual_seed(0)
        self._activation = encoder.activation or "gelu"
        self._is_gated = any(layer_shape(layer).is_gated for layer in encoder.layers)

    def without_blocks(self) -> Encoder:
        """Returns the network's embeddings, norms and task head, with constants in place of all blocks."""
        return replace(self._encoder, layers=tuple(_constant(layer) for layer in self._encoder.layers))

    def repeated(self, *, heads: int = 0, columns: int = 0) -> Encoder:
        """Returns `COPIES` layers with one kind of block, each with weights of its own, as in a real network."""
        layers = tuple(self._layer(heads, columns) for _ in range(COPIES))
        return replace(self._body, layers=layers)

    def last_layer(self, *, heads: int, columns: int = 0) -> Encoder:
        """Returns the network with blocks in its last layer alone."""
        network = self.without_blocks()
        return replace(network, layers=(*network.layers[:-1], self._layer(heads, columns)))

    def _layer(self, heads: int, columns: int) -> Layer:
        layers = self._encoder.layers
        usual = next((layer for layer in layers if layer.attention_input_norm is not None), layers[0])
        layer = _constant(usual)
        if heads:
            attention = self._random(
                Attention, {**self._sizes, "head": heads}, heads=tuple(range(heads)), scores=self._scores(heads)
            )
            layer = replace(layer, attention=attention)
        if columns:
            sizes = {**self._sizes, "intermediate": columns}
            gating: Gating = Ungated(self._activation)
            if self._is_gated:
                gating = self._random(Gated, sizes, activation=self._activation)
            layer = replace(layer, feed_forward=self._random(FeedForward, sizes, gating=gating))
        return layer

    def _scores(self, heads: int) -> AttentionScores:
        """Returns scores of the network's own kind; tensors that each head has for itself are random."""
        scale = self._sizes["query_key"] ** -0.5
        blocks = (layer.attention for layer in self._encoder.layers)
        own = next((block.scores for block in blocks if isinstance(block, Attention)), None)
        if own is None:
            return DotProduct(scale)
        if isinstance(own, Rotary):
            own = replace(own, frequencies=own.frequencies[: self._sizes["query_key"] // 2], pairs=None)
        sizes = {**sizes_of(own), **self._sizes, "head": heads}

        def changed(value: torch.Tensor, axes: Axes) -> torch.Tensor:
            return self._normal(axes.shape(sizes)) if "head" in axes.names else value

        return map_leaves(replace(own, scale=scale), changed)

    def _normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator) * 0.02

    def _random(self, kind: type[P], sizes: Sizes, **values: Any) -> P:
        """Returns a block of random weights, with the biases that surgery leaves."""
        tensors = {
            path: self._normal(axes.shape(sizes))
            for path, axes in axes_of(kind).items()
            if path not in ("key_bias", "value_bias")
        }
        return assemble(kind, tensors, **values)
