"""What a row costs in FLOPs, from the shapes of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporters.cost import LayerShape, flops_per_token
from prune_export.benchmark.rows import Cost


def cost_of_layers(shapes: tuple[LayerShape, ...], hidden_size: int) -> Cost:
    """The cost of layers of these shapes."""
    constant = flops_per_token(shapes, hidden_size=hidden_size, sequence_length=0)
    return Cost(constant, flops_per_token(shapes, hidden_size=0, sequence_length=1))


def cost_of_record(record: Mapping[str, Any]) -> Cost | None:
    """The cost of an exported model, from its record's layer shapes; None where there is no record of ours."""
    try:
        shapes = tuple(
            LayerShape(*(layer[name]["after"] for name in ("heads", "query_key_size", "value_size", "columns")))
            for layer in record["summary"]["layers"]
        )
        length, flops = next(iter(record["summary"]["flops_per_token"].items()))
        per_length = flops_per_token(shapes, hidden_size=0, sequence_length=1)
        return Cost(flops["after"] - per_length * int(length), per_length)
    except (KeyError, TypeError, ValueError, StopIteration):
        return None
