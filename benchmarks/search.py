#!/usr/bin/env python3
"""The fronts of `prune-export search`: error, latency and size of what it finds, with the time that it took.

    python -m benchmarks.search --data ../shared --work build/search --runs qa-int8
    python -m benchmarks.search_tables     # docs/search.md, out of the results

    python -m benchmarks.search --work build/search --runs sst2-int8 --model build/minilm-sst2
    python -m benchmarks.search --work build/search --runs features-int8 --model "$(python examples/minilm.py)"

A search that was killed goes on, and its time is then left out. Results go to benchmarks/results/search-RUN.json, with the
front's picture beside them.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.measuring import RESULTS, write_results
from benchmarks.pruning import TASKS
from prune_export.cli.console import progress
from prune_export.subarchitecture.search_folder import JOURNAL
from prune_export.verbs.search import search


@dataclass(frozen=True, slots=True)
class Run:
    """What is searched: `model` and `calibration` are relative to the data folder, an empty `model` has to be given."""

    model: str
    calibration: tuple[str, ...]
    metric: str | None
    options: Mapping[str, Any]
    name: str = ""  # of the model, where its folder says nothing


_QA, _SST2 = TASKS["qa"], TASKS["sst2"]
_INT8 = {"dtype": "int8", "sequence_length": 128, "threads": 1}
_BANKING = ("data/intent/banking77/train.csv",)
RUNS: Mapping[str, Run] = {
    "qa-int8": Run(_QA.model, _QA.calibration, _QA.metric, _INT8),
    "qa-int8-fptas": Run(_QA.model, _QA.calibration, _QA.metric, _INT8 | {"method": "fptas", "best_w": True}),
    "qa-int8-widths": Run(_QA.model, _QA.calibration, _QA.metric, _INT8 | {"widths": True}),
    "sst2-int8": Run(_SST2.model, _SST2.calibration, _SST2.metric, _INT8),
    "features-int8": Run("", _BANKING, None, _INT8 | {"task": "feature-extraction"}, "all-MiniLM-L6-v2"),
    "base-int8": Run("", _QA.calibration, _QA.metric, _INT8),
}


def given_to(run: str, data: Path, model: Path | None) -> tuple[Path, list[Path], dict[str, Any]]:
    """The model of a run, its calibration data and further options."""
    found = RUNS[run]
    if model is None and not found.model:
        raise SystemExit(f"{run}: has no model of its own; give one with --model")
    return model or data / found.model, [data / path for path in found.calibration], dict(found.options)


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
        model, calibration, given = given_to(run, options.data, options.model)
        folder = options.work / run
        is_resumed = (folder / JOURNAL).is_file()
        start = time.perf_counter()
        effort = {} if "method" in given else {"evaluations": options.evaluations, "points": options.points}
        with progress(quiet=False) as listener:
            result = search(model, calibration, folder, progress=listener, **(given | effort))
        found = {
            "run": run,
            "model": RUNS[run].name or model.name,
            "metric": RUNS[run].metric,
            "options": result.record["options"],
            "calibration": [path.name for path in calibration],
            "evaluations": result.front.evaluations,
            "seconds": None if is_resumed else round(time.perf_counter() - start, 1),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "unpruned": msgspec.to_builtins(result.front.unpruned),
            "points": msgspec.to_builtins(result.front.points),
        }
        print(write_results(f"search-{run}", found))
        shutil.copyfile(folder / "front.svg", RESULTS / f"search-{run}.svg")


if __name__ == "__main__":
    main()
