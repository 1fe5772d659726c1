"""A network that is being pruned: what stands of it, and where that stood in the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from exporters.encoder import Attention, ConstantBlock, Encoder, FeedForward, Layer, Linear, map_layers
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.masking import masked_tensors
from prune_export.facts.plan import Indices, LayerPlan, Plan
from prune_export.pruning.selection import Kept


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """`encoder` with only what stands; `columns[layer]` are the original indices of each distinct layer's columns (heads
    carry theirs), `heads` likewise."""

    encoder: Encoder
    heads: tuple[Indices, ...]
    columns: tuple[Indices, ...]

    @property
    def plan(self) -> Plan:
        """What stands, layer by layer."""
        places = {key: place for place, key in enumerate(dict.fromkeys(id(layer) for layer in self.encoder.layers))}
        order = [places[id(layer)] for layer in self.encoder.layers]
        return Plan(tuple(LayerPlan(self.heads[place], self.columns[place], {}, {}) for place in order))


def unpruned(encoder: Encoder) -> Pruned:
    """Everything stands."""
    heads, columns = [], []
    for layer in {id(layer): layer for layer in encoder.layers}.values():
        heads.append(layer.attention.heads if isinstance(layer.attention, Attention) else ())
        columns.append(tuple(range(layer.feed_forward.columns)) if isinstance(layer.feed_forward, FeedForward) else ())
    return Pruned(encoder, tuple(heads), tuple(columns))


def cut(network: Pruned, keep: Kept) -> Pruned:
    """Keeps the heads and columns at the places `keep`, of what stands.

    Nothing is folded or compensated: the result computes what the same network with zeros (`masked_tensors`) does.
    """
    places = {key: place for place, key in enumerate(dict.fromkeys(id(layer) for layer in network.encoder.layers))}

    def smaller(_index: int, layer: Layer) -> Layer:
        heads, columns = keep[places[id(layer)]]
        return replace(
            layer,
            attention=_fewer_heads(layer.attention, heads),
            feed_forward=_fewer_columns(layer.feed_forward, columns),
        )

    return Pruned(
        map_layers(network.encoder, smaller),
        tuple(_pick(old, heads) for old, (heads, _) in zip(network.heads, keep, strict=True)),
        tuple(_pick(old, columns) for old, (_, columns) in zip(network.columns, keep, strict=True)),
    )


def _pick(old: Indices, places: Indices) -> Indices:
    return tuple(old[place] for place in places)


def _fewer_heads(block: Attention | ConstantBlock, keep: Indices) -> Attention | ConstantBlock:
    if isinstance(block, ConstantBlock):
        return block
    if not keep:
        return ConstantBlock(block.output_bias)
    at = list(keep)
    return replace(
        block,
        heads=_pick(block.heads, keep),
        query_weight=block.query_weight[at],
        query_bias=block.query_bias[at],
        key_weight=block.key_weight[at],
        key_bias=None if block.key_bias is None else block.key_bias[at],
        value_weight=block.value_weight[at],
        value_bias=None if block.value_bias is None else block.value_bias[at],
        output_weight=block.output_weight[:, at],
    )


def _fewer_columns(block: FeedForward | ConstantBlock, keep: Indices) -> FeedForward | ConstantBlock:
    if isinstance(block, ConstantBlock):
        return block
    if not keep:
        return ConstantBlock(block.down.bias)
    at = list(keep)
    return FeedForward(
        Linear(block.up.weight[at], block.up.bias[at]),
        block.activation,
        Linear(block.down.weight[:, at], block.down.bias),
    )


def full_size_tensors(checkpoint: Checkpoint, tensors: Mapping[str, Tensor], network: Pruned) -> dict[str, Tensor]:
    """What `network` changes of the checkpoint's `tensors`, under Hugging Face's names and at full size.

    Zeros where something goes; what stands has the weights that it has in `network`, at its original place.
    """
    family, names = checkpoint.family, checkpoint.family.layers
    changed = masked_tensors(tensors, family, checkpoint.config, checkpoint.encoder, network.plan)

    def put(name: str, value: Tensor, place: Any) -> None:
        if name not in changed:
            changed[name] = tensors[name].clone()
        changed[name][place] = value.to(changed[name].dtype)

    everything = slice(None)
    seen: set[int] = set()
    for index, layer in enumerate(network.encoder.layers):
        if id(layer) in seen:
            continue
        place = len(seen)
        seen.add(id(layer))
        path = f"{family.prefix}.{family.layer(checkpoint.config, index)}"
        block = layer.attention
        if isinstance(block, Attention):
            size = block.value_size
            rows = [head * size + dimension for head in network.heads[place] for dimension in range(size)]
            for name, weight, bias in (
                (names.query, block.query_weight, block.query_bias),
                (names.key, block.key_weight, block.key_bias),
                (names.value, block.value_weight, block.value_bias),
            ):
                put(f"{path}.{name}.weight", weight.flatten(0, 1), rows)
                if bias is not None:
                    put(f"{path}.{name}.bias", bias.flatten(), rows)
            put(f"{path}.{names.attention_output}.weight", block.output_weight.flatten(1), (everything, rows))
            put(f"{path}.{names.attention_output}.bias", block.output_bias, everything)
        else:
            put(f"{path}.{names.attention_output}.bias", block.bias, everything)
        inner = layer.feed_forward
        if isinstance(inner, FeedForward):
            columns = list(network.columns[place])
            put(f"{path}.{names.up}.weight", inner.up.weight, columns)
            put(f"{path}.{names.up}.bias", inner.up.bias, columns)
            put(f"{path}.{names.down}.weight", inner.down.weight, (everything, columns))
            put(f"{path}.{names.down}.bias", inner.down.bias, everything)
        else:
            put(f"{path}.{names.down}.bias", inner.bias, everything)
    return changed
