"""A network that is being pruned, with the original indices of the heads and columns that it keeps."""

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
class PrunedNetwork:
    """A pruned network.

    `encoder` has only the kept units. `heads` and `columns` are their original indices, per distinct layer.
    """

    encoder: Encoder
    heads: tuple[Indices, ...]
    columns: tuple[Indices, ...]

    @property
    def plan(self) -> Plan:
        """Returns the kept heads and columns, layer by layer."""
        return Plan(
            tuple(LayerPlan(self.heads[index], self.columns[index], {}, {}) for index in self.encoder.layer_indices)
        )


def unpruned(encoder: Encoder) -> PrunedNetwork:
    """Returns `encoder` as a network that keeps everything."""
    layers = encoder.distinct_layers
    heads = tuple(layer.attention.heads if isinstance(layer.attention, Attention) else () for layer in layers)
    columns = tuple(tuple(range(sizes_of(layer).get("intermediate", 0))) for layer in layers)
    return PrunedNetwork(encoder, heads, columns)


def keep_units(network: PrunedNetwork, keep: Kept) -> PrunedNetwork:
    """Removes all heads and columns but those with the indices `keep`, which count within `network`.

    Nothing is folded or compensated: the result computes the same as `network` with zeros (`masked_tensors`).
    """
    order = network.encoder.layer_indices

    def smaller(index: int, layer: Layer) -> Layer:
        heads, columns = keep[order[index]]
        attention, feed_forward = layer.attention, layer.feed_forward
        if isinstance(attention, Attention):
            attention = take(attention, "head", heads) if heads else ConstantBlock(attention.output.constant)
        if isinstance(feed_forward, FeedForward):
            feed_forward = (
                take(feed_forward, "intermediate", columns) if columns else ConstantBlock(feed_forward.down.constant)
            )
        return replace(layer, attention=attention, feed_forward=feed_forward)

    return PrunedNetwork(
        map_layers(network.encoder, smaller),
        tuple(_pick(old, heads) for old, (heads, _) in zip(network.heads, keep, strict=True)),
        tuple(_pick(old, columns) for old, (_, columns) in zip(network.columns, keep, strict=True)),
    )


def _pick(original: Indices, keep: Indices) -> Indices:
    return tuple(original[index] for index in keep)


def full_size_tensors(
    checkpoint: Checkpoint, tensors: Mapping[str, Tensor], network: PrunedNetwork
) -> dict[str, Tensor]:
    """Returns those of the checkpoint's `tensors` that `network` changes, under Hugging Face's names and at full size.

    A kept unit has its weights of `network` at its original index; all others are zero.
    """
    family, encoder = checkpoint.family, network.encoder
    dimensions = family.dimensions(checkpoint.config)
    changed = masked_tensors(tensors, family, checkpoint.config, checkpoint.encoder, network.plan)
    blocks = {row.name for path, row in family.layers.items() if path.startswith(("attention.", "feed_forward."))}
    for path, layer, index in zip(
        family.layer_paths(checkpoint.config), encoder.layers, encoder.layer_indices, strict=True
    ):
        full = full_size(layer, dimensions, is_gated=family.is_gated, columns=network.columns[index])
        table = family.present(family.layers, checkpoint.config, f"{path}.")
        written = write_part(table, full, whole=True)
        changed |= {
            f"{path}.{name}": value.to(tensors[f"{path}.{name}"].dtype)
            for name, value in written.items()
            if name in blocks
        }
    return changed
