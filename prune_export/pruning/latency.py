"""Time as a cost: milliseconds of single blocks in a table, by how much each keeps."""

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

# Each way of measuring has another version, so that no older table is taken for one of this.
FORMAT = Format("prune-export/latency", 3)


Pairs = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Milliseconds of one block by how much it keeps, and of the rest of the network.

    `settings` is what was measured and where: the table serves nothing else. `heads` and `columns` hold pairs of a count and
    milliseconds, ascending from 0; between widths times are interpolated. `last_heads` and `last_columns` are those of the
    last layer with attention (and of what follows it) where the task reads the first token only: the exported graph then
    computes that layer for the first token. Empty for other tasks.
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
        """The same table with every block's time multiplied by `factor`."""
        parts: dict[str, Any] = {
            name: tuple((count, factor * value) for count, value in getattr(self, name))
            for name in ("heads", "columns", "last_heads", "last_columns")
        }
        return replace(self, **parts)


def latency_costs(table: LatencyTable, encoder: Encoder) -> Costs:
    """The table as costs of `encoder`'s blocks; more units never cost less."""
    last = len(encoder.layers) - 1
    if not table.last_heads:
        return _case(table, encoder, len(encoder.layers))
    cases = tuple(_case(table, encoder, place) for place in range(last, -2, -1))
    return replace(cases[0], cases=cases)


def _case(table: LatencyTable, encoder: Encoder, last: int) -> Costs:
    """What networks cost whose last attention stands at the place `last` (-1: that have none), as they are exported.

    `last` beyond the end is the case of tasks that read every token.
    """
    heads: list[list[float]] = []
    columns: list[list[float]] = []
    for layer in encoder.distinct_layers:
        shape = layer_shape(layer)
        full, short = (_by_count(pairs, shape.heads) for pairs in (table.heads, table.last_heads))
        wide, narrow = (_by_count(pairs, shape.columns) for pairs in (table.columns, table.last_columns))
        of_heads, of_columns = np.zeros(shape.heads + 1), np.zeros(shape.columns + 1)
        for place, stands in enumerate(encoder.layers):
            if stands is not layer:
                continue
            if place < last:
                of_heads += full
            elif place == last:
                of_heads += short
                of_heads[0] = np.inf
            else:
                of_heads[1:] = np.inf
            of_columns += wide if place < last else narrow
        heads.append(of_heads.tolist())
        columns.append(of_columns.tolist())
    dense = table.rest + sum(part[-1] for part in (*heads, *columns))
    return Costs("ms", dense, table.rest, tuple(map(tuple, heads)), tuple(map(tuple, columns)))


def _by_count(pairs: Pairs, most: int) -> NDArray[np.float64]:
    if not pairs:
        return np.zeros(most + 1)
    counts, values = zip(*pairs, strict=True)
    # One unit more than none brings the block's fixed cost with it: nothing is interpolated from 0.
    found = np.interp(np.arange(1, most + 1), counts[1:], values[1:])
    return np.concatenate([[0.0], np.maximum.accumulate(found)])


def length_of(conditions: TimingConditions, encoder: Encoder) -> int:
    """Returns the length that time is measured at, in tokens.

    Raises:
        UsageError: it is longer than the network's positions.
    """
    if conditions.sequence_length is None:
        return usual_length(encoder)
    length: int = Range(1, encoder.embeddings.max_length, whole=True).checked(
        "--sequence-length", conditions.sequence_length
    )
    return length
