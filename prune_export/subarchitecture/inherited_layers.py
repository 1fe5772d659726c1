"""The parent's layers that a plain network of fewer layers begins with."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from exporters.encoder import Attention, Encoder, Layer, Rotary
from exporters.errors import UsageError
from prune_export.facts.even_layers import even_layers


def inherited_layers(encoder: Encoder, depth: int) -> tuple[int, ...]:
    """Returns the `depth` layers of a parent that stay: at even distances, the last one included, as far as that goes.

    The configuration says by a layer's place whether it has a window, by which angles it rotates, and whether a norm stands
    before its attention (ModernBERT). A place takes only layers that are like the parent's own layer at that place. Of all
    choices that allow it, this is the one with the least sum of distances from even ones; the first `depth` layers always
    do.
    """
    kinds = [_kind(layer) for layer in encoder.layers]
    wanted = even_layers(depth, len(kinds))
    # best[layer]: the least sum of distances, and the choice, of the places so far, the last of them at or before `layer`.
    best: list[tuple[int, tuple[int, ...]] | None] = [(0, ())] * len(kinds)
    for place, even in enumerate(wanted):
        choices: list[tuple[int, tuple[int, ...]] | None] = []
        for layer, kind in enumerate(kinds):
            before = (best[layer - 1] if layer else None) if place else best[layer]
            found = choices[-1] if choices else None
            if before is not None and kind == kinds[place]:
                found = min(filter(None, (found, (before[0] + abs(layer - even), (*before[1], layer)))))
            choices.append(found)
        best = choices
    last = best[-1]
    assert last is not None
    return last[1]


def check_layers(layers: Sequence[int], encoder: Encoder, depth: int) -> None:
    """Checks a choice of the parent's layers.

    Raises:
        UsageError: they are not `depth` different ones in order, or one cannot stand at its place (`inherited_layers`).
    """
    kinds = [_kind(layer) for layer in encoder.layers]
    if len(layers) != depth or list(layers) != sorted(set(layers) & set(range(len(kinds)))):
        raise UsageError(
            f"layers: expected {depth} different ones from 0 to {len(kinds) - 1}, in order; found {list(layers)}"
        )
    for place, layer in enumerate(layers):
        if kinds[layer] != kinds[place]:
            like = [other for other, kind in enumerate(kinds) if kind == kinds[place]]
            raise UsageError(
                f"layers: the configuration makes layer {place} like the parent's own; expected one of {like} there; found "
                f"{layer}"
            )


def _kind(layer: Layer) -> Hashable:
    scores = layer.attention.scores if isinstance(layer.attention, Attention) else None
    has_norm = layer.attention_input_norm is not None
    if not isinstance(scores, Rotary):
        return has_norm
    return has_norm, scores.window, tuple(scores.frequencies.tolist())
