"""`prune_export.prune`: a dense checkpoint and a few hundred examples to a masked checkpoint, at a budget."""

from __future__ import annotations

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
from prune_export.pruning.cutting import full_size_tensors
from prune_export.pruning.latency import LatencyTable, latency_costs
from prune_export.pruning.speed import Speed, asked_ms, corrected_ms, overrun, why_missed
from prune_export.pruning.stepping import Pruner, Settings, Step
from prune_export.surgeon import operate
from prune_export.surgeon.zeros import plan_from_zeros

TIMED = ("speedup", "latency-ms")


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
class Reached:
    """What a budget came to: the steps, the slim network, and what it costs and takes; `first` is the speed before a
    correcting step."""

    steps: tuple[Step, ...]
    slim: Encoder
    cost: float
    speed: Speed | None = None
    first: Speed | None = None


def budget_costs(checkpoint: Checkpoint, budget: Budget, table: LatencyTable | None, length: int) -> Costs:
    match budget.kind:
        case "parameters":
            return parameter_costs(checkpoint.encoder)
        case "speedup" | "latency-ms":
            assert table is not None
            return latency_costs(table, checkpoint.encoder)
        case _:
            return flops_costs(checkpoint.encoder, sequence_length=length)


def kept_fraction(budget: Budget, costs: Costs) -> float:
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


def prune_to_budget(
    checkpoint: Checkpoint,
    pruner: Pruner,
    budget: Budget,
    costs: Costs,
    table: LatencyTable | None,
    options: PruneOptions,
) -> Reached:
    """Prunes to the budget; once more, and further, where the network that comes of it is too slow."""

    def reached(fraction: float) -> Reached:
        steps = pruner.prune(budget, costs, fraction)
        encoder = steps[-1].network.encoder
        slim = operate(encoder, plan_from_zeros(encoder))
        cost = costs.total(counts_of(encoder))
        if table is None or budget.kind not in TIMED:
            return Reached(steps, slim, cost)
        options.progress.stage("Measuring the pruned network")
        return Reached(steps, slim, cost, measure_speed(checkpoint.encoder, slim, table, predicted_ms=cost))

    first = reached(kept_fraction(budget, costs))
    if first.speed is None or overrun(budget, first.speed) <= options.tolerance:
        return first
    target = max(corrected_ms(budget, first.speed), pruner.least(costs))
    if target >= first.cost:
        return first
    second = reached(target / costs.dense)
    assert second.speed is not None
    better = overrun(budget, second.speed) < overrun(budget, first.speed)
    return replace(second, first=first.speed) if better else first


def write_result(
    checkpoint: Checkpoint,
    budget: Budget,
    costs: Costs,
    found: Reached,
    record: dict[str, Any],
    folder: Path,
    options: PruneOptions,
) -> PruneResult:
    network = found.steps[-1].network
    options.progress.stage(f"Writing {folder}")
    weights = read_weights(checkpoint.source.folder, checkpoint.family)
    refitted = full_size_tensors(checkpoint, weights, network)
    write_masked(checkpoint, network.plan, folder, overwrite=options.overwrite, changed=refitted, **record)
    return PruneResult(
        Path(folder),
        budget,
        network.plan,
        costs.unit,
        found.cost,
        costs.dense,
        summarize(checkpoint, found.slim, network.plan),
        found.speed,
        None if found.speed is None else why_missed(budget, found.speed, options.tolerance),
        record,
    )


def record_of(
    checkpoint: Checkpoint,
    budget: Budget,
    costs: Costs,
    found: Reached,
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
        "source": checkpoint.source_to_json() | {"weights_sha256": digest, "weights": SAFETENSORS},
        "steps": [_step_to_json(step) for step in found.steps],
        "speed": _speed_to_json(budget, found, tolerance),
        "versions": versions(),
    }


def _totals(encoder: Encoder) -> dict[str, int]:
    counts = counts_of(encoder)
    return {"heads": sum(heads for heads, _ in counts), "columns": sum(columns for _, columns in counts)}


def _speed_to_json(budget: Budget, found: Reached, tolerance: float) -> dict[str, Any] | None:
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
