"""`prune_export.prune`: a dense checkpoint and a few hundred examples to a masked checkpoint, at a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporters.encoder import Encoder
from exporters.errors import CheckpointError, ProviderError, UsageError
from prune_export.arguments import checked
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.masked import masked_destination, write_masked
from prune_export.checkpoint.source import SAFETENSORS, resolve
from prune_export.checkpoint.weights import read_weights, sha256
from prune_export.files.reading import clipped
from prune_export.inspection import source_to_json
from prune_export.numbers import BATCH_SIZE, COUNT, COUNT_OR_NONE, FRACTION, SAMPLE_COUNT, SEEDS, THREADS, Range
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.kinds import MASKED
from prune_export.plan import Plan, plan_from_zeros
from prune_export.progress import SILENT, Progress
from prune_export.pruning.block_timing import measure_speed
from prune_export.pruning.budget import Budget, budgets
from prune_export.pruning.calibration import Calibration, Source, read_calibration
from prune_export.pruning.costs import Costs, counts_of, flops_costs, parameter_costs
from prune_export.pruning.cutting import full_size_tensors
from prune_export.pruning.latency import LatencyTable, latency_costs, usual_length
from prune_export.pruning.latency_cache import latency_table
from prune_export.pruning.reconstruction.layerwise import RECONSTRUCTIONS
from prune_export.pruning.scores import METHODS
from prune_export.pruning.selection import Rules
from prune_export.pruning.speed import TOLERANCE, Speed, asked_ms, corrected_ms, overrun, why_missed
from prune_export.pruning.stepping import Pruner, Settings, Step
from prune_export.record import versions
from prune_export.report.summary import Summary, summarize
from prune_export.surgeon import operate

SAMPLES = 512
SEED = 0

_TIMED = ("speedup", "latency-ms")
_TIMED_ALIGN = 32
_NEEDED = ("samples", "seed", "batch_size")  # numbers that cannot be None


@dataclass(frozen=True, slots=True, eq=False)
class PruneResult:
    """One masked checkpoint. `cost` is what its plan costs in the budget's unit, `dense` what the unpruned network does;
    `speed` is there for budgets in time, and `missed` says by how much that is too slow, if by more than the tolerance.
    `record` is what pruning.json holds beside the plan."""

    folder: Path
    budget: Budget
    plan: Plan
    unit: str
    cost: float
    dense: float
    summary: Summary
    speed: Speed | None
    missed: str | None
    record: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """What a budget came to: the steps, the slim network, and what it costs and takes; `first` is the speed before a
    correcting step."""

    steps: tuple[Step, ...]
    slim: Encoder
    cost: float
    speed: Speed | None = None
    first: Speed | None = None


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
    device: str = "cpu",
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
    timed = any(budget.kind in _TIMED for budget in asked)
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
    planned = [(budget, _costs(checkpoint, budget, table, length)) for budget in asked]
    for budget, costs in planned:
        pruner.check(budget, costs, _fraction(budget, costs))
    results = []
    for (budget, costs), folder in zip(planned, folders, strict=True):
        found = _pruned(checkpoint, pruner, budget, costs, table, tolerance, progress)
        record = _record(checkpoint, budget, costs, found, settings, read, digest, tolerance)
        results.append(_write(checkpoint, budget, costs, found, record, tolerance, folder, overwrite, progress))
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
        ("device", device, ("cpu", "cuda")),
    ):
        if word not in words:
            raise UsageError(f"--{option} {clipped(word, 40)}: expected one of {', '.join(words)}")
    FRACTION.checked("--tolerance", tolerance)
    for option, (number, allowed) in numbers.items():
        if number is not None or option in _NEEDED:
            allowed.checked(f"--{option.replace('_', '-')}", number)
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ProviderError("PyTorch finds no CUDA device here; use --device cpu")
    return [COUNT_OR_NONE.checked("--keep-layers", layer) for layer in keep_layers]


def _alignment(checkpoint: Checkpoint, align: int | None, *, timed: bool) -> int:
    if align is None:
        return _TIMED_ALIGN if timed else 1
    widest = max(columns for _, columns in counts_of(checkpoint.encoder))
    if align > widest:
        raise UsageError(f"--align {align}: the widest feed-forward block has {widest} columns; expected that or less")
    return align


def _distinct(checkpoint: Checkpoint, layers: Sequence[int]) -> frozenset[int]:
    """The distinct layers that stand at the places `layers`."""
    ids = [id(layer) for layer in checkpoint.encoder.layers]
    wrong = [layer for layer in layers if layer >= len(ids)]
    if wrong:
        raise UsageError(f"--keep-layers {wrong[0]}: the network has layers 0 to {len(ids) - 1}")
    places = {key: place for place, key in enumerate(dict.fromkeys(ids))}
    return frozenset(places[ids[layer]] for layer in layers)


def _costs(checkpoint: Checkpoint, budget: Budget, table: LatencyTable | None, length: int) -> Costs:
    match budget.kind:
        case "parameters":
            return parameter_costs(checkpoint.encoder)
        case "speedup" | "latency-ms":
            assert table is not None
            return latency_costs(table, checkpoint.encoder)
        case _:
            return flops_costs(checkpoint.encoder, sequence_length=length)


def _fraction(budget: Budget, costs: Costs) -> float:
    """The part of the unpruned network's cost that may stay."""
    match budget.kind:
        case "speedup":
            return 1 / budget.value
        case "latency-ms":
            return min(1.0, budget.value / costs.dense)
        case "units":
            return min(budget.value, budget.columns)
        case _:
            return budget.value


def _pruned(
    checkpoint: Checkpoint,
    pruner: Pruner,
    budget: Budget,
    costs: Costs,
    table: LatencyTable | None,
    tolerance: float,
    progress: Progress,
) -> _Found:
    """Prunes to the budget; once more, and further, where the network that comes of it is too slow."""

    def reached(fraction: float) -> _Found:
        steps = pruner.prune(budget, costs, fraction)
        encoder = steps[-1].network.encoder
        slim = operate(encoder, plan_from_zeros(encoder))
        cost = costs.total(counts_of(encoder))
        if table is None or budget.kind not in _TIMED:
            return _Found(steps, slim, cost)
        progress.stage("Measuring the pruned network")
        return _Found(steps, slim, cost, measure_speed(checkpoint.encoder, slim, table, predicted_ms=cost))

    first = reached(_fraction(budget, costs))
    if first.speed is None or overrun(budget, first.speed) <= tolerance:
        return first
    target = max(corrected_ms(budget, first.speed), pruner.least(costs))
    if target >= first.cost:
        return first
    second = reached(target / costs.dense)
    assert second.speed is not None
    better = overrun(budget, second.speed) < overrun(budget, first.speed)
    return replace(second, first=first.speed) if better else first


def _write(
    checkpoint: Checkpoint,
    budget: Budget,
    costs: Costs,
    found: _Found,
    record: dict[str, Any],
    tolerance: float,
    folder: Path,
    overwrite: bool,
    progress: Progress,
) -> PruneResult:
    network = found.steps[-1].network
    progress.stage(f"Writing {folder}")
    weights = read_weights(checkpoint.source.folder, checkpoint.family)
    refitted = full_size_tensors(checkpoint, weights, network)
    write_masked(checkpoint, network.plan, folder, overwrite=overwrite, changed=refitted, **record)
    return PruneResult(
        Path(folder),
        budget,
        network.plan,
        costs.unit,
        found.cost,
        costs.dense,
        summarize(checkpoint, found.slim, network.plan),
        found.speed,
        None if found.speed is None else why_missed(budget, found.speed, tolerance),
        record,
    )


def _record(
    checkpoint: Checkpoint,
    budget: Budget,
    costs: Costs,
    found: _Found,
    settings: Settings,
    calibration: Calibration,
    digest: dict[str, str],
    tolerance: float,
) -> dict[str, Any]:
    asked: dict[str, Any] = {"kind": budget.kind, "value": budget.value}
    if budget.kind == "units":
        asked = {"kind": "units", "heads": budget.value, "columns": budget.columns}
    kept, of = (_totals(encoder) for encoder in (found.steps[-1].network.encoder, checkpoint.encoder))
    units = {name: {"kept": kept[name], "of": of[name]} for name in of}
    return {
        "method": settings.method,
        "rearrangement": settings.rearrangement,
        "reconstruction": settings.reconstruction,
        "budget": asked | {"unit": costs.unit, "unpruned": costs.dense, "kept": found.cost, "units": units},
        "seed": settings.seed,
        "align": settings.rules.align,
        "data": {
            "name": calibration.name,
            "samples": calibration.samples,
            "sha256": calibration.digest,
            "notes": list(calibration.notes),
        },
        "source": source_to_json(checkpoint) | {"weights_sha256": digest, "weights": SAFETENSORS},
        "steps": [_step_to_json(step) for step in found.steps],
        "speed": _speed_to_json(budget, found, tolerance),
        "versions": versions(),
    }


def _totals(encoder: Encoder) -> dict[str, int]:
    counts = counts_of(encoder)
    return {"heads": sum(heads for heads, _ in counts), "columns": sum(columns for _, columns in counts)}


def _speed_to_json(budget: Budget, found: _Found, tolerance: float) -> dict[str, Any] | None:
    """Asked, predicted and measured; `before_correction` is what the first try came to, where a second took its place."""
    if (speed := found.speed) is None:
        return None
    wanted = asked_ms(budget, speed)
    return speed.to_json() | {
        "asked_ms": wanted,
        "asked_speedup": speed.dense_measured_ms / wanted,
        "tolerance": tolerance,
        "missed": why_missed(budget, speed, tolerance),
        "before_correction": None if found.first is None else found.first.to_json(),
    }


def _step_to_json(step: Step) -> dict[str, Any]:
    layers = []
    for scores, (heads, columns) in zip(step.scores, step.kept, strict=True):
        layers.append(
            {
                "heads": {"total": float(scores.heads.sum()), "kept": float(scores.heads[list(heads)].sum())},
                "columns": {"total": float(scores.columns.sum()), "kept": float(scores.columns[list(columns)].sum())},
            }
        )
    return {"fraction": step.fraction, "scores": layers, "held_out_errors": step.held_out_errors()}
