#!/usr/bin/env python3
"""What each method of `prune-export train` gives: runs that fit a machine of two cores, beside the dense model trained on.

All runs of a task start from the same dense model, see the same data for as many optimiser steps, and prune to half of the
encoder's FLOPs (gradual pruning goes on to a quarter). A run that was killed goes on; one that is finished is not run again.
The tasks qa-curve and sst2-curve are gradual pruning alone, to all budgets in one run, beside the dense model trained on
with and without a teacher.

    python -m benchmarks.training train --data ../shared
    python -m benchmarks.training train --data ../shared --task sst2 --model build/minilm-sst2 --runs trained-on gradual
    python -m benchmarks.training train --data ../shared --task qa-curve --seed 1
    python -m benchmarks.training speed --data ../shared     # all exports beside the dense model, on a machine at rest
    python -m benchmarks.training_tables                     # docs/methods.md out of the results

Several runs may go on at once, each on a core of its own (`--runs`, `--threads 1`, taskset). What is pruned starts from
the dense model as it came and learns from the first run, that model trained on, which has to be finished before others
begin; each seed has its own. Results go to benchmarks/results/training-TASK.json once a run is finished.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from filelock import FileLock

from benchmarks.measuring import RESULTS, machine
from benchmarks.pruning import TASKS as PRUNING
from benchmarks.pruning import Task as PruningTask
from prune_export.benchmark.rows import Shape
from prune_export.benchmark.run import run_rows
from prune_export.benchmark.sources import onnx_row, torch_row
from prune_export.cli.console import progress
from prune_export.options.bench import RunConditions
from prune_export.outputs.run import LOG
from prune_export.training.methods.gradual import flops_schedule
from prune_export.training.recipe_file import recipe_from
from prune_export.training.run import train
from prune_export.verbs.evaluate import evaluate
from prune_export.verbs.export import export


@dataclass(frozen=True, slots=True)
class Task:
    """`data` says what is trained with (what one-shot pruning is calibrated with) and judged on, and at which length FLOPs
    count; `steps` of the optimiser are those of every run at half of the FLOPs, and of gradual pruning per budget, of which
    `way` follow each step on the way. `distillation` and `learning_rate` are for what is pruned, `plain_learning_rate` is
    that of the dense model trained on. `gradual` are further keys of gradual pruning. `runs` are those by default."""

    name: str
    data: PruningTask
    max_seq_length: int
    speed_length: int
    steps: int
    batch_size: int
    learning_rate: float
    plain_learning_rate: float
    distillation: Mapping[str, Any]
    way: int
    budgets: tuple[float, ...] = (0.5, 0.25)
    gradual: dict[str, Any] = field(default_factory=lambda: {"step": 0.7})  # one step on the way to each budget
    runs: tuple[str, ...] = ()


TRAINED_ON, DISTILLED = "trained-on", "distilled"
LONGER = {"trained-on-twice-as-long": 2, "trained-on-three-times-as-long": 3}
RUNS = (TRAINED_ON, DISTILLED, "gradual", "hybrid-filled", "struct-filled", "l0", *LONGER)
FIRST = (TRAINED_ON, "gradual", "hybrid-filled", "struct-filled", "l0", "trained-on-twice-as-long")
CURVE = (TRAINED_ON, "gradual", DISTILLED, "trained-on-three-times-as-long")
_QA = Task(
    "qa",
    PRUNING["qa"],
    max_seq_length=256,
    speed_length=384,
    steps=1200,
    batch_size=16,
    learning_rate=2e-4,
    plain_learning_rate=5e-5,
    distillation={"weight": 0.9, "temperature": 2.0, "hidden_weight": 1000.0},
    way=200,
    runs=FIRST,
)
_SST2 = Task(
    "sst2",
    PRUNING["sst2"],
    max_seq_length=64,
    speed_length=128,
    steps=800,
    batch_size=32,
    learning_rate=5e-5,
    plain_learning_rate=5e-5,
    distillation={"weight": 0.9, "temperature": 2.0},
    way=133,
    runs=FIRST,
)
TASKS = {
    task.name: task
    for task in (
        _QA,
        _SST2,
        replace(
            _QA,
            name="qa-curve",
            budgets=(0.5, 0.25, 0.1),
            gradual=_QA.gradual | {"answers": "network", "learning_rates": [2e-4, 4e-4, 1e-3]},
            runs=CURVE,
        ),
        replace(_SST2, name="sst2-curve", gradual=_SST2.gradual | {"answers": "network"}, runs=CURVE),
    )
}


def sections(run: str, task: Task) -> dict[str, dict[str, Any]]:
    """What a run's recipe says beside data, optimiser and distillation."""
    steps, half = task.steps, task.steps // 2
    movement = {"kind": "movement", "initial": "fisher"}
    budget = {"flops": 0.5}
    match run:
        case "trained-on" | "distilled":
            return {"method": {"kind": "none"}, "schedule": {"steps": steps}}
        case _ if run in LONGER:
            return {"method": {"kind": "none"}, "schedule": {"steps": LONGER[run] * steps}}
        case "gradual":
            method = {"kind": "gradual", "recovery_steps": task.way, **task.gradual}
            on_the_way = sum(not reached for _, reached in flops_schedule(task.budgets[:1], method["step"]))
            return {
                "method": method,
                "schedule": {"steps": steps - task.way * on_the_way},
                "budget": {"flops": list(task.budgets)},
            }
        case "hybrid-filled":
            method = movement | {"shape": "hybrid", "fill": True, "fill_steps": half}
            return {"method": method, "schedule": {"steps": half}, "budget": budget}
        case "struct-filled":
            method = movement | {"shape": "struct", "fill": True, "fill_steps": half}
            return {"method": method, "schedule": {"steps": half}, "budget": budget}
        case "l0":
            # Adam moves a gate that only noise pulls at by its learning rate times the root of the steps: by about 1 here.
            begin = {"initial": "fisher", "initial_spread": 3.0}
            method = {"kind": "l0", "frozen": False, "distil_gates": True, "retrain_steps": half, **begin}
            return {"method": method, "schedule": {"steps": half, "warmup": 0.0}, "budget": budget}
    raise ValueError(f"{run}: expected one of {', '.join(RUNS)}")


def recipe_data(task: Task, run: str, data: Path, model: Path, work: Path, seed: int) -> dict[str, Any]:
    """A run's recipe, as TOML would say it."""
    recipe: dict[str, Any] = {
        "model": str(model),
        "output": str(work / run),
        "seed": seed,
        "data": {
            "train": [str(data / path) for path in task.data.calibration],
            "max_seq_length": task.max_seq_length,
            "group_by_length": True,
        },
        "optimiser": {
            "learning_rate": task.plain_learning_rate,
            "score_learning_rate": 0.05 if run == "l0" else 1e-2,
            "batch_size": task.batch_size,
            "bf16": True,
        },
        "trainer": {"logging_steps": 20},
        **sections(run, task),
    }
    if "budget" in recipe or run == DISTILLED:
        recipe |= {"teacher": str(work / TRAINED_ON / "final"), "distillation": dict(task.distillation)}
        recipe["optimiser"] |= {"dropout": 0.0}
    if "budget" in recipe:
        recipe["budget"] |= {"sequence_length": task.data.sequence_length}
        recipe["optimiser"] |= {"learning_rate": task.learning_rate}
    return recipe


def judge(task: Task, folder: Path, data: Path) -> dict[str, Any]:
    """The official metrics of a checkpoint and of its export, which parity has let through."""
    onnx = folder.with_name(f"{folder.name}-onnx")
    with progress(quiet=False) as listener:
        exported = export(folder, onnx, target="cpu", overwrite=True, progress=listener)
        found = evaluate([folder, onnx], data / task.data.evaluation, progress=listener)
    pytorch, ours = found.results
    names = ("exact_match", "f1", "accuracy")
    return {
        "pytorch": {name: round(value, 3) for name, value in pytorch.metrics.items() if name in names},
        "onnx": {name: round(value, 3) for name, value in ours.metrics.items() if name in names},
        "answers": len(pytorch.predictions),
        "answers_that_differ": sum(ours.predictions[key] != answer for key, answer in pytorch.predictions.items()),
        "kept": [[layer.after.heads, layer.after.columns] for layer in exported.summary.layers],
    }


def results_of(task: Task) -> dict[str, Any]:
    path = RESULTS / f"training-{task.name}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return {
        "task": task.name,
        "metric": task.data.metric,
        "evaluation": Path(task.data.evaluation).name,
        "runs": [],
    }


def write(task: Task, found: dict[str, Any]) -> None:
    """A kill leaves the old file or the new one."""
    path = RESULTS / f"training-{task.name}.json"
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def add(task: Task, row: dict[str, Any]) -> None:
    """Puts `row` into the results, in the place of an earlier one of the same run, budget and seed."""
    same = ("run", "flops", "seed")
    with FileLock(RESULTS / f".training-{task.name}.lock"):
        found = results_of(task)
        others = [old for old in found["runs"] if any(old[key] != row[key] for key in same)]
        write(task, found | {"runs": [*others, row]})
    print({name: row[name] for name in ("run", "flops", "pytorch", "onnx", "kept")}, flush=True)


def perform(task: Task, run: str, data: Path, model: Path, work: Path, seed: int, threads: int) -> None:
    """Trains (or goes on), exports, judges, and writes a row for each budget; the model itself is the first row."""
    import torch

    torch.set_num_threads(threads)
    conditions = {"seed": seed, "machine": machine() | {"threads": threads}}
    if not results_of(task)["runs"]:
        start = work / "dense"
        shutil.copytree(model, start / "final", dirs_exist_ok=True)
        add(task, {"run": "dense", "flops": 1.0, **conditions, **judge(task, start / "final", data)})
    recipe = recipe_data(task, run, data, model, work, seed)
    with progress(quiet=False) as listener:
        train(recipe_from(recipe), resume=(work / run).is_dir(), progress=listener)
    said = {
        key: recipe[key]
        for key in ("method", "schedule", "budget", "distillation", "optimiser", "data")
        if key in recipe
    }
    if "teacher" in recipe:
        said["teacher"] = TRAINED_ON
    said["data"] = said["data"] | {"train": [Path(path).name for path in task.data.calibration]}
    published = [
        (float(path.name.split("-")[1]), path) for path in (work / run).glob("flops-?.*") if "onnx" not in path.name
    ]
    last = (recipe["budget"]["flops"] if "budget" in recipe else 1.0, work / run / "final")
    for flops, folder in sorted(published, reverse=True) or [last]:
        row = {"run": run, "flops": flops, **conditions, "minutes": minutes(work / run, flops), "recipe": said}
        add(task, row | judge(task, folder, data))


def minutes(run: Path, flops: float) -> float:
    """How long a finished run trained until it had a network of `flops`, pruning between trainings left out."""
    took: dict[str, float] = {}
    for line in (run / LOG).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "train_runtime" in entry:
            took[entry["stage"]] = entry["train_runtime"]
    seconds = 0.0
    for stage, value in took.items():
        seconds += value
        if stage.endswith(f"-flops-{flops:g}"):
            break
    return round(seconds / 60, 1)


def exports(work: Path) -> list[tuple[str, Path]]:
    """Every export that a run has left, by run and budget."""
    found = [(path.parent.name, path) for path in sorted(work.glob("*/final-onnx"))]
    return found + [
        (f"{path.parent.name} {path.name.split('-')[1]}", path) for path in sorted(work.glob("*/flops-*-onnx"))
    ]


def speed(task: Task, model: Path, work: Path, rounds: int, seconds: float) -> None:
    """All exports beside the dense model in PyTorch, in one run, each in a process of its own."""
    rows = [torch_row(model, "pytorch", name="PyTorch")]
    rows += [onnx_row(path, name=name) for name, path in exports(work)]
    shape = Shape(1, task.speed_length)
    with progress(quiet=False) as listener:
        report = run_rows(rows, [shape], RunConditions(rounds=rounds, seconds=seconds), progress=listener)
    (result,) = report.shapes
    measured = {
        latency.row: {
            "milliseconds": median(latency.milliseconds),
            "speed_up": latency.speed_up,
            "range": [min(latency.speed_ups), max(latency.speed_ups)],
        }
        for latency in result.rows
    }
    conditions = {"batch_size": 1, "sequence_length": task.speed_length, "machine": machine(), "noise": result.noise}
    write(task, results_of(task) | {"speed": conditions | {"rows": measured}})
    print(json.dumps(measured, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "speed"))
    parser.add_argument("--task", choices=TASKS, default="qa")
    parser.add_argument("--runs", nargs="+", choices=RUNS, help="default: the task's")
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--model", type=Path, help="a checkpoint's folder (default: the task's, in --data)")
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--steps", type=int, help="optimiser steps to half of the FLOPs (default: the task's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    task = TASKS[options.task]
    if options.steps:
        task = replace(task, steps=options.steps, way=task.way * options.steps // task.steps)
    model, work = options.model or options.data / task.data.model, options.work / task.name / f"seed-{options.seed}"
    if options.step == "speed":
        speed(task, model, work, options.rounds, options.seconds)
        return
    for run in options.runs or task.runs:
        perform(task, run, options.data, model, work, options.seed, options.threads)


if __name__ == "__main__":
    main()
