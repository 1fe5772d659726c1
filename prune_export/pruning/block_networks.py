"""Networks that are made to be timed: blocks of one kind, shaped like those of a checkpoint."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from exporters.cost import LayerShape, layer_shape
from exporters.encoder import Attention, ConstantBlock, Encoder, FeatureHead, FeedForward, Layer, Linear

COPIES = 4  # blocks in a row: one alone is too short to time, and would stay in the cache


def largest_layer(encoder: Encoder) -> LayerShape:
    """The most that any layer has of each size."""
    shapes = [layer_shape(layer) for layer in encoder.layers]
    sizes = [max(getattr(shape, name) for shape in shapes) for name in LayerShape.__slots__]
    return LayerShape(*sizes)


def _constant(layer: Layer) -> Layer:
    nothing = ConstantBlock(torch.zeros(layer.attention_norm.weight.shape[0]))
    return replace(layer, attention=nothing, feed_forward=nothing)


class Blocks:
    """Networks to be timed, made of blocks with random weights."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self._shape = encoder, largest_layer(encoder)
        self._body = replace(encoder, task="feature-extraction", head=FeatureHead())
        self._generator = torch.Generator().manual_seed(0)
        self._activation = next(
            (layer.feed_forward.activation for layer in encoder.layers if isinstance(layer.feed_forward, FeedForward)),
            "gelu",
        )

    def nothing(self) -> Encoder:
        """Embeddings, norms and task head."""
        return replace(self._encoder, layers=tuple(_constant(layer) for layer in self._encoder.layers))

    def repeated(self, *, heads: int = 0, columns: int = 0) -> Encoder:
        """Layers with one kind of block, each with weights of its own, as in a real network."""
        layers = tuple(self._layer(heads, columns) for _ in range(COPIES))
        return replace(self._body, layers=layers)

    def last(self, *, heads: int, columns: int = 0) -> Encoder:
        """All of the network but the blocks before its last layer."""
        nothing = self.nothing()
        return replace(nothing, layers=(*nothing.layers[:-1], self._layer(heads, columns)))

    def _layer(self, heads: int, columns: int) -> Layer:
        layer = _constant(self._encoder.layers[0])
        if heads:
            layer = replace(layer, attention=self._attention(heads))
        if columns:
            up, down = (
                self._linear(columns, self._encoder.hidden_size),
                self._linear(self._encoder.hidden_size, columns),
            )
            layer = replace(layer, feed_forward=FeedForward(up, self._activation, down))
        return layer

    def _attention(self, heads: int) -> Attention:
        hidden, size, value_size = self._encoder.hidden_size, self._shape.query_key_size, self._shape.value_size
        return Attention(
            heads=tuple(range(heads)),
            query_weight=self._weights(heads, size, hidden),
            query_bias=self._weights(heads, size),
            key_weight=self._weights(heads, size, hidden),
            key_bias=None,
            value_weight=self._weights(heads, value_size, hidden),
            value_bias=None,
            output_weight=self._weights(hidden, heads, value_size),
            output_bias=self._weights(hidden),
            scale=size**-0.5,
        )

    def _linear(self, to: int, width: int) -> Linear:
        return Linear(self._weights(to, width), self._weights(to))

    def _weights(self, *sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=self._generator) * 0.02
