"""One-shot pruning of a checkpoint to one budget, and the result on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporters.encoder import Encoder
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.summarize import summarize
from prune_export.checkpoint.weights import read_weights
from prune_export.facts.file_names import SAFETENSORS
from prune_export.facts.plan import Plan
from prune_export.facts.record import versions
from prune_export.facts.summary import Summary
from prune_export.options.prune import PruneOptions
from prune_export.pruning.block_timing import measure_speed
from prune_export.pruning.budget import Budget
from prune_export.pruning.calibration import Calibration
from prune_export.pruning.costs import Costs, counts_of, flops_costs, parameter_costs
from prune_export.pruning.file_size import MIB, FileSize, file_bytes, file_costs
from prune_export.pruning.latency import LatencyTable, latency_costs
from prune_export.pruning.pruned_network import full_size_tensors
from prune_export.pruning.pruner import Pruner, PrunerSettings, PruningStep
from prune_export.pruning.speed import Speed, corrected_ms, overrun, target_ms, why_missed
from prune_export.surgeon import operate
from prune_export.surgeon.zeros import plan_from_zeros

TIMED = ("speedup", "latency-ms")
_TRIES = 4  # at a size of the file, of which predictions are off by little


@dataclass(frozen=True, slots=True, eq=False)
class PruneResult:
    """One masked checkpoint.

    `cost` is the cost of its plan in `unit`, `dense` that of the unpruned network. `speed` is None unless the budget is in
    time, `bytes` unless it is a size of the exported file. `missed` says by how much the network is too slow, if by more
    than the tolerance, or too large. `record` is the content of pruning.json beside the plan.
    """

    folder: Path
    budget: Budget
    plan: Plan
    unit: str
    cost: float
    dense: float
    summary: Summary
    speed: Speed | None
    bytes: int | None
    missed: str | None
    record: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class PruningOutcome:
    """The outcome of pruning to a budget: all steps, the slim network, its cost, and its speed for a budget in time.

    `first` is the speed of the first try where a second one replaced it. `bytes` are those of its file, where the budget is
    in them.
    """

    steps: tuple[PruningStep, ...]
    slim: Encoder
    cost: float
    speed: Speed | None = None
    first: Speed | None = None
    bytes: int | None = None


def budget_costs(
    checkpoint: Checkpoint, budget: Budget, table: LatencyTable | None, size: FileSize | None, length: int
) -> Costs:
    """Returns the costs in the unit of `budget`.

    `table` is needed for budgets in time, `size` for those in bytes, `length` (tokens) for FLOPs.
    """
    match budget.kind:
        case "parameters":
            return parameter_costs(checkpoint.encoder)
        case "speedup" | "latency-ms":
            assert table is not None
            return latency_costs(table, checkpoint.encoder)
        case "max-mib":
            assert size is not None
            return file_costs(size, checkpoint.encoder)
        case _:
            return flops_costs(checkpoint.encoder, sequence_length=length)


def kept_fraction(budget: Budget, costs: Costs) -> float:
    """Returns the fraction of the unpruned network's cost that the budget allows."""
    match budget.kind:
        case "speedup":
            return 1 / budget.value
        case "latency-ms" | "max-mib":
            return min(1.0, budget.value / costs.dense)
        case "units":
            return min(budget.value, budget.columns)
        case _:
            return budget.value


def prune_to_budget(
    checkpoint: Checkpoint,
    pruner: Pruner,
    budget: Budget,
    costs: Costs,
    table: LatencyTable | None,
    options: PruneOptions,
) -> PruningOutcome:
    """Prunes to the budget. A network that turns out too slow or too large is pruned once more, and further."""

    def prune_to(fraction: float) -> PruningOutcome:
        steps = pruner.prune(budget, costs, fraction)
        encoder = steps[-1].network.encoder
        slim = operate(encoder, plan_from_zeros(encoder))
        cost = costs.total(counts_of(encoder))
        if table is None or budget.kind not in TIMED:
            return PruningOutcome(steps, slim, cost)
        options.progress.stage("Measuring the pruned network")
        return PruningOutcome(steps, slim, cost, measure_speed(checkpoint.encoder, slim, table, predicted_ms=cost))

    if budget.kind == "max-mib":
        return _within_bytes(prune_to, pruner, budget, costs, options)
    first = prune_to(kept_fraction(budget, costs))
    if first.speed is None or overrun(budget, first.speed) <= options.tolerance:
        return first
    target = max(corrected_ms(budget, first.speed), pruner.least_cost(costs))
    if target >= first.cost:
        return first
    second = prune_to(target / costs.dense)
    assert second.speed is not None
    better = overrun(budget, second.speed) < overrun(budget, first.speed)
    return replace(second, first=first.speed) if better else first


def _within_bytes(
    prune_to: Callable[[float], PruningOutcome], pruner: Pruner, budget: Budget, costs: Costs, options: PruneOptions
) -> PruningOutcome:
    """Prunes until the file is no larger than `budget`, a few times at most; the prediction is off by kilobytes."""
    most = round(budget.value * MIB)
    target = kept_fraction(budget, costs) * costs.dense
    for _ in range(_TRIES):
        outcome = prune_to(target / costs.dense)
        outcome = replace(outcome, bytes=file_bytes(outcome.slim, options.target, options.dtype))
        assert outcome.bytes is not None
        target = min(target, outcome.cost) - (outcome.bytes - most) / MIB
        if outcome.bytes <= most or target < pruner.least_cost(costs):
            break
    return outcome


def write_result(
    checkpoint: Checkpoint,
    budget: Budget,
    costs: Costs,
    outcome: PruningOutcome,
    record: dict[str, Any],
    folder: Path,
    options: PruneOptions,
) -> PruneResult:
    """Writes the masked checkpoint of `outcome` into `folder`.

    Raises:
        OutputError: it cannot be written.
    """
    network = outcome.steps[-1].network
    options.progress.stage(f"Writing {folder}")
    weights = read_weights(checkpoint.source.folder, checkpoint.family)
    refitted = full_size_tensors(checkpoint, weights, network)
    write_masked(checkpoint, network.plan, folder, overwrite=options.overwrite, changed=refitted, **record)
    return PruneResult(
        Path(folder),
        budget,
        network.plan,
        costs.unit,
        outcome.cost,
        costs.dense,
        summarize(checkpoint, outcome.slim, network.plan),
        outcome.speed,
        outcome.bytes,
        _missed(budget, outcome, options.tolerance),
        record,
    )


def _missed(budget: Budget, outcome: PruningOutcome, tolerance: float) -> str | None:
    if outcome.speed is not None:
        return why_missed(budget, outcome.speed, tolerance)
    if outcome.bytes is not None and outcome.bytes > round(budget.value * MIB):
        return f"--max-mib {budget.value:g} is missed: the file has {outcome.bytes / MIB:.4g} MiB"
    return None


def record_of(
    checkpoint: Checkpoint,
    budget: Budget,
    costs: Costs,
    outcome: PruningOutcome,
    settings: PrunerSettings,
    calibration: Calibration,
    digest: dict[str, str],
    tolerance: float,
) -> dict[str, Any]:
    """Returns the content of pruning.json beside the plan; `digest` is the sha256 of each weights file."""
    target: dict[str, Any] = {"kind": budget.kind, "value": budget.value}
    if budget.kind == "units":
        target = {"kind": "units", "heads": budget.value, "columns": budget.columns}
    kept, total = (_totals(encoder) for encoder in (outcome.steps[-1].network.encoder, checkpoint.encoder))
    units = {name: {"kept": kept[name], "of": total[name]} for name in total}
    return {
        "method": settings.method,
        "rearrangement": settings.rearrangement,
        "reconstruction": settings.reconstruction,
        "budget": target | {"unit": costs.unit, "unpruned": costs.dense, "kept": outcome.cost, "units": units},
        "seed": settings.seed,
        "align": settings.rules.align,
        "data": {
            "name": calibration.name,
            "samples": calibration.samples,
            "sha256": calibration.digest,
            "notes": list(calibration.notes),
        },
        "source": checkpoint.source_to_json() | {"weights_sha256": digest, "weights": SAFETENSORS},
        "steps": [_step_to_json(step) for step in outcome.steps],
        "bytes": outcome.bytes,
        "speed": _speed_to_json(budget, outcome, tolerance),
        "versions": versions(),
    }


def _totals(encoder: Encoder) -> dict[str, int]:
    counts = counts_of(encoder)
    return {"heads": sum(heads for heads, _ in counts), "columns": sum(columns for _, columns in counts)}


def _speed_to_json(budget: Budget, outcome: PruningOutcome, tolerance: float) -> dict[str, Any] | None:
    if (speed := outcome.speed) is None:
        return None
    target = target_ms(budget, speed)
    return speed.to_json() | {
        "asked_ms": target,
        "asked_speedup": speed.dense_measured_ms / target,
        "tolerance": tolerance,
        "missed": why_missed(budget, speed, tolerance),
        "before_correction": None if outcome.first is None else outcome.first.to_json(),
    }


def _step_to_json(step: PruningStep) -> dict[str, Any]:
    layers = []
    for scores, (heads, columns) in zip(step.scores, step.kept, strict=True):
        layers.append(
            {
                "heads": {"total": float(scores.heads.sum()), "kept": float(scores.heads[list(heads)].sum())},
                "columns": {"total": float(scores.columns.sum()), "kept": float(scores.columns[list(columns)].sum())},
            }
        )
    return {"fraction": step.fraction, "scores": layers, "held_out_errors": step.held_out_errors()}
