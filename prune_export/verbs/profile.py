"""`prune_export.profile`: the latency table of a checkpoint's blocks on this machine."""

from __future__ import annotations

from pathlib import Path

from prune_export.arguments import checked
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.progress import SILENT, Progress
from prune_export.pruning.latency import LatencyTable
from prune_export.pruning.latency_cache import latency_table
from prune_export.tasks import usual_length


@checked
def profile(
    model: str | Path,
    *,
    target: str = "cpu",
    dtype: str = "fp32",
    batch_size: int = 1,
    sequence_length: int | None = None,
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
    `sequence_length` None is that of `prune`, which finds the table again; `fresh` measures anew. Other arguments and errors
    as for `latency_table`.
    """
    progress.pause()
    source = resolve(model, revision=revision, cache_dir=cache_dir, token=token)
    progress.stage("Reading the checkpoint")
    encoder = load_checkpoint(source, task=task).encoder
    return latency_table(
        encoder,
        target=target,
        dtype=dtype,
        batch_size=batch_size,
        sequence_length=usual_length(encoder) if sequence_length is None else sequence_length,
        threads=threads,
        fresh=fresh,
        progress=progress,
    )
