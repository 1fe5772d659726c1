"""Latency tables that were measured on this machine are kept, and found again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporters import runtime
from exporters.encoder import Encoder, FeedForward, tensors
from exporters.errors import UsageError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import check_precision
from prune_export.benchmark.machine import processor
from prune_export.exporting import resolve_target
from prune_export.progress import SILENT, Progress
from prune_export.pruning.block_networks import largest_layer
from prune_export.pruning.block_timing import measure_blocks
from prune_export.pruning.latency import FORMAT, VERSION, LatencyTable
from prune_export.record import versions


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
    table = measure_blocks(encoder, settings, progress=progress)
    _store(path, table)
    return table


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
    shape = largest_layer(encoder)
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
    return list(tensors(encoder.head))


def _hardware(provider: str) -> str:
    if provider == runtime.PROVIDERS["cuda"] and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {available} cores"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prune-export" / "latency"


def _read(path: Path, settings: dict[str, Any]) -> LatencyTable | None:
    """The stored table; None where there is none that can be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if (data["format"], data["version"], data["settings"]) != (FORMAT, VERSION, settings):
            return None
        parts = ("heads_ms", "columns_ms", "last_heads_ms", "last_columns_ms")
        pairs = [tuple((int(count), float(ms)) for count, ms in data[key]) for key in parts]
        return LatencyTable(settings, float(data["rest_ms"]), *pairs)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(path: Path, table: LatencyTable) -> None:
    """Nothing depends on the cache: where it cannot be written, the next run measures again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(table.to_json(), file)
        Path(file.name).replace(path)
