"""The whole benchmark, from rows and options to a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from exporters.errors import UsageError
from prune_export.benchmark.results import BenchReport
from prune_export.benchmark.rounds import measure_rows
from prune_export.benchmark.rows import Conditions, Row, Shape
from prune_export.benchmark.sources import token_ids
from prune_export.facts.machine import machine, physical_cpus
from prune_export.files.reading import expanded
from prune_export.options.bench import RunConditions
from prune_export.progress import SILENT, Progress

DEFAULT_CONDITIONS = RunConditions()


def run_rows(
    rows: Sequence[Row],
    shapes: Sequence[Shape],
    options: RunConditions = DEFAULT_CONDITIONS,
    *,
    progress: Progress = SILENT,
) -> BenchReport:
    """Measures `rows` beside each other, the first being the baseline.

    Raises:
        UsageError: nothing is to be measured, or something twice, or there are fewer processors than threads.
        BenchmarkError: a row cannot be loaded or run.
    """
    if not rows:
        raise UsageError("nothing to measure: give --model, --onnx, or both")
    names = [row.name for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two rows are called {', '.join(twice)}; expected different names")
    check_shapes(shapes)
    cpus = choose_cpus(options.threads)
    vocabulary, pad_token_id = token_ids(rows)
    conditions = Conditions(
        threads=options.threads or len(cpus) or os.cpu_count() or 1,
        cpus=cpus,
        provider=options.provider,
        dtype=options.dtype,
        padding=options.padding,
        vocabulary=vocabulary,
        pad_token_id=pad_token_id,
        cuda_graphs=options.cuda_graphs,
    )
    rounds, seconds = options.rounds_or_default, options.seconds_or_default
    facts, results = measure_rows(rows, shapes, conditions, rounds=rounds, seconds=seconds, progress=progress)
    return BenchReport(facts, results, conditions, rounds, seconds, machine(), options.quick)


def names_of(onnx: Sequence[str | Path]) -> list[str]:
    """Returns the names of exported models in tables: the folder's name if that is unique, otherwise the whole path.

    Raises:
        UsageError: no path can be of that form.
    """
    paths = [expanded(path) for path in onnx]
    short = [path.resolve().name for path in paths]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]


def check_shapes(shapes: Sequence[Shape]) -> None:
    """Checks that there are shapes, each once.

    Raises:
        UsageError: there are none, or two are the same.
    """
    if not shapes:
        raise UsageError("--batch-size and --sequence-length: expected whole numbers of 1 or more")
    if len(set(shapes)) < len(shapes):
        raise UsageError("--batch-size and --sequence-length: a number stands there twice")


def choose_cpus(threads: int | None) -> tuple[int, ...]:
    """Returns the logical processors to run on: one per thread, each on a core of its own as far as there are cores.

    The result is empty if the system does not tell. `threads` None: as many threads as there are physical cores.

    Raises:
        UsageError: there are fewer processors.
    """
    physical = physical_cpus()
    siblings = sorted(os.sched_getaffinity(0) - set(physical)) if physical else []
    most = len(physical) + len(siblings) or os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= most:
        raise UsageError(f"--threads {threads}: expected 1 to {most}, the processors at hand")
    return tuple(sorted([*physical, *siblings][: threads or len(physical)]))
