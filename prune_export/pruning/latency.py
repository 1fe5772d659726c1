"""Time as a cost: milliseconds of single blocks in a table, by how much each keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporters.cost import layer_shape
from exporters.encoder import Encoder
from prune_export.data.features import QUESTION_LENGTH, TEXT_LENGTH
from prune_export.pruning.costs import Costs
from prune_export.pruning.scores import applications, distinct_layers

FORMAT = "prune-export/latency"
VERSION = 1


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Milliseconds of one block by how much it keeps, and of the rest of the network.

    `settings` is what was measured and where: the table serves nothing else. `heads` and `columns` hold pairs of a count and
    milliseconds, ascending from 0; between widths times are interpolated.
    """

    settings: dict[str, Any]
    rest: float
    heads: tuple[tuple[int, float], ...]
    columns: tuple[tuple[int, float], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "rest_ms": self.rest,
            "heads_ms": [list(pair) for pair in self.heads],
            "columns_ms": [list(pair) for pair in self.columns],
        }


def latency_costs(table: LatencyTable, encoder: Encoder) -> Costs:
    """The table as costs of `encoder`'s blocks; more units never cost less."""
    heads, columns = [], []
    for layer, times in zip(distinct_layers(encoder), applications(encoder), strict=True):
        shape = layer_shape(layer)
        heads.append(_by_count(table.heads, shape.heads, times))
        columns.append(_by_count(table.columns, shape.columns, times))
    dense = table.rest + sum(part[-1] for part in (*heads, *columns))
    return Costs("ms", dense, table.rest, tuple(heads), tuple(columns))


def _by_count(pairs: Sequence[tuple[int, float]], most: int, times: int) -> tuple[float, ...]:
    counts, values = zip(*pairs, strict=True)
    # One unit more than none brings the block's fixed cost with it: nothing is interpolated from 0.
    found = np.interp(np.arange(1, most + 1), counts[1:], values[1:])
    return (0.0, *(times * np.maximum.accumulate(found)).tolist())


def usual_length(encoder: Encoder) -> int:
    """Tokens for which time and FLOPs count where nothing is said: 384 for question answering, else 128, or what it has."""
    usual = QUESTION_LENGTH if encoder.task == "question-answering" else TEXT_LENGTH
    return min(usual, encoder.embeddings.max_length)
