"""Keeps the latency tables that were measured on this machine, and reads them back."""

from __future__ import annotations

import hashlib
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import torch

from exporters import runtime
from exporters.encoder import Encoder, tensors
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.targets.choice import resolve_target
from exporters.onnx.writer import check_precision
from exporters.providers import Provider
from prune_export.facts.machine import processor
from prune_export.facts.record import versions
from prune_export.files.caches import cache_folder, cached_file
from prune_export.options.timing import TimingConditions
from prune_export.progress import SILENT, Progress
from prune_export.pruning.block_networks import largest_layer
from prune_export.pruning.block_timing import measure_blocks
from prune_export.pruning.latency import FORMAT, LatencyTable, timing_length

DEFAULT_CONDITIONS = TimingConditions()
_LARGEST_TABLE = 1 << 20  # bytes; a table has some thousand


def latency_table(
    encoder: Encoder,
    conditions: TimingConditions = DEFAULT_CONDITIONS,
    *,
    fresh: bool = False,
    progress: Progress = SILENT,
) -> LatencyTable:
    """Returns the table for networks shaped like the unpruned `encoder`: from the cache, otherwise measured on this machine.

    It is measured in any case with `fresh`, and where the cached table is damaged.

    Raises:
        UsageError: the sequence is longer than the network's positions.
        WriteError, ProviderError: the target has no form for the dtype, or does not run here.
    """
    settings = timing_settings(encoder, conditions)
    folder = cache_folder("latency")
    path = None if folder is None else folder / f"{hashlib.sha256(_canonical(settings)).hexdigest()[:24]}.json"
    if path is not None and not fresh and (cached := _read(path, settings)) is not None:
        return cached
    table = measure_blocks(encoder, settings, progress=progress)
    if path is not None:
        with suppress(OSError), cached_file(path) as file:
            file.write(json.dumps(table.to_json(), allow_nan=False).encode())
    return table


def _canonical(settings: dict[str, Any]) -> bytes:
    return json.dumps(settings, sort_keys=True).encode()


def timing_settings(encoder: Encoder, conditions: TimingConditions) -> dict[str, Any]:
    """Returns all that the times of networks shaped like `encoder` depend on, here and under `conditions`.

    Raises:
        UsageError, WriteError, ProviderError: see `latency_table`.
    """
    length = timing_length(conditions, encoder)
    runtime.check_threads(conditions.threads)
    precision = PRECISIONS[conditions.dtype]
    target = resolve_target(conditions.target, precision, needs_runtime=True)
    check_precision(target, precision)
    shape = largest_layer(encoder)
    return {
        "target": target.name,
        "provider": target.provider.name,
        "hardware": _hardware(target.provider),
        "threads": conditions.threads,
        "versions": {
            name: version for name, version in versions().items() if name.startswith(("onnxruntime", "prune"))
        },
        "dtype": conditions.dtype,
        "batch_size": conditions.batch_size,
        "sequence_length": length,
        "layers": len(encoder.layers),
        "hidden_size": encoder.hidden_size,
        "heads": shape.heads,
        "head_size": shape.value_size,
        "columns": shape.columns,
        "activation": encoder.activation,
        "vocabulary": list(encoder.embeddings.word.shape),
        "task": encoder.task,
        "outputs": sum(tensor.numel() for tensor in tensors(encoder.head)),
    }


def _hardware(provider: Provider) -> str:
    if provider.is_gpu and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {available} cores"


class _CachedTable(msgspec.Struct, forbid_unknown_fields=True):
    """A table as `LatencyTable.to_json` writes it."""

    format: str
    version: int
    settings: dict[str, Any]
    rest_ms: float
    heads_ms: list[tuple[int, float]]
    columns_ms: list[tuple[int, float]]
    last_heads_ms: list[tuple[int, float]]
    last_columns_ms: list[tuple[int, float]]


def _read(path: Path, settings: dict[str, Any]) -> LatencyTable | None:
    """Reads a cached table; None where it cannot be read, or its numbers cannot be those of `settings`."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_TABLE:
            return None
        data = msgspec.json.decode(path.read_bytes(), type=_CachedTable)
        same = _canonical(data.settings) == _canonical(settings)
    except (OSError, msgspec.DecodeError, RecursionError, ValueError):
        return None
    if not same or not FORMAT.marks({"format": data.format, "version": data.version}) or not _is_time(data.rest_ms):
        return None
    heads, columns = list(range(settings["heads"] + 1)), settings["columns"]
    has_last_layer = bool(data.last_heads_ms)
    fits = (
        [count for count, _ in data.heads_ms] == heads
        and [count for count, _ in data.last_heads_ms] == (heads if has_last_layer else [])
        and _ascend(data.columns_ms, columns)
        and (_ascend(data.last_columns_ms, columns) if has_last_layer else not data.last_columns_ms)
    )
    measured = tuple(map(tuple, (data.heads_ms, data.columns_ms, data.last_heads_ms, data.last_columns_ms)))
    if not fits or not all(_is_time(time) for pairs in measured for _, time in pairs):
        return None
    return LatencyTable(settings, data.rest_ms, *measured)


def _ascend(pairs: list[tuple[int, float]], largest: int) -> bool:
    """Says whether the counts ascend from 0 to `largest`, each one once."""
    counts = [count for count, _ in pairs]
    return counts == sorted(set(counts)) and counts[:1] == [0] and counts[-1:] == [largest]


def _is_time(milliseconds: float) -> bool:
    return math.isfinite(milliseconds) and milliseconds >= 0
