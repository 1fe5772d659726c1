"""`prune_export.profile` measures the latency table of a checkpoint's blocks on this machine."""

from __future__ import annotations

from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.options.keywords import from_keywords
from prune_export.options.timing import ProfileOptions
from prune_export.pruning.latency import LatencyTable
from prune_export.pruning.latency_cache import latency_table


@from_keywords(ProfileOptions)
def profile(options: ProfileOptions) -> LatencyTable:
    """Measures one attention block with every number of heads, one feed-forward block with a grid of widths, and the rest.

    It times ONNX Runtime sessions of blocks shaped like those of the checkpoint `model`, in milliseconds. The table is kept
    for `prune`.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        UsageError: an option is out of range.
        WriteError, ProviderError: the target has no form for `dtype`, or does not run here.
    """
    source = resolve(options.model, options, progress=options.progress)
    options.progress.stage("Reading the checkpoint")
    encoder = load_checkpoint(source, task=options.task).encoder
    return latency_table(encoder, options, fresh=options.fresh, progress=options.progress)
