#!/usr/bin/env python3
"""Uniform networks before and after distillation: points of `search --uniform`, trained by the recipe bort-search.

    python examples/finetune_sst2.py --data ../shared/data/glue/SST-2 --output build/minilm-sst2
    python -m benchmarks.uniform_training --data ../shared --model build/minilm-sst2
    python -m benchmarks.search_tables     # docs/search.md, out of the results

For each fraction of the unpruned latency, the point of the front that loses least within it is trained with several seeds.
A search or a training that was killed goes on. Results go to benchmarks/results/uniform-training.json.
"""

from __future__ import annotations

import argparse
import shutil
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.measuring import RESULTS, write_results
from benchmarks.pruning import TASKS
from prune_export.cli.console import progress
from prune_export.progress import Progress
from prune_export.training.recipe_file import recipe_from
from prune_export.training.run import train
from prune_export.verbs.evaluate import evaluate
from prune_export.verbs.search import search

NAME = "uniform-training"
TASK = TASKS["sst2"]
RECIPE = RESULTS.parent.parent / "examples/recipes/bort-search.toml"


def recipe_of(model: Path, found: Path, output: Path, data: Path, steps: int, seed: int) -> dict[str, Any]:
    """The published recipe with this task's data, batch and length, and so many steps."""
    recipe = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    of_data = {
        "train": [str(data / path) for path in TASK.calibration],
        "max_seq_length": 64,
        "group_by_length": True,
    }
    places = {"model": str(found), "teacher": str(model), "output": str(output), "seed": seed}
    return {
        **recipe,
        **places,
        "data": of_data,
        "schedule": {"steps": steps},
        "optimiser": recipe["optimiser"] | {"batch_size": 32},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with data/")
    parser.add_argument("--work", type=Path, default=Path("build/uniform-training"))
    parser.add_argument("--model", type=Path, required=True, help="a classifier of SST-2")
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.5, 0.25], help="of the unpruned latency")
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    options = parser.parse_args()
    torch.set_num_threads(1)

    def judged(folder: Path, listener: Progress) -> float:
        (result,) = evaluate([folder], options.data / TASK.evaluation, progress=listener).results
        return round(result.metrics[TASK.metric], 2)

    with progress(quiet=False) as listener:
        calibration = [options.data / path for path in TASK.calibration]
        given = {"uniform": True, "evaluations": options.evaluations, "sequence_length": 128, "threads": 1}
        searched = options.work / "search"
        front = search(options.model, calibration, searched, progress=listener, **given).front
        rows = []
        for fraction in options.fractions:
            limit = fraction * front.unpruned.latency_ms
            result = search(options.model, calibration, searched, latency_ms=limit, progress=listener, **given)
            assert result.chosen is not None
            assert result.checkpoint is not None
            found = options.work / f"found-{fraction:g}"
            shutil.copytree(result.checkpoint, found, dirs_exist_ok=True)
            row: dict[str, Any] = {
                "fraction": fraction,
                "shape": msgspec.to_builtins(result.chosen.shape),
                "measured": msgspec.to_builtins(result.chosen.measured),
                "before": judged(found, listener),
                "after": {},
            }
            for seed in options.seeds:
                output = options.work / f"trained-{fraction:g}-{seed}"
                recipe = recipe_of(options.model, found, output, options.data, options.steps, seed)
                train(recipe_from(recipe), resume=output.is_dir(), progress=listener)
                row["after"][seed] = judged(output / "final", listener)
                print(row, flush=True)
            rows.append(row)
        report = {
            "model": options.model.name,
            "metric": TASK.metric,
            "evaluation": Path(TASK.evaluation).name,
            "steps": options.steps,
            "evaluations": front.evaluations,
            "unpruned": {**msgspec.to_builtins(front.unpruned), "before": judged(options.model, listener)},
            "rows": rows,
        }
    print(write_results(NAME, report))


if __name__ == "__main__":
    main()
