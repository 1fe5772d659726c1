#!/usr/bin/env python3
"""The fronts of `prune-export search`: error, latency and size of what it finds, with the time that it took.

    python -m benchmarks.search --data ../shared --work build/search --runs qa-int8
    python -m benchmarks.search_tables     # docs/search.md, out of the results

A search that was killed goes on. Results go to benchmarks/results/search-RUN.json, with the front's picture beside them.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.measuring import RESULTS, write_results
from benchmarks.pruning import TASKS, Task
from prune_export.cli.console import progress
from prune_export.verbs.search import search

# What each run gives to `search` beside the model and the data of a task.
RUNS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "qa-int8": ("qa", {"dtype": "int8", "sequence_length": 128}),
    "qa": ("qa", {"sequence_length": 128}),
    "qa-widths": ("qa", {"sequence_length": 128, "widths": True}),
    "qa-uniform": ("qa", {"sequence_length": 128, "uniform": True}),
    "sst2-int8": ("sst2", {"dtype": "int8", "sequence_length": 128}),
}


def given_to(run: str, data: Path, model: Path | None) -> tuple[Task, Path, list[Path], dict[str, Any]]:
    """The task of a run, its model, its calibration data and further options."""
    name, given = RUNS[run]
    task = TASKS[name]
    return task, model or data / task.model, [data / path for path in task.calibration], dict(given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--work", type=Path, default=Path("build/search"))
    parser.add_argument("--model", type=Path, help="a checkpoint's folder (default: the task's, in --data)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--points", type=int, default=10)
    options = parser.parse_args()
    for run in options.runs:
        task, model, calibration, given = given_to(run, options.data, options.model)
        folder = options.work / run
        start = time.perf_counter()
        with progress(quiet=False) as listener:
            result = search(
                model,
                calibration,
                folder,
                evaluations=options.evaluations,
                points=options.points,
                progress=listener,
                **given,
            )
        found = {
            "run": run,
            "model": model.name,
            "metric": task.metric,
            "options": result.record["options"],
            "calibration": [path.name for path in calibration],
            "evaluations": result.front.evaluations,
            "seconds": round(time.perf_counter() - start, 1),
            "unpruned": msgspec.to_builtins(result.front.unpruned),
            "points": msgspec.to_builtins(result.front.points),
        }
        print(write_results(f"search-{run}", found))
        shutil.copyfile(folder / "front.svg", RESULTS / f"search-{run}.svg")


if __name__ == "__main__":
    main()
