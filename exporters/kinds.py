"""Checks that a part of the program knows the kinds of scores and gating of a network."""

from __future__ import annotations

from exporters.distances import Distances
from exporters.encoder import Attention, DotProduct, FeedForward, Gated, Layer, RelativeBias, Rotary, Ungated
from exporters.errors import UnsupportedError

KNOWN = (DotProduct, RelativeBias, Rotary, Distances, Ungated, Gated)


def check_kinds(layers: tuple[Layer, ...], who: str, *, known: tuple[type, ...] = KNOWN) -> None:
    """Checks that `who` knows all kinds in the layers.

    Raises:
        UnsupportedError: a kind is not among `known`.
    """
    for index, layer in enumerate(layers):
        kinds: list[object] = []
        if isinstance(layer.attention, Attention):
            kinds.append(layer.attention.scores)
        if isinstance(layer.feed_forward, FeedForward):
            kinds.append(layer.feed_forward.gating)
        for kind in kinds:
            if not isinstance(kind, known):
                names = ", ".join(known_kind.__name__ for known_kind in known)
                raise UnsupportedError(f"layer {index}: {who} knows {names}; found {type(kind).__name__}")
