"""Time as a cost: measured ONNX Runtime sessions of single blocks, kept in a table, and whole networks side by side."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters import runtime
from exporters.cost import LayerShape, layer_shape
from exporters.encoder import Attention, ConstantBlock, Encoder, FeatureHead, FeedForward, Layer, Linear
from exporters.errors import UsageError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build, check_precision
from exporters.session import Session
from prune_export.data.features import QUESTION_LENGTH, TEXT_LENGTH
from prune_export.exporting import resolve_target
from prune_export.progress import SILENT, Progress
from prune_export.pruning.costs import Costs
from prune_export.pruning.scores import applications, distinct_layers
from prune_export.record import versions

FORMAT = "prune-export/latency"
VERSION = 1

_COPIES = 4  # blocks in a row: one alone is too short to time, and would stay in the cache
_WIDTHS = 16  # feed-forward widths that are measured, beside 0
_ROUNDS = 7
_SECONDS = 0.02  # the least that a session runs in a round


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


def latency_table(
    encoder: Encoder,
    *,
    target: str = "cpu",
    dtype: str = "fp32",
    batch_size: int = 1,
    sequence_length: int = 128,
    threads: int | None = None,
    fresh: bool = False,
    progress: Progress = SILENT,
) -> LatencyTable:
    """The table for networks shaped like the unpruned `encoder`, measured on this machine or found in the cache.

    `fresh` measures anew. The cache is the folder `prune-export/latency` in XDG_CACHE_HOME (default: ~/.cache).

    Raises:
        UsageError: an option is out of range.
        WriteError, ProviderError: the target has no form for `dtype`, or does not run here.
    """
    settings = _settings(encoder, target, dtype, batch_size, sequence_length, threads)
    path = _cache() / f"{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]}.json"
    if not fresh and (found := _read(path, settings)) is not None:
        return found
    table = _measure(encoder, settings, progress)
    _store(path, table)
    return table


def usual_length(encoder: Encoder) -> int:
    """Tokens for which time and FLOPs count where nothing is said: 384 for question answering, else 128, or what it has."""
    usual = QUESTION_LENGTH if encoder.task == "question-answering" else TEXT_LENGTH
    return min(usual, encoder.embeddings.max_length)


def measure_speed(dense: Encoder, slim: Encoder, table: LatencyTable, *, predicted_ms: float) -> Speed:
    """Both networks as they are exported, run in turns."""
    with tempfile.TemporaryDirectory() as folder:
        found = _time([_session(part, table.settings, Path(folder)) for part in (dense, slim)])
    return Speed(predicted_ms, found[1], latency_costs(table, dense).dense, found[0])


# --- settings and cache -----------------------------------------------------------------------------------------------


def _settings(
    encoder: Encoder, target: str, dtype: str, batch_size: int, sequence_length: int, threads: int | None
) -> dict[str, Any]:
    if dtype not in PRECISIONS:
        raise UsageError(f"--dtype {dtype}: expected one of {', '.join(PRECISIONS)}")
    longest = encoder.embeddings.max_length
    for option, value, most in (("batch-size", batch_size, 1 << 16), ("sequence-length", sequence_length, longest)):
        if not 1 <= value <= most:
            raise UsageError(f"--{option} {value}: expected 1 to {most}")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: expected 1 or more")
    chosen = TARGETS[resolve_target(target, PRECISIONS[dtype], needs_runtime=True)]
    check_precision(chosen, PRECISIONS[dtype])
    shape = _largest(encoder)
    embeddings = encoder.embeddings
    return {
        "target": chosen.name,
        "provider": "cuda" if chosen.provider == runtime.PROVIDERS["cuda"] else "cpu",
        "hardware": _hardware(chosen.provider),
        "threads": threads,
        "versions": {name: found for name, found in versions().items() if name.startswith(("onnxruntime", "prune"))},
        "dtype": dtype,
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "layers": len(encoder.layers),
        "hidden_size": encoder.hidden_size,
        "heads": shape.heads,
        "head_size": shape.value_size,
        "columns": shape.columns,
        "activation": next(
            (part.feed_forward.activation for part in encoder.layers if isinstance(part.feed_forward, FeedForward)), ""
        ),
        "vocabulary": list(embeddings.word.shape),
        "task": encoder.task,
        "outputs": sum(part.numel() for part in _head_weights(encoder)),
    }


def _head_weights(encoder: Encoder) -> list[Tensor]:
    from exporters.encoder import tensors

    return list(tensors(encoder.head))


def _largest(encoder: Encoder) -> LayerShape:
    shapes = [layer_shape(layer) for layer in encoder.layers]
    sizes = [max(getattr(shape, name) for shape in shapes) for name in LayerShape.__slots__]
    return LayerShape(*sizes)


def _hardware(provider: str) -> str:
    if provider == runtime.PROVIDERS["cuda"] and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {available} cores"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prune-export" / "latency"


def _read(path: Path, settings: dict[str, Any]) -> LatencyTable | None:
    """The stored table; None where there is none that can be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if (data["format"], data["version"], data["settings"]) != (FORMAT, VERSION, settings):
            return None
        heads, columns = (tuple((int(n), float(ms)) for n, ms in data[key]) for key in ("heads_ms", "columns_ms"))
        return LatencyTable(settings, float(data["rest_ms"]), heads, columns)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(path: Path, table: LatencyTable) -> None:
    """Nothing depends on the cache: where it cannot be written, the next run measures again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(table.to_json(), file)
        Path(file.name).replace(path)


# --- measuring --------------------------------------------------------------------------------------------------------


def _measure(encoder: Encoder, settings: dict[str, Any], progress: Progress) -> LatencyTable:
    shape = _largest(encoder)
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
