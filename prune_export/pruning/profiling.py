"""`prune_export.profile`: the latency table of a checkpoint's blocks on this machine."""

from __future__ import annotations

from pathlib import Path

from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.progress import SILENT, Progress
from prune_export.pruning.latency import LatencyTable, latency_table


def profile(
    model: str | Path,
    *,
    target: str = "cpu",
    dtype: str = "fp32",
    batch_size: int = 1,
    sequence_length: int = 128,
    threads: int | None = None,
    fresh: bool = False,
    task: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    progress: Progress = SILENT,
) -> LatencyTable:
    """Measures one attention block with every number of heads, one feed-forward block with a grid of widths, and the rest.

    Real ONNX Runtime sessions of blocks shaped like those of the checkpoint `model` (a folder or a hub id), in milliseconds.
    The table is kept and found again by `prune`; `fresh` measures anew. Arguments and errors as for `latency_table`.
    """
    progress.pause()
    source = resolve(model, revision=revision, cache_dir=cache_dir, token=token)
    progress.stage("Reading the checkpoint")
    return latency_table(
        load_checkpoint(source, task=task).encoder,
        target=target,
        dtype=dtype,
        batch_size=batch_size,
        sequence_length=sequence_length,
        threads=threads,
        fresh=fresh,
        progress=progress,
    )
