"""`prune_export.prune`: a dense checkpoint and a few hundred examples to a masked checkpoint, at a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.errors import CheckpointError, ProviderError, UsageError
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.masked import masked_destination, write_masked
from prune_export.checkpoint.source import SAFETENSORS, resolve
from prune_export.checkpoint.weights import read_weights, sha256
from prune_export.inspection import source_to_json
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.kinds import MASKED
from prune_export.plan import Plan, plan_from_zeros
from prune_export.progress import SILENT, Progress
from prune_export.pruning.block_timing import Speed, measure_speed
from prune_export.pruning.budget import Budget, budgets
from prune_export.pruning.calibration import Calibration, Source, read_calibration
from prune_export.pruning.costs import Costs, counts_of, flops_costs, parameter_costs
from prune_export.pruning.cutting import full_size_tensors
from prune_export.pruning.latency import LatencyTable, latency_costs, usual_length
from prune_export.pruning.latency_cache import latency_table
from prune_export.pruning.reconstruction.layerwise import RECONSTRUCTIONS
from prune_export.pruning.scores import METHODS
from prune_export.pruning.selection import Rules
from prune_export.pruning.stepping import Pruner, Settings, Step
from prune_export.record import versions
from prune_export.report.summary import Summary, summarize
from prune_export.surgeon import operate

SAMPLES = 512
SEED = 0

_TIMED_ALIGN = 32


@dataclass(frozen=True, slots=True, eq=False)
class PruneResult:
    """One masked checkpoint. `cost` is what its plan costs in the budget's unit, `dense` what the unpruned network does;
    `speed` is there for budgets in time. `record` is what pruning.json holds beside the plan."""

    folder: Path
    budget: Budget
    plan: Plan
    unit: str
    cost: float
    dense: float
    summary: Summary
    speed: Speed | None
    record: dict[str, Any]


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
    checkpoint's folder, with several it holds one folder for each.

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
    timed = any(budget.kind in ("speedup", "latency-ms") for budget in asked)
    if align is None:
        align = _TIMED_ALIGN if timed else 1
    _check_options(method, reconstruction, samples, seed, align, batch_size, device)
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
    if not 1 <= length <= longest:
        raise UsageError(f"--sequence-length {length}: expected 1 to {longest}")
    rules = Rules(align, _distinct(checkpoint, keep_layers), drop_layers)
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
        steps = pruner.prune(budget, costs, _fraction(budget, costs))
        results.append(
            _write(checkpoint, budget, costs, steps, settings, read, digest, table, folder, overwrite, progress)
        )
    return tuple(results)


def _check_options(
    method: str, reconstruction: str, samples: int, seed: int, align: int, batch_size: int, device: str
) -> None:
    for option, value, allowed in (("method", method, METHODS), ("reconstruction", reconstruction, RECONSTRUCTIONS)):
        if value not in allowed:
            raise UsageError(f"--{option} {value}: expected one of {', '.join(allowed)}")
    for option, number, least in (
        ("samples", samples, 2),
        ("seed", seed, 0),
        ("align", align, 1),
        ("batch-size", batch_size, 1),
    ):
        if number < least:
            raise UsageError(f"--{option} {number}: expected {least} or more")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device {device}: expected cpu or cuda")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ProviderError("PyTorch finds no CUDA device here; use --device cpu")


def _distinct(checkpoint: Checkpoint, layers: Sequence[int]) -> frozenset[int]:
    """The distinct layers that stand at the places `layers`."""
    ids = [id(layer) for layer in checkpoint.encoder.layers]
    wrong = [layer for layer in layers if not 0 <= layer < len(ids)]
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


def _write(
    checkpoint: Checkpoint,
    budget: Budget,
    costs: Costs,
    steps: tuple[Step, ...],
    settings: Settings,
    calibration: Calibration,
    digest: dict[str, str],
    table: LatencyTable | None,
    folder: Path,
    overwrite: bool,
    progress: Progress,
) -> PruneResult:
    network = steps[-1].network
    plan = network.plan
    slim = operate(network.encoder, plan_from_zeros(network.encoder))
    cost = costs.total(counts_of(network.encoder))
    speed = None
    if table is not None and budget.kind in ("speedup", "latency-ms"):
        progress.stage("Measuring the pruned network")
        speed = measure_speed(checkpoint.encoder, slim, table, predicted_ms=cost)
    record = _record(checkpoint, budget, costs, cost, steps, settings, calibration, digest, speed)
    progress.stage(f"Writing {folder}")
    weights = read_weights(checkpoint.source.folder, checkpoint.family)
    refitted = full_size_tensors(checkpoint, weights, network)
    write_masked(checkpoint, plan, folder, overwrite=overwrite, changed=refitted, **record)
    summary = summarize(checkpoint, slim, plan)
    return PruneResult(Path(folder), budget, plan, costs.unit, cost, costs.dense, summary, speed, record)


def _record(
    checkpoint: Checkpoint,
    budget: Budget,
    costs: Costs,
    cost: float,
    steps: tuple[Step, ...],
    settings: Settings,
    calibration: Calibration,
    digest: dict[str, str],
    speed: Speed | None,
) -> dict[str, Any]:
    asked: dict[str, Any] = {"kind": budget.kind, "value": budget.value}
    if budget.kind == "units":
        asked = {"kind": "units", "heads": budget.value, "columns": budget.columns}
    return {
        "method": settings.method,
        "rearrangement": settings.rearrangement,
        "reconstruction": settings.reconstruction,
        "budget": asked | {"unit": costs.unit, "unpruned": costs.dense, "kept": cost},
        "seed": settings.seed,
        "align": settings.rules.align,
        "data": {"name": calibration.name, "samples": calibration.samples, "sha256": calibration.digest},
        "source": source_to_json(checkpoint) | {"weights_sha256": digest, "weights": SAFETENSORS},
        "steps": [_step_to_json(step) for step in steps],
        "speed": speed.to_json() if speed is not None else None,
        "versions": versions(),
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
    fits = [{"layer": part.layer, "part": part.part, "before": part.before, "after": part.after} for part in step.fits]
    return {"fraction": step.fraction, "scores": layers, "held_out_errors": fits}
