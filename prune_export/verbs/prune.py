"""`prune_export.prune` prunes a dense checkpoint to a budget, with a few hundred examples and without training."""

from __future__ import annotations

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
from prune_export.pruning.budget import budgets_of
from prune_export.pruning.calibration import Source, read_calibration
from prune_export.pruning.costs import counts_of
from prune_export.pruning.file_size import measure_file_size
from prune_export.pruning.latency import timing_length
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
from prune_export.pruning.pruner import Pruner, PrunerSettings
from prune_export.pruning.selection import Rules, layers_to_keep

_TIMED_ALIGN = 32


@from_keywords(PruneOptions, Source=Source)
def prune(options: PruneOptions) -> tuple[PruneResult, ...]:
    """Prunes the checkpoint `model` without training and writes masked checkpoints.

    `calibration` is what `evaluate` takes as data, or several of them; `samples` examples of all together are drawn with
    `seed`.

    Budgets say how much is kept. `flops` and `parameters` are fractions of those of the unpruned encoder layers. `speedup`
    and `latency_ms` are measured with ONNX Runtime on this machine, `max_mib` is the size of the exported file, never
    exceeded. `heads` and `columns` are fractions of those of the whole network. With one budget `output` is the checkpoint's
    folder; with several it holds one folder per budget.

    A network that is slower than its budget by more than the fraction `tolerance` is pruned once more, further by as much as
    the table was off. If it is still slower it is written, and its result says so in `missed`.

    `rearrangement`, `reconstruction` and `gradual` switch the steps after the scores. With a budget in time, columns are
    kept in multiples of 32, because kernels compute in blocks and widths between them are slower than the table says.
    Without `drop_layers` no attention and no feed-forward block is removed as a whole. FLOPs include attention's products
    at `sequence_length`.

    Raises:
        UsageError: an option is out of range, or a budget cannot be met; the message says what can.
        DataError: the data cannot be read or is not for the task.
        CheckpointError, OutputError, ProviderError: see `export`.
    """
    progress = options.progress
    budgets = budgets_of(options)
    timed = any(budget.kind in TIMED for budget in budgets)
    PROVIDERS[options.device].check_torch("--device")
    folders = [Path(options.output)]
    if len(budgets) > 1:
        folders = [Path(options.output) / budget.name for budget in budgets]
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
    length = timing_length(options, checkpoint.encoder)
    align = _alignment(checkpoint, options.align, timed=timed)
    rules = Rules(align, layers_to_keep(checkpoint.encoder, options.keep_layers), options.drop_layers)
    progress.stage("Reading the data")
    calibration = read_calibration(options, checkpoint)
    table = latency_table(checkpoint.encoder, options, progress=progress) if timed else None
    settings = PrunerSettings.of(options, rules=rules, seed=options.seed)
    pruner = Pruner(checkpoint, calibration, settings, progress=progress)
    digest = sha256(checkpoint.weights_files)
    size = None
    if any(budget.kind == "max-mib" for budget in budgets):
        size = measure_file_size(checkpoint.encoder, options.target, options.dtype)
    costs_of_budgets = [budget_costs(checkpoint, budget, table, size, length) for budget in budgets]
    for budget, costs in zip(budgets, costs_of_budgets, strict=True):
        pruner.check(budget, costs, kept_fraction(budget, costs))
    results = []
    for budget, costs, folder in zip(budgets, costs_of_budgets, folders, strict=True):
        outcome = prune_to_budget(checkpoint, pruner, budget, costs, table, options)
        record = record_of(checkpoint, budget, costs, outcome, settings, calibration, digest, options.tolerance)
        results.append(write_result(checkpoint, budget, costs, outcome, record, folder, options))
    return tuple(results)


def _alignment(checkpoint: Checkpoint, align: int | None, *, timed: bool) -> int:
    if align is None:
        return _TIMED_ALIGN if timed else 1
    widest = max(columns for _, columns in counts_of(checkpoint.encoder))
    if align > widest:
        raise UsageError(f"--align {align}: the widest feed-forward block has {widest} columns; expected that or less")
    return align
