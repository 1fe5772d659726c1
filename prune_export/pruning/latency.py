"""Latency tables: milliseconds of single blocks by the number of units that each keeps, and costs made from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.cost import layer_shape
from exporters.encoder import Encoder
from prune_export.facts.format import Format
from prune_export.options.checking import checked
from prune_export.options.ranges import Range
from prune_export.options.timing import TimingConditions
from prune_export.pruning.costs import Costs
from prune_export.tasks import usual_length

# Each way of measuring has a version of its own, so that no older table passes for a current one.
FORMAT = Format("prune-export/latency", 3)

Pairs = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Milliseconds of one block by the number of units that it keeps, and of the rest of the network.

    `settings` say what was measured, and where: the table holds for nothing else. `heads` and `columns` are pairs of a count
    and milliseconds, ascending from 0; times between two counts are interpolated. `last_heads` and `last_columns` are those
    of the last layer with attention, and of what follows it, where the task reads the first token only: the exported graph
    computes that layer for the first token alone. They are empty for other tasks.
    """

    settings: dict[str, Any]
    rest: float
    heads: Pairs
    columns: Pairs
    last_heads: Pairs = ()
    last_columns: Pairs = ()

    def to_json(self) -> dict[str, Any]:
        data = {
            "settings": self.settings,
            "rest_ms": self.rest,
            "heads_ms": [list(pair) for pair in self.heads],
            "columns_ms": [list(pair) for pair in self.columns],
            "last_heads_ms": [list(pair) for pair in self.last_heads],
            "last_columns_ms": [list(pair) for pair in self.last_columns],
        }
        return FORMAT.marked(data)

    @checked
    def scaled(self, factor: float) -> LatencyTable:
        """Returns the table with every block's time multiplied by `factor`."""
        scaled: dict[str, Any] = {
            name: tuple((count, factor * value) for count, value in getattr(self, name))
            for name in ("heads", "columns", "last_heads", "last_columns")
        }
        return replace(self, **scaled)


def latency_costs(table: LatencyTable, encoder: Encoder) -> Costs:
    """Returns the costs of `encoder`'s blocks by the table; more units never cost less."""
    count = len(encoder.layers)
    if not table.last_heads:
        return _costs(table, encoder, last_attention=count)
    cases = tuple(_costs(table, encoder, last_attention=index) for index in range(count - 1, -2, -1))
    return replace(cases[0], cases=cases)


def _costs(table: LatencyTable, encoder: Encoder, *, last_attention: int) -> Costs:
    """Returns the costs of the exported networks whose last attention is in the layer `last_attention`.

    -1 is the case of networks without attention, the number of layers that of tasks that read every token.
    """
    heads: list[list[float]] = []
    columns: list[list[float]] = []
    for layer in encoder.distinct_layers:
        shape = layer_shape(layer)
        heads_of_all, heads_of_first = (_by_count(pairs, shape.heads) for pairs in (table.heads, table.last_heads))
        columns_of_all, columns_of_first = (
            _by_count(pairs, shape.columns) for pairs in (table.columns, table.last_columns)
        )
        of_heads, of_columns = np.zeros(shape.heads + 1), np.zeros(shape.columns + 1)
        for index, applied in enumerate(encoder.layers):
            if applied is not layer:
                continue
            if index < last_attention:
                of_heads += heads_of_all
            elif index == last_attention:
                of_heads += heads_of_first
                of_heads[0] = np.inf
            else:
                of_heads[1:] = np.inf
            of_columns += columns_of_all if index < last_attention else columns_of_first
        heads.append(of_heads.tolist())
        columns.append(of_columns.tolist())
    dense = table.rest + sum(costs[-1] for costs in (*heads, *columns))
    return Costs("ms", dense, table.rest, tuple(map(tuple, heads)), tuple(map(tuple, columns)))


def _by_count(pairs: Pairs, most: int) -> NDArray[np.float64]:
    """Returns the milliseconds of a block for each count from 0 to `most`."""
    if not pairs:
        return np.zeros(most + 1)
    counts, values = zip(*pairs, strict=True)
    # The first unit brings the block's fixed cost with it: nothing is interpolated from 0.
    interpolated = np.interp(np.arange(1, most + 1), counts[1:], values[1:])
    return np.concatenate([[0.0], np.maximum.accumulate(interpolated)])


def timing_length(conditions: TimingConditions, encoder: Encoder) -> int:
    """Returns the sequence length, in tokens, at which time is measured.

    Raises:
        UsageError: it is longer than the network's positions.
    """
    if conditions.sequence_length is None:
        return usual_length(encoder)
    length: int = Range(1, encoder.embeddings.max_length, whole=True).checked(
        "--sequence-length", conditions.sequence_length
    )
    return length
