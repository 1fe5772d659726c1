#!/usr/bin/env python3
"""The front of a finished search beside what one would do without it, at its latencies, in one table.

    python -m benchmarks.search --data ../shared --work build/search --runs qa-int8
    python -m benchmarks.search_baselines --data ../shared --work build/search --runs qa-int8

All networks are refitted to the same examples, judged on the same others, and timed in turns:

- prune: what `prune-export prune` selects for that latency;
- uniform: every layer keeps the same fraction of its heads and columns, those with the greatest scores;
- fewer layers: whole layers go, those whose units have the least scores, as a student of fewer layers begins;
- fptas: the plain network that the published algorithm chose, where the folder RUN-fptas of --work has its checkpoint.

Results go to benchmarks/results/search-RUN-baselines.json; what was measured stays in the search's journal.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.measuring import write_results
from benchmarks.search import RUNS, given_to
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.cli.console import progress
from prune_export.files.holding import held
from prune_export.options.search import SearchOptions
from prune_export.subarchitecture.candidate import Candidate, candidate_of
from prune_export.subarchitecture.evaluation_journal import Journal
from prune_export.subarchitecture.front_point import FrontPoint
from prune_export.subarchitecture.measured_front import Measuring, Nominee, measure_front
from prune_export.subarchitecture.search_data import read_search_data
from prune_export.subarchitecture.search_folder import JOURNAL
from prune_export.subarchitecture.search_run import Search
from prune_export.verbs.search import search

UNIFORM_STEPS = 48  # fractions that are tried for a latency


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is measured under `name`, meant to be as fast as a point of the front."""

    name: str
    nominee: Nominee


def baselines(run: Search, front: list[FrontPoint], fptas: Path) -> Iterator[Baseline]:
    """Yields what is at the latency of each point of the front, or just below."""
    full = run.full()
    shallow: set[Candidate] = set()
    for point in front:
        assert point.predicted is not None
        budget = point.predicted.latency_ms
        selection = run.selection(budget)
        assert selection is not None
        yield Baseline("prune", nominee(run, selection))
        yield Baseline("uniform", nominee(run, uniform(run, full, budget)))
        fewer = [few_layers(run, full, depth) for depth in range(1, len(full.heads))]
        within = [candidate for candidate in fewer if run.costs.latency_ms(candidate) <= budget]
        if within and within[-1] not in shallow:
            shallow.add(within[-1])
            yield Baseline("fewer layers", nominee(run, within[-1]))
    if (fptas / "checkpoint").is_dir():
        plain = load_checkpoint(fptas / "checkpoint").encoder
        yield Baseline("fptas", Nominee(["fptas"], lambda: plain, (), None))


def nominee(run: Search, candidate: Candidate) -> Nominee:
    return run.nominee_of(candidate, float("nan"))


def uniform(run: Search, full: Candidate, budget: float) -> Candidate:
    """The greatest fraction of all layers' heads and columns within `budget`, in milliseconds; one head at least."""
    align = run.options.align
    for step in range(UNIFORM_STEPS, 0, -1):
        heads = tuple(max(1, round(count * step / UNIFORM_STEPS)) for count in full.heads)
        columns = tuple(max(align, round(count * step / UNIFORM_STEPS / align) * align) for count in full.columns)
        candidate = Candidate(heads, columns)
        if run.costs.latency_ms(candidate) <= budget:
            break
    return candidate


def few_layers(run: Search, full: Candidate, depth: int) -> Candidate:
    """The `depth` layers whose units have the greatest scores together, whole."""
    worth = [float(layer.heads.sum() + layer.columns.sum()) for layer in run.scores]
    stay = sorted(range(len(worth)), key=lambda layer: -worth[layer])[:depth]
    heads, columns = (
        tuple(count if layer in stay else 0 for layer, count in enumerate(counts))
        for counts in (full.heads, full.columns)
    )
    return Candidate(heads, columns)


def compare(
    run: str, work: Path, data: Path, model: Path | None, *, most: int, evaluations: int, points: int
) -> dict[str, Any]:
    """Measures the front again with its baselines beside it."""
    folder = work / run
    parent, calibration, given = given_to(run, data, model)
    with progress(quiet=False) as listener:
        finished = search(
            parent, calibration, folder, evaluations=evaluations, points=points, progress=listener, **given
        )
        front, record = list(finished.front.points), finished.record
        chosen = SearchOptions(parent, calibration, folder, progress=listener, **given)
        checkpoint = load_checkpoint(resolve(parent))
        with held(folder, "search"):
            journal = Journal(folder / JOURNAL, record)
            run_again = Search(checkpoint, read_search_data(chosen, checkpoint), chosen, journal, frozenset())
            measuring = Measuring(
                *(checkpoint, run_again.data, run_again.tables.latency.settings),
                max_seq_length=chosen.max_seq_length,
                labels=chosen.labels,
            )
            named = [Baseline("search", nominee(run_again, candidate_of(point.units))) for point in front]
            named += baselines(run_again, front[:: max(1, len(front) // most)], work / f"{run}-fptas")
            rows, unpruned = measure_front(
                measuring, journal, [one.nominee for one in named], len(named), progress=listener
            )
    return {
        "run": run,
        "model": RUNS[run].name or parent.name,
        "metric": RUNS[run].metric,
        "options": record["options"],
        "evaluations": finished.front.evaluations,
        "unpruned": msgspec.to_builtins(unpruned),
        "rows": [
            {
                "name": one.name,
                **msgspec.to_builtins(row.measured),
                "is_dominated": row.is_dominated,
                "kept": [[len(heads), len(columns)] for heads, columns in row.units],
            }
            for one, row in zip(named, rows, strict=True)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--work", type=Path, default=Path("build/search"))
    parser.add_argument("--model", type=Path, help="a checkpoint's folder (default: the task's, in --data)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, required=True)
    parser.add_argument("--beside", type=int, default=4, help="points of the front that get baselines (default: 4)")
    parser.add_argument("--evaluations", type=int, default=200, help="those of the search")
    parser.add_argument("--points", type=int, default=10, help="those of the search")
    options = parser.parse_args()
    for run in options.runs:
        found = compare(
            run,
            options.work,
            options.data,
            options.model,
            most=options.beside,
            evaluations=options.evaluations,
            points=options.points,
        )
        print(write_results(f"search-{run}-baselines", found))


if __name__ == "__main__":
    main()
