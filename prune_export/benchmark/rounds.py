"""The measurement of rows beside each other, in rounds that alternate between their processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import mean

from prune_export.benchmark.process import Measured, RowProcess
from prune_export.benchmark.results import Latency, RowFacts, ShapeResult
from prune_export.benchmark.rows import Conditions, Cost, Row, Shape
from prune_export.progress import SILENT, Progress


def measure_rows(
    rows: Sequence[Row],
    shapes: Sequence[Shape],
    conditions: Conditions,
    *,
    rounds: int,
    seconds: float,
    progress: Progress = SILENT,
) -> tuple[tuple[RowFacts, ...], tuple[ShapeResult, ...]]:
    """Loads each row in a process of its own, then measures all rows at all shapes; the first row is the baseline.

    A round measures every row for `seconds` and the first row once more at its end: its two latencies tell how steady the
    machine is, and their mean is what the others are compared with.

    Raises:
        BenchmarkError: a row cannot be loaded or run.
    """
    with ExitStack() as stack:
        progress.stage("Loading", len(rows))
        processes = []
        for row in rows:
            processes.append(stack.enter_context(RowProcess(row, conditions)))
            progress.advance()
        costs = [_cost(process) for process in processes]
        results = []
        for shape in shapes:
            progress.stage(f"Measuring {shape}", rounds * (len(rows) + 1))
            times: list[list[Measured]] = []
            for _ in range(rounds):
                times.append([])
                for process in (*processes, processes[0]):
                    times[-1].append(process.measure(shape, seconds))
                    progress.advance()
            results.append(compare_rows(shape, [row.name for row in rows], costs, times))
        facts = [_facts(process, cost) for process, cost in zip(processes, costs, strict=True)]
    return tuple(facts), tuple(results)


def compare_rows(
    shape: Shape, names: Sequence[str], costs: Sequence[Cost | None], rounds: Sequence[Sequence[Measured]]
) -> ShapeResult:
    """Compares rows: `rounds` holds, per round, what every row took, and the first row again."""
    times = [[measured.milliseconds for measured in measured_round] for measured_round in rounds]
    others = [
        measured.others for measured_round in rounds for measured in measured_round if measured.others is not None
    ]
    bases = [(round_times[0] + round_times[-1]) / 2 for round_times in times]
    flops = [cost.flops_per_token(shape.sequence_length) if cost else None for cost in costs]
    latencies = []
    for index, name in enumerate(names):
        own = bases if index == 0 else [round_times[index] for round_times in times]
        ratios = tuple(base / value for base, value in zip(bases, own, strict=True))
        baseline_flops, own_flops = flops[0], flops[index]
        by_flops = baseline_flops / own_flops if baseline_flops and own_flops else None
        latencies.append(Latency(name, tuple(own), ratios, by_flops))
    return ShapeResult(
        shape,
        tuple(latencies),
        tuple(round_times[0] / round_times[-1] for round_times in times),
        mean(others) if others else None,
    )


def _cost(process: RowProcess) -> Cost | None:
    cost = process.loaded["cost"]
    return process.row.cost or (Cost(**cost) if cost else None)


def _facts(process: RowProcess, cost: Cost | None) -> RowFacts:
    row, loaded = process.row, process.loaded
    size, seconds = loaded["size_bytes"] / 2**20, loaded["load_seconds"]
    return RowFacts(row.name, row.kind, row.model, row.note, cost, size, seconds, process.finish(), row.form)
