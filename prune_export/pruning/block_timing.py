"""Times real ONNX Runtime sessions: of single blocks for the latency table, and of whole networks side by side."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters.cost import LayerShape, layer_shape
from exporters.encoder import Attention, ConstantBlock, Encoder, FeatureHead, FeedForward, Layer, Linear
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.session import Session
from prune_export.progress import SILENT, Progress
from prune_export.pruning.latency import LatencyTable, latency_costs

_COPIES = 4  # blocks in a row: one alone is too short to time, and would stay in the cache
_WIDTHS = 16  # feed-forward widths that are measured, beside 0
_ROUNDS = 7
_SECONDS = 0.02  # the least that a session runs in a round


@dataclass(frozen=True, slots=True)
class Speed:
    """Milliseconds of the pruned network, predicted from the table and measured beside the unpruned one in one run."""

    predicted_ms: float
    measured_ms: float
    dense_predicted_ms: float
    dense_measured_ms: float

    def to_json(self) -> dict[str, float]:
        return {
            "predicted_ms": self.predicted_ms,
            "measured_ms": self.measured_ms,
            "dense_predicted_ms": self.dense_predicted_ms,
            "dense_measured_ms": self.dense_measured_ms,
            "predicted_speedup": self.dense_predicted_ms / self.predicted_ms,
            "measured_speedup": self.dense_measured_ms / self.measured_ms,
        }


def measure_speed(dense: Encoder, slim: Encoder, table: LatencyTable, *, predicted_ms: float) -> Speed:
    """Both networks as they are exported, run in turns."""
    with tempfile.TemporaryDirectory() as folder:
        found = _time([_session(part, table.settings, Path(folder)) for part in (dense, slim)])
    return Speed(predicted_ms, found[1], latency_costs(table, dense).dense, found[0])


def largest_layer(encoder: Encoder) -> LayerShape:
    """The most that any layer has of each size."""
    shapes = [layer_shape(layer) for layer in encoder.layers]
    sizes = [max(getattr(shape, name) for shape in shapes) for name in LayerShape.__slots__]
    return LayerShape(*sizes)


def measure_blocks(encoder: Encoder, settings: dict[str, Any], *, progress: Progress = SILENT) -> LatencyTable:
    """Measures the blocks of networks shaped like the unpruned `encoder`, as `settings` (those of the table) say."""
    shape = largest_layer(encoder)
    head_counts = list(range(1, shape.heads + 1))
    width_counts = sorted({max(1, round(shape.columns * part / _WIDTHS)) for part in range(1, _WIDTHS + 1)})
    body = replace(encoder, task="feature-extraction", head=FeatureHead())
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        progress.stage("Preparing block sessions", len(head_counts) + len(width_counts) + 2)
        networks = [
            replace(encoder, layers=tuple(_constant(layer) for layer in encoder.layers)),
            replace(body, layers=tuple(_constant(encoder.layers[0]) for _ in range(_COPIES))),
        ]
        networks += [_repeated(body, shape, generator, heads=count) for count in head_counts if shape.heads]
        networks += [_repeated(body, shape, generator, columns=count) for count in width_counts if shape.columns]
        runs = []
        for network in networks:
            runs.append(_session(network, settings, folder))
            progress.advance()
        progress.stage("Measuring blocks", _ROUNDS)
        rest, empty, *blocks = _time(runs, progress.advance)
    each = [max(0.0, (value - empty) / _COPIES) for value in blocks]
    heads = tuple(zip(head_counts, each, strict=False))
    columns = tuple(zip(width_counts, each[len(head_counts) :], strict=False))
    return LatencyTable(settings, rest, ((0, 0.0), *heads), ((0, 0.0), *columns))


def _constant(layer: Layer) -> Layer:
    nothing = ConstantBlock(torch.zeros(layer.attention_norm.weight.shape[0]))
    return replace(layer, attention=nothing, feed_forward=nothing)


def _repeated(
    body: Encoder, shape: LayerShape, generator: torch.Generator, *, heads: int = 0, columns: int = 0
) -> Encoder:
    """Layers with one kind of block, each with weights of its own, as in a real network."""
    hidden = body.hidden_size
    activation = next(
        (layer.feed_forward.activation for layer in body.layers if isinstance(layer.feed_forward, FeedForward)), "gelu"
    )

    def weights(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator) * 0.02

    layers = []
    for _ in range(_COPIES):
        layer = _constant(body.layers[0])
        if heads:
            block = Attention(
                heads=tuple(range(heads)),
                query_weight=weights(heads, shape.query_key_size, hidden),
                query_bias=weights(heads, shape.query_key_size),
                key_weight=weights(heads, shape.query_key_size, hidden),
                key_bias=None,
                value_weight=weights(heads, shape.value_size, hidden),
                value_bias=None,
                output_weight=weights(hidden, heads, shape.value_size),
                output_bias=weights(hidden),
                scale=shape.query_key_size**-0.5,
            )
            layer = replace(layer, attention=block)
        if columns:
            up, down = (
                Linear(weights(columns, hidden), weights(columns)),
                Linear(weights(hidden, columns), weights(hidden)),
            )
            layer = replace(layer, feed_forward=FeedForward(up, activation, down))
        layers.append(layer)
    return replace(body, layers=tuple(layers))


def _session(encoder: Encoder, settings: dict[str, Any], folder: Path) -> Callable[[], object]:
    """A network as it would be exported, ready to run once."""
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    target, precision = TARGETS[settings["target"]], PRECISIONS[settings["dtype"]]
    save(build(encoder, target, precision), path)
    session = Session(
        path,
        provider=settings["provider"],
        threads=settings["threads"],
        settings=target.settings(precision, encoder.embeddings.max_length),
    )
    shape = (settings["batch_size"], settings["sequence_length"])
    numbers = np.random.default_rng(0).integers(0, encoder.embeddings.word.shape[0], size=shape)
    inputs = {
        "input_ids": numbers.astype(np.int64),
        "attention_mask": np.ones(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }
    return lambda: session.run(inputs)


def _time(runs: Sequence[Callable[[], object]], advance: Callable[[], None] = lambda: None) -> list[float]:
    """Milliseconds of one run of each: the median over rounds of the median within a round, all in turns."""
    for run in runs:
        run()
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(_ROUNDS):
        for place, run in enumerate(runs):
            times: list[float] = []
            while sum(times) < _SECONDS or len(times) < 3:
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            found[place].append(statistics.median(times))
        advance()
    return [1000 * statistics.median(times) for times in found]
