"""`prune_export.prune`: a dense checkpoint and a few hundred examples to a masked checkpoint, at a budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exporters.errors import CheckpointError, UsageError
from exporters.providers import CPU, PROVIDERS
from prune_export.arguments import checked
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.masked import masked_destination
from prune_export.checkpoint.source import resolve
from prune_export.checkpoint.weights import sha256
from prune_export.files.reading import clipped
from prune_export.numbers import BATCH_SIZE, COUNT, COUNT_OR_NONE, FRACTION, SAMPLE_COUNT, SEEDS, THREADS, Range
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.folder_types import MASKED
from prune_export.progress import SILENT, Progress
from prune_export.pruning.budget import budgets
from prune_export.pruning.calibration import Source, read_calibration
from prune_export.pruning.costs import counts_of
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
from prune_export.pruning.reconstruction.layerwise import RECONSTRUCTIONS
from prune_export.pruning.scores import METHODS
from prune_export.pruning.selection import Rules
from prune_export.pruning.speed import TOLERANCE
from prune_export.pruning.stepping import Pruner, Settings
from prune_export.tasks import usual_length

SAMPLES = 512

SEED = 0

_TIMED_ALIGN = 32

_NEEDED = ("samples", "seed", "batch_size")  # numbers that cannot be None


@checked
def prune(
    model: str | Path,
    calibration: Source | Sequence[Source],
    output: str | Path,
    *,
    flops: float | Sequence[float] | None = None,
    parameters: float | Sequence[float] | None = None,
    speedup: float | Sequence[float] | None = None,
    latency_ms: float | Sequence[float] | None = None,
    heads: float | None = None,
    columns: float | None = None,
    tolerance: float = TOLERANCE,
    method: str = "fisher",
    rearrangement: bool = True,
    reconstruction: str = "full",
    gradual: bool = True,
    samples: int = SAMPLES,
    seed: int = SEED,
    align: int | None = None,
    keep_layers: Sequence[int] = (),
    drop_layers: bool = True,
    target: str = "cpu",
    dtype: str = "fp32",
    batch_size: int = 1,
    sequence_length: int | None = None,
    threads: int | None = None,
    task: str | None = None,
    dataset: str | None = None,
    labels: Sequence[str] | None = None,
    max_seq_length: int | None = None,
    device: str = CPU.name,
    overwrite: bool = False,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    progress: Progress = SILENT,
) -> tuple[PruneResult, ...]:
    """Prunes the checkpoint `model` (a folder or a hub id) without training and writes masked checkpoints.

    `calibration` is what `evaluate` takes as data, or several of them: `samples` examples of all together are drawn with
    `seed`.

    Budgets, what stays: `flops` and `parameters` are fractions of those of the unpruned encoder layers; `speedup` a factor
    and `latency_ms` milliseconds, both measured with ONNX Runtime for `target`, `dtype`, `batch_size`, `sequence_length` and
    `threads` on this machine; `heads` and `columns` fractions of those of the whole network. With one budget `output` is the
    checkpoint's folder, with several it holds one folder for each. What the rules below leave no room for is refused.

    A network that turns out slower than asked for by more than the fraction `tolerance` is pruned once more, further by as
    much as the table was off. What is still slower is written, and its result says so in `missed`.

    `method` is "fisher", "taylor", "magnitude" or "random". `rearrangement`, `reconstruction` ("full", "scales", "none") and
    `gradual` switch what follows the scores. Columns stay in multiples of `align` (None: 32 with a budget in time, because
    kernels compute in blocks and widths between them are slower than the table says; else 1); `keep_layers` lose nothing;
    without `drop_layers` no attention and no feed-forward block goes as a whole. `sequence_length` (None: 384 for question
    answering, else 128) also weighs attention's products in FLOPs. `device` is "cpu" or "cuda".

    Raises:
        UsageError: an option is out of range, or a budget cannot be met; the message says what can.
        DataError: the data cannot be read or is not for the task.
        CheckpointError, OutputError, ProviderError: see `export`.
    """
    asked = budgets(
        flops=flops, parameters=parameters, speedup=speedup, latency_ms=latency_ms, heads=heads, columns=columns
    )
    timed = any(budget.kind in TIMED for budget in asked)
    kept_layers = _check_options(
        method,
        reconstruction,
        device,
        tolerance,
        keep_layers,
        samples=(samples, SAMPLE_COUNT),
        seed=(seed, SEEDS),
        batch_size=(batch_size, BATCH_SIZE),
        align=(align, COUNT),
        sequence_length=(sequence_length, COUNT),
        threads=(threads, THREADS),
        max_seq_length=(max_seq_length, COUNT),
    )
    folders = [Path(output)] if len(asked) == 1 else [Path(output) / budget.name for budget in asked]
    for folder in folders:
        folder_destination(folder, MASKED, overwrite=overwrite)
    progress.pause()
    source = resolve(model, revision=revision, cache_dir=cache_dir, token=token)
    for folder in folders:
        masked_destination(folder, source.folder, overwrite=overwrite)
    progress.stage("Reading the checkpoint")
    checkpoint = load_checkpoint(source, task=task)
    if checkpoint.form not in ("plain", "masked"):
        raise CheckpointError(
            f"'{source.name}' is in {checkpoint.form} format; pruning needs a checkpoint with weights of full size"
        )
    longest = checkpoint.encoder.embeddings.max_length
    length = usual_length(checkpoint.encoder) if sequence_length is None else sequence_length
    Range(1, longest, whole=True).checked("--sequence-length", length)
    rules = Rules(_alignment(checkpoint, align, timed=timed), _distinct(checkpoint, kept_layers), drop_layers)
    progress.stage("Reading the data")
    read = read_calibration(
        calibration,
        checkpoint,
        samples=samples,
        seed=seed,
        dataset=dataset,
        labels=labels,
        max_seq_length=max_seq_length,
    )
    table = None
    if timed:
        table = latency_table(
            checkpoint.encoder,
            target=target,
            dtype=dtype,
            batch_size=batch_size,
            sequence_length=length,
            threads=threads,
            progress=progress,
        )
    settings = Settings(method, rearrangement, reconstruction, gradual, rules, seed, device)  # type: ignore[arg-type]
    pruner = Pruner(checkpoint, read, settings, progress=progress)
    digest = sha256(checkpoint.weights_files)
    planned = [(budget, budget_costs(checkpoint, budget, table, length)) for budget in asked]
    for budget, costs in planned:
        pruner.check(budget, costs, kept_fraction(budget, costs))
    results = []
    for (budget, costs), folder in zip(planned, folders, strict=True):
        found = prune_to_budget(checkpoint, pruner, budget, costs, table, tolerance, progress)
        record = record_of(checkpoint, budget, costs, found, settings, read, digest, tolerance)
        results.append(write_result(checkpoint, budget, costs, found, record, tolerance, folder, overwrite, progress))
    return tuple(results)


def _check_options(
    method: str,
    reconstruction: str,
    device: str,
    tolerance: float,
    keep_layers: Sequence[int],
    **numbers: tuple[Any, Range],
) -> list[int]:
    """Checks what needs no checkpoint; returns the layers to keep."""
    for option, word, words in (
        ("method", method, METHODS),
        ("reconstruction", reconstruction, RECONSTRUCTIONS),
        ("device", device, tuple(PROVIDERS)),
    ):
        if word not in words:
            raise UsageError(f"--{option} {clipped(word, 40)}: expected one of {', '.join(words)}")
    FRACTION.checked("--tolerance", tolerance)
    for option, (number, allowed) in numbers.items():
        if number is not None or option in _NEEDED:
            allowed.checked(f"--{option.replace('_', '-')}", number)
    PROVIDERS[device].check_torch("--device")
    return [COUNT_OR_NONE.checked("--keep-layers", layer) for layer in keep_layers]


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
