"""`prune_export.prune`: a dense checkpoint and a few hundred examples to a masked checkpoint, at a budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exporters.errors import CheckpointError, UsageError
from exporters.providers import PROVIDERS
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.masked import masked_destination
from prune_export.checkpoint.source import resolve
from prune_export.checkpoint.weights import sha256
from prune_export.options.keywords import from_keywords
from prune_export.options.prune import PruneOptions
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.folder_types import MASKED
from prune_export.pruning.budget import budgets
from prune_export.pruning.calibration import Source, read_calibration
from prune_export.pruning.costs import counts_of
from prune_export.pruning.latency import length_of
from prune_export.pruning.latency_cache import latency_table
from prune_export.pruning.one_shot import (
    TIMED,
    PruneResult,
    budget_costs,
    kept_fraction,
    prune_to_budget,
    record_of,
    write_result,
)
from prune_export.pruning.selection import Rules
from prune_export.pruning.stepping import Pruner, Settings

_TIMED_ALIGN = 32


@from_keywords(PruneOptions, Source=Source)
def prune(options: PruneOptions) -> tuple[PruneResult, ...]:
    """Prunes the checkpoint `model` without training and writes masked checkpoints.

    `calibration` is what `evaluate` takes as data, or several of them: `samples` examples of all together are drawn with
    `seed`.

    Budgets say what stays: `flops` and `parameters` are fractions of those of the unpruned encoder layers; `speedup` and
    `latency_ms` are measured with ONNX Runtime on this machine; `heads` and `columns` are fractions of those of the whole
    network. With one budget `output` is the checkpoint's folder, with several it holds one folder for each. A budget that
    the rules leave no room for is refused.

    A network that turns out slower than asked for by more than the fraction `tolerance` is pruned once more, further by as
    much as the table was off. One that is still slower is written, and its result says so in `missed`.

    `rearrangement`, `reconstruction` and `gradual` switch what follows the scores. With a budget in time, columns stay in
    multiples of 32, because kernels compute in blocks and widths between them are slower than the table says. Without
    `drop_layers` no attention and no feed-forward block goes as a whole. `sequence_length` also weighs attention's products
    in FLOPs.

    Raises:
        UsageError: an option is out of range, or a budget cannot be met; the message says what can.
        DataError: the data cannot be read or is not for the task.
        CheckpointError, OutputError, ProviderError: see `export`.
    """
    progress = options.progress
    asked = budgets(options)
    timed = any(budget.kind in TIMED for budget in asked)
    PROVIDERS[options.device].check_torch("--device")
    folders = [Path(options.output)]
    if len(asked) > 1:
        folders = [Path(options.output) / budget.name for budget in asked]
    for folder in folders:
        folder_destination(folder, MASKED, overwrite=options.overwrite)
    source = resolve(options.model, options, progress=progress)
    for folder in folders:
        masked_destination(folder, source.folder, overwrite=options.overwrite)
    progress.stage("Reading the checkpoint")
    checkpoint = load_checkpoint(source, task=options.task)
    if checkpoint.form not in ("plain", "masked"):
        raise CheckpointError(
            f"'{source.name}' is in {checkpoint.form} format; pruning needs a checkpoint with weights of full size"
        )
    length = length_of(options, checkpoint.encoder)
    align = _alignment(checkpoint, options.align, timed=timed)
    rules = Rules(align, _distinct(checkpoint, options.keep_layers), options.drop_layers)
    progress.stage("Reading the data")
    calibration = read_calibration(options, checkpoint)
    table = latency_table(checkpoint.encoder, options, progress=progress) if timed else None
    settings = Settings.of(options, rules=rules, seed=options.seed)
    pruner = Pruner(checkpoint, calibration, settings, progress=progress)
    digest = sha256(checkpoint.weights_files)
    planned = [(budget, budget_costs(checkpoint, budget, table, length)) for budget in asked]
    for budget, costs in planned:
        pruner.check(budget, costs, kept_fraction(budget, costs))
    results = []
    for (budget, costs), folder in zip(planned, folders, strict=True):
        reached = prune_to_budget(checkpoint, pruner, budget, costs, table, options)
        record = record_of(checkpoint, budget, costs, reached, settings, calibration, digest, options.tolerance)
        results.append(write_result(checkpoint, budget, costs, reached, record, folder, options))
    return tuple(results)


def _alignment(checkpoint: Checkpoint, align: int | None, *, timed: bool) -> int:
    if align is None:
        return _TIMED_ALIGN if timed else 1
    widest = max(columns for _, columns in counts_of(checkpoint.encoder))
    if align > widest:
        raise UsageError(f"--align {align}: the widest feed-forward block has {widest} columns; expected that or less")
    return align


def _distinct(checkpoint: Checkpoint, layers: Sequence[int]) -> frozenset[int]:
    """Which distinct layers run at the places `layers`."""
    order = checkpoint.encoder.order
    wrong = [layer for layer in layers if layer >= len(order)]
    if wrong:
        raise UsageError(f"--keep-layers {wrong[0]}: the network has layers 0 to {len(order) - 1}")
    return frozenset(order[layer] for layer in layers)
