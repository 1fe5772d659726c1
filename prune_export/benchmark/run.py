"""The whole benchmark: rows, shapes and conditions to a report."""

from __future__ import annotations

import os
from collections.abc import Sequence

from exporters.errors import UsageError
from prune_export.benchmark.machine import machine, physical_cpus
from prune_export.benchmark.results import BenchReport
from prune_export.benchmark.rounds import measure_rows
from prune_export.benchmark.rows import Conditions, Row, Shape
from prune_export.benchmark.sources import token_ids
from prune_export.progress import SILENT, Progress

ROUNDS = 5
SECONDS = 2.0


def run_rows(
    rows: Sequence[Row],
    shapes: Sequence[Shape],
    *,
    provider: str = "cpu",
    dtype: str = "fp32",
    threads: int | None = None,
    padding: float = 0.0,
    cuda_graphs: bool = False,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    progress: Progress = SILENT,
) -> BenchReport:
    """Measures `rows` beside each other, the first being the baseline; arguments as for `bench`.

    Raises:
        UsageError: an argument is out of range, or two rows have one name.
        BenchmarkError: a row cannot be loaded or run.
    """
    if not rows:
        raise UsageError("nothing to measure: give --model with --rows, or --onnx")
    names = [row.name for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two rows are called {', '.join(twice)}; expected different names")
    check_run(shapes, padding=padding, rounds=rounds, seconds=seconds)
    cpus = choose_cpus(threads)
    vocabulary, pad_token_id = token_ids(rows)
    conditions = Conditions(
        threads=threads or len(cpus) or os.cpu_count() or 1,
        cpus=cpus,
        provider=provider,
        dtype=dtype,
        padding=padding,
        vocabulary=vocabulary,
        pad_token_id=pad_token_id,
        cuda_graphs=cuda_graphs,
    )
    facts, results = measure_rows(rows, shapes, conditions, rounds=rounds, seconds=seconds, progress=progress)
    return BenchReport(facts, results, conditions, rounds, seconds, machine())


def check_run(shapes: Sequence[Shape], *, padding: float, rounds: int, seconds: float) -> None:
    """Checks the numbers of a run.

    Raises:
        UsageError: one is out of range.
    """
    if not shapes or any(min(shape.batch_size, shape.sequence_length) < 1 for shape in shapes):
        raise UsageError("--batch-size and --sequence-length: expected whole numbers of 1 or more")
    if not 0 <= padding < 1:
        raise UsageError(f"--padding {padding}: expected a fraction from 0 to below 1")
    if rounds < 1:
        raise UsageError(f"--rounds {rounds}: expected 1 or more")
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--seconds {seconds}: expected more than 0")


def choose_cpus(threads: int | None) -> tuple[int, ...]:
    """The logical processors to run on: one a thread, each on a core of its own as far as there are cores.

    Empty where the system does not tell. None: as many threads as there are physical cores.

    Raises:
        UsageError: there are not so many.
    """
    physical = physical_cpus()
    if not physical:
        return ()
    others = sorted(os.sched_getaffinity(0) - set(physical))
    count = len(physical) if threads is None else threads
    if not 1 <= count <= len(physical) + len(others):
        raise UsageError(f"--threads {count}: expected 1 to {len(physical) + len(others)}, the processors at hand")
    return tuple(sorted([*physical, *others][:count]))
