"""Latency of sliced networks: milliseconds of blocks by the width of the residual stream and the number of their units."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.axes import take
from exporters.distances import Distances, Projection
from exporters.encoder import (
    AttentionScores,
    ConstantBlock,
    Encoder,
    FeatureHead,
    Layer,
    Linear,
    Norm,
    SpanHead,
    TokenHead,
)
from prune_export.families.names import NORMS
from prune_export.progress import SILENT, Progress
from prune_export.pruning.block_networks import COPIES, BlockNetworks, largest_layer, without_head
from prune_export.pruning.block_timing import open_session, time_in_turns
from prune_export.subarchitecture.candidate import Candidate

_PARTS = 4  # widths, and counts of columns, that are measured

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class WidthLatency:
    """Milliseconds by width. Rows are those of `widths`, columns those of the counts; times between them are interpolated.

    `rest` holds everything but the blocks: embeddings, skip matrices, norms and head of the whole network.
    """

    widths: tuple[int, ...]
    head_counts: tuple[int, ...]
    column_counts: tuple[int, ...]
    rest: tuple[float, ...]
    heads: Table
    columns: Table

    def total(self, candidate: Candidate, layer_indices: tuple[int, ...]) -> float:
        """Returns the milliseconds of a sliced candidate. A block counts at the mean width of what it reads and writes."""
        widths = candidate.widths
        total = float(np.interp(np.mean(widths), self.widths, self.rest))
        for layer, index in enumerate(layer_indices):
            before, middle, after = widths[2 * layer : 2 * layer + 3]
            # Query, key and value read, the output projection writes.
            total += self._time(self.heads, self.head_counts, candidate.heads[index], (3 * before + middle) / 4)
            total += self._time(self.columns, self.column_counts, candidate.columns[index], (middle + after) / 2)
        return total

    def _time(self, table: Table, counts: tuple[int, ...], count: int, width: float) -> float:
        if count == 0:
            return 0.0
        by_width = [float(np.interp(count, counts, row)) for row in table]
        return float(np.interp(width, self.widths, by_width))


def measure_widths(encoder: Encoder, settings: dict[str, Any], *, progress: Progress = SILENT) -> WidthLatency:
    """Measures blocks of sliced networks shaped like `encoder`, under the conditions of its latency table (`settings`)."""
    shape, hidden = largest_layer(encoder), encoder.hidden_size
    widths = _grid(hidden, 8)
    head_counts, column_counts = _grid(shape.heads, 1), _grid(shape.columns, 8)
    networks = []
    for width in widths:
        blocks = _SlicedBlocks(encoder, width)
        networks += [blocks.without_blocks(), blocks.repeated()]
        networks += [blocks.repeated(heads=count) for count in head_counts]
        networks += [blocks.repeated(columns=count) for count in column_counts]
    with tempfile.TemporaryDirectory() as name:
        progress.stage("Preparing sliced blocks", len(networks))
        yardstick, runs = open_session(encoder, settings, Path(name)), []
        for network in networks:
            runs.append(open_session(network, settings, Path(name)))
            progress.advance()
        progress.stage("Measuring sliced blocks")
        _, times = time_in_turns(yardstick, runs)
    measured = iter(times)
    rest: list[float] = []
    heads: list[tuple[float, ...]] = []
    columns: list[tuple[float, ...]] = []
    for _ in widths:
        rest.append(next(measured))
        empty = next(measured)
        for rows, counts in ((heads, head_counts), (columns, column_counts)):
            rows.append(tuple(max(0.0, (next(measured) - empty) / COPIES) for _ in counts))
    return WidthLatency(widths, head_counts, column_counts, tuple(rest), tuple(heads), tuple(columns))


def _grid(most: int, multiple: int) -> tuple[int, ...]:
    """Returns up to four ascending numbers, the last one `most`."""
    parts = (round(most * part / _PARTS / multiple) * multiple for part in range(1, _PARTS))
    return tuple(sorted({max(1, min(most, part)) for part in parts} | {most}))


class _SlicedBlocks(BlockNetworks):
    """Networks for timing whose residual stream has one width, with skip matrices and RMS norms."""

    def __init__(self, encoder: Encoder, width: int) -> None:
        super().__init__(encoder)
        self._dense, self._width = encoder, width
        self._sizes |= {"hidden": width, "written": width}
        embeddings = encoder.embeddings
        if embeddings.projection is None:
            embeddings = replace(take(embeddings, "embedding", range(width)), norm=_rms(width))
        else:
            embeddings = take(embeddings, "hidden", range(width))
        head = encoder.head
        if isinstance(head, FeatureHead):
            head = FeatureHead(Linear(torch.zeros(encoder.hidden_size, width), torch.zeros(encoder.hidden_size)))
        elif isinstance(head, SpanHead | TokenHead) and head.transform is not None:
            head = replace(head, transform=take(head.transform, "hidden", range(width)))
        else:
            head = take(head, "hidden", range(width))
        final_norm = None if encoder.final_norm is None else _rms(width)
        self._encoder = replace(encoder, embeddings=embeddings, head=head, final_norm=final_norm)
        self._body = without_head(self._encoder)

    def without_blocks(self) -> Encoder:
        return replace(self._encoder, layers=tuple(self._layer(0, 0) for _ in self._encoder.layers))

    def _scores(self, heads: int) -> AttentionScores:
        scores = super()._scores(heads)
        if not isinstance(scores, Distances):
            return scores
        shape = (heads, self._sizes["query_key"], self._dense.hidden_size)
        own = (scores.content_to_position, scores.position_to_content)
        key, query = (Projection(self._normal(shape), None) if there else None for there in own)
        return replace(scores, key=key, query=query)

    def _layer(self, heads: int, columns: int) -> Layer:
        layer = super()._layer(heads, columns)
        skip = torch.randn(self._width, self._width, generator=self._generator) * 0.02
        emptied = ConstantBlock(torch.zeros(self._width))
        return replace(
            layer,
            attention=layer.attention if heads else emptied,
            feed_forward=layer.feed_forward if columns else emptied,
            attention_skip=skip,
            feed_forward_skip=skip,
            **{name: _rms(self._width) for name in NORMS if getattr(layer, name) is not None},
        )


def _rms(width: int) -> Norm:
    return Norm(torch.ones(width), None, 1e-12, centered=False)
