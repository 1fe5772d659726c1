"""The cost of a row in FLOPs, from the shapes of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from exporters.cost import LayerShape, flops_per_token
from prune_export.benchmark.rows import Cost
from prune_export.checkpoint.summarize import LENGTHS


def cost_of_layers(shapes: tuple[LayerShape, ...], hidden_size: int) -> Cost:
    """Returns the cost of layers of these shapes."""
    return _through({n: flops_per_token(shapes, hidden_size=hidden_size, sequence_length=n) for n in LENGTHS})


def _through(flops: Mapping[int, int]) -> Cost:
    """Returns the cost that grows evenly with the length, as all but that of tables of distances does."""
    short, long = min(flops), max(flops)
    per_length = (flops[long] - flops[short]) // (long - short)
    return Cost(flops[short] - per_length * short, per_length)


def cost_of_record(record: Mapping[str, Any]) -> Cost | None:
    """Returns the cost of an exported model, from its record's layer shapes; None without a record of ours."""
    try:
        summary = msgspec.convert(record.get("summary"), _Summary, str_keys=True)
    except msgspec.ValidationError:
        return None
    if not summary.flops_per_token:
        return None
    shapes = tuple(
        LayerShape(layer.heads.after, layer.query_key_size.after, layer.value_size.after, layer.columns.after)
        for layer in summary.layers
    )
    if len(summary.flops_per_token) > 1:
        return _through({length: flops.after for length, flops in summary.flops_per_token.items()})
    length, flops = next(iter(summary.flops_per_token.items()))
    per_length = flops_per_token(shapes, hidden_size=0, sequence_length=1)
    return Cost(flops.after - per_length * length, per_length)


_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class _Change(msgspec.Struct):
    after: _Count


class _RecordedLayer(msgspec.Struct):
    heads: _Change
    query_key_size: _Change
    value_size: _Change
    columns: _Change


class _Summary(msgspec.Struct):
    layers: list[_RecordedLayer]
    flops_per_token: dict[int, _Change]
