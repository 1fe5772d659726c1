"""Latency of plain networks: milliseconds of a layer's blocks by hidden size and number of units, measured."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.axes import take
from exporters.encoder import AttentionScores, ConstantBlock, Encoder, Layer, MaskedLanguageHead
from prune_export.families.names import NORMS
from prune_export.progress import SILENT, Progress
from prune_export.pruning.block_networks import COPIES, BlockNetworks, without_head
from prune_export.pruning.block_timing import open_session, time_in_turns
from prune_export.subarchitecture.pareto import spread
from prune_export.subarchitecture.shape import Shape

_MOST_SIZES = 6  # of one kind that are measured; times between them are interpolated

Pairs = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class WidthTimes:
    """Milliseconds at one hidden size: of everything but the blocks, and of one block by the number of its units.

    `last_heads` and `last_columns` are those of the last layer where the task reads the first token only, otherwise empty.
    """

    hidden: int
    rest: float
    heads: Pairs
    columns: Pairs
    last_heads: Pairs = ()
    last_columns: Pairs = ()

    def total(self, shape: Shape, factor: float) -> float:
        """Returns the milliseconds of a network of `shape` at this hidden size; blocks count `factor` times."""
        layer = _at(self.heads, shape.heads) + _at(self.columns, shape.intermediate)
        last = layer
        if self.last_heads:
            last = _at(self.last_heads, shape.heads) + _at(self.last_columns, shape.intermediate)
        return self.rest + factor * ((shape.depth - 1) * layer + last)


@dataclass(frozen=True, slots=True)
class ShapeLatency:
    """Times by ascending hidden size. `factor` makes the blocks of the parent add up to its own measured time."""

    widths: tuple[WidthTimes, ...]
    factor: float = 1.0

    def total(self, shape: Shape) -> float:
        """Returns the milliseconds of one batch."""
        times = [width.total(shape, self.factor) for width in self.widths]
        return float(np.interp(shape.hidden, [width.hidden for width in self.widths], times))


def _at(pairs: Pairs, count: int) -> float:
    counts, times = zip(*pairs, strict=True)
    return float(np.interp(count, counts, times))


def measure_shapes(
    encoder: Encoder, parent: Shape, shapes: Sequence[Shape], settings: dict[str, Any], *, progress: Progress = SILENT
) -> ShapeLatency:
    """Measures the blocks of plain networks of `shapes`, made of `encoder`, whose own shape is `parent`.

    `settings` are those of `timing_settings`. Networks of one hidden size run in turns, each of them as a fraction of the
    parent's time.
    """
    every = (*shapes, parent)
    columns = _sizes(shape.intermediate for shape in every)
    fractions: list[tuple[int, tuple[int, ...], list[float]]] = []
    wholes: list[float] = []
    for hidden in _sizes(shape.hidden for shape in every):
        heads = _sizes(shape.heads for shape in every if shape.hidden == hidden)
        whole, times = _measure(encoder, _networks(encoder, hidden, heads, columns), settings, f"{hidden:,}", progress)
        wholes.append(whole)
        fractions.append((hidden, heads, [time / whole for time in times]))
    dense = statistics.median(wholes)
    has_last = encoder.head.reads_first_token_only
    widths = tuple(
        _width_times(hidden, heads, columns, iter([dense * part for part in parts]), has_last=has_last)
        for hidden, heads, parts in fractions
    )
    table = ShapeLatency(widths)
    rest = next(width.rest for width in widths if width.hidden == parent.hidden)
    predicted = table.total(parent)
    return replace(table, factor=(dense - rest) / (predicted - rest)) if min(dense, predicted) > rest else table


def _networks(encoder: Encoder, hidden: int, heads: tuple[int, ...], columns: tuple[int, ...]) -> list[Encoder]:
    blocks = _PlainBlocks(encoder, hidden)
    networks = [blocks.without_blocks(), blocks.repeated()]
    networks += [blocks.repeated(heads=count) for count in heads]
    networks += [blocks.repeated(columns=count) for count in columns]
    if encoder.head.reads_first_token_only:
        networks += [blocks.last_layer(heads=count) for count in heads]
        networks += [blocks.last_layer(heads=heads[0], columns=count) for count in columns]
    return networks


def _measure(
    encoder: Encoder, networks: list[Encoder], settings: dict[str, Any], hidden: str, progress: Progress
) -> tuple[float, list[float]]:
    """Returns the milliseconds of `encoder` and of each of the networks."""
    with tempfile.TemporaryDirectory() as name:
        progress.stage(f"Preparing layers of hidden size {hidden}", len(networks))
        yardstick, runs = open_session(encoder, settings, Path(name)), []
        for network in networks:
            runs.append(open_session(network, settings, Path(name)))
            progress.advance()
        progress.stage(f"Measuring layers of hidden size {hidden}")
        return time_in_turns(yardstick, runs)


def _width_times(
    hidden: int, heads: tuple[int, ...], columns: tuple[int, ...], measured: Iterator[float], *, has_last: bool
) -> WidthTimes:
    def pairs(counts: tuple[int, ...], base: float, copies: int) -> Pairs:
        return tuple((count, max(0.0, (next(measured) - base) / copies)) for count in counts)

    rest, empty = next(measured), next(measured)
    of_heads, of_columns = pairs(heads, empty, COPIES), pairs(columns, empty, COPIES)
    if not has_last:
        return WidthTimes(hidden, rest, of_heads, of_columns)
    last_heads = pairs(heads, rest, 1)
    return WidthTimes(hidden, rest, of_heads, of_columns, last_heads, pairs(columns, rest + last_heads[0][1], 1))


def _sizes(sizes: Iterable[int]) -> tuple[int, ...]:
    return spread(sorted(set(sizes)), _MOST_SIZES, float)


class _PlainBlocks(BlockNetworks):
    """Networks for timing of one hidden size, whose heads have `hidden // heads` dimensions."""

    def __init__(self, encoder: Encoder, hidden: int) -> None:
        super().__init__(encoder)
        self._sizes |= {"hidden": hidden, "written": hidden}
        self._encoder = _narrow(encoder, hidden)
        self._body = without_head(self._encoder)

    def _scores(self, heads: int) -> AttentionScores:
        return take(super()._scores(heads), "distance_feature", range(self._sizes["hidden"]))

    def _layer(self, heads: int, columns: int) -> Layer:
        if heads:
            size = self._sizes["hidden"] // heads
            self._sizes |= {"query_key": size, "value": size}
        return super()._layer(heads, columns)


def _narrow(encoder: Encoder, hidden: int) -> Encoder:
    """Returns the embeddings, norms and head of `encoder` with the hidden size `hidden`, and layers without blocks."""
    kept, emptied = range(hidden), ConstantBlock(torch.zeros(hidden))
    embeddings, head = encoder.embeddings, take(encoder.head, "hidden", kept)
    if embeddings.projection is not None:
        embeddings = take(embeddings, "hidden", kept)
    else:
        embeddings = take(embeddings, "embedding", kept)
        if isinstance(head, MaskedLanguageHead):
            is_tied = head.decoder.weight is encoder.embeddings.word
            head = take(head, "embedding", kept)
            head = replace(head, decoder=replace(head.decoder, weight=embeddings.word)) if is_tied else head
    layers = tuple(
        replace(
            layer,
            attention=emptied,
            feed_forward=emptied,
            **{name: take(norm, "features", kept) for name in NORMS if (norm := getattr(layer, name)) is not None},
        )
        for layer in encoder.layers
    )
    final_norm = None if encoder.final_norm is None else take(encoder.final_norm, "features", kept)
    return replace(encoder, embeddings=embeddings, layers=layers, head=head, final_norm=final_norm)
