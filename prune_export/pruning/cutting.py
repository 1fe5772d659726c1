"""A network that is being pruned: what it keeps, and where that was in the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from exporters.axes import sizes_of, take
from exporters.encoder import Attention, ConstantBlock, Encoder, FeedForward, Layer, map_layers
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.masking import masked_tensors
from prune_export.facts.plan import Indices, LayerPlan, Plan
from prune_export.families.state_dict import full_size, write_part
from prune_export.pruning.selection import Kept


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """`encoder` has only what is kept. `heads` and `columns` are the original indices of that, per distinct layer."""

    encoder: Encoder
    heads: tuple[Indices, ...]
    columns: tuple[Indices, ...]

    @property
    def plan(self) -> Plan:
        """What is kept, layer by layer."""
        return Plan(tuple(LayerPlan(self.heads[place], self.columns[place], {}, {}) for place in self.encoder.order))


def unpruned(encoder: Encoder) -> Pruned:
    """Everything is kept."""
    counts = [sizes_of(layer) for layer in encoder.distinct_layers]
    heads = [
        layer.attention.heads if isinstance(layer.attention, Attention) else () for layer in encoder.distinct_layers
    ]
    return Pruned(encoder, tuple(heads), tuple(tuple(range(sizes.get("intermediate", 0))) for sizes in counts))


def cut(network: Pruned, keep: Kept) -> Pruned:
    """Keeps the heads and columns at the places `keep`, of those that there are.

    Nothing is folded or compensated: the result computes what the same network with zeros (`masked_tensors`) does.
    """
    order = network.encoder.order

    def smaller(index: int, layer: Layer) -> Layer:
        heads, columns = keep[order[index]]
        attention, feed_forward = layer.attention, layer.feed_forward
        if isinstance(attention, Attention):
            attention = take(attention, "head", heads) if heads else ConstantBlock(attention.output_bias)
        if isinstance(feed_forward, FeedForward):
            feed_forward = (
                take(feed_forward, "intermediate", columns) if columns else ConstantBlock(feed_forward.down.bias)
            )
        return replace(layer, attention=attention, feed_forward=feed_forward)

    return Pruned(
        map_layers(network.encoder, smaller),
        tuple(_pick(old, heads) for old, (heads, _) in zip(network.heads, keep, strict=True)),
        tuple(_pick(old, columns) for old, (_, columns) in zip(network.columns, keep, strict=True)),
    )


def _pick(old: Indices, places: Indices) -> Indices:
    return tuple(old[place] for place in places)


def full_size_tensors(checkpoint: Checkpoint, tensors: Mapping[str, Tensor], network: Pruned) -> dict[str, Tensor]:
    """Returns what `network` changes of the checkpoint's `tensors`, under Hugging Face's names and at full size.

    What is kept has the weights that it has in `network`, at its original place; zeros stand elsewhere.
    """
    family, encoder = checkpoint.family, network.encoder
    dimensions = family.dimensions(checkpoint.config)
    changed = masked_tensors(tensors, family, checkpoint.config, checkpoint.encoder, network.plan)
    blocks = {path: row for path, row in family.layers.items() if path.startswith(("attention.", "feed_forward."))}
    for path, layer, place in zip(family.layer_paths(checkpoint.config), encoder.layers, encoder.order, strict=True):
        full = full_size(layer, dimensions, columns=network.columns[place])
        changed |= {name: value.to(tensors[name].dtype) for name, value in write_part(blocks, full, f"{path}.").items()}
    return changed
