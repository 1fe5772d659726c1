"""The whole benchmark, from rows and options to a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from exporters.errors import UsageError
from exporters.providers import CPU, PROVIDERS
from prune_export.benchmark.results import BenchReport
from prune_export.benchmark.rounds import measure_rows
from prune_export.benchmark.rows import Conditions, Row, Shape
from prune_export.benchmark.sources import token_ids
from prune_export.facts.machine import machine, physical_cpus
from prune_export.files.reading import expanded
from prune_export.progress import SILENT, Progress

ROUNDS = 5
SECONDS = 2.0
DTYPES = ("fp32", "fp16")


def run_rows(
    rows: Sequence[Row],
    shapes: Sequence[Shape],
    *,
    provider: str = CPU.name,
    dtype: str = "fp32",
    threads: int | None = None,
    padding: float = 0.0,
    cuda_graphs: bool = False,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    quick: bool = False,
    progress: Progress = SILENT,
) -> BenchReport:
    """Measures `rows` beside each other, the first being the baseline; arguments as for `bench`.

    Raises:
        UsageError: an argument is out of range, or two rows have one name.
        BenchmarkError: a row cannot be loaded or run.
    """
    if not rows:
        raise UsageError("nothing to measure: give --model, --onnx, or both")
    names = [row.name for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two rows are called {', '.join(twice)}; expected different names")
    check_run(shapes, padding=padding, rounds=rounds, seconds=seconds, provider=provider, dtype=dtype)
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
    return BenchReport(facts, results, conditions, rounds, seconds, machine(), quick)


def names_of(onnx: Sequence[str | Path]) -> list[str]:
    """Returns the names of exported models in tables: the folder's name if that is unique, otherwise the whole path.

    Raises:
        UsageError: no path can be of that form.
    """
    paths = [expanded(path) for path in onnx]
    short = [path.resolve().name for path in paths]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]


def check_run(
    shapes: Sequence[Shape], *, padding: float, rounds: int, seconds: float, provider: str, dtype: str
) -> None:
    """Checks the options of a run.

    Raises:
        UsageError: something is out of range.
    """
    if not shapes or any(min(shape.batch_size, shape.sequence_length) < 1 for shape in shapes):
        raise UsageError("--batch-size and --sequence-length: expected whole numbers of 1 or more")
    if len(set(shapes)) < len(shapes):
        raise UsageError("--batch-size and --sequence-length: a number stands there twice")
    if not 0 <= padding < 1:
        raise UsageError(f"--padding {padding}: expected a fraction from 0 to below 1")
    if rounds < 1:
        raise UsageError(f"--rounds {rounds}: expected 1 or more")
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--seconds {seconds}: expected more than 0")
    if provider not in PROVIDERS:
        raise UsageError(f"--provider {provider}: expected one of {', '.join(PROVIDERS)}")
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")


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
