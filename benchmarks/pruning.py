#!/usr/bin/env python3
"""What each step of `prune-export prune` is worth: the task's metric against the FLOPs that stay.

Every row adds one thing to the row before it. All rows of a seed share their calibration data, and what is shared among
budgets is made once, as in `prune-export prune` with several budgets. What is judged is the fp32 model as it is exported. A
point is written as soon as it is there; points that are there already are not measured again, so that a run which was
stopped goes on.

    python -m benchmarks.pruning --task qa --data ../shared
    python -m benchmarks.pruning --task sst2 --data ../shared --model build/minilm-sst2
    python -m benchmarks.pruning_tables     # docs/prune.md and the pictures, out of the results
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, machine

FLOPS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
DENSE = "dense"
GRADUAL = "+ gradual"
OBS = "optimal brain surgeon"  # the default of `prune`
OBS_ALONE, OBS_SCALES = f"{OBS}, nothing refitted", f"{OBS}, scales refitted"
KEEP_BLOCKS = "no whole block dropped"
# What each row is, by what `prune_export.pruning.pruner.PrunerSettings` calls it.
ROWS: dict[str, dict[str, Any]] = {
    "random": {"method": "random", "rearrangement": False, "reconstruction": "none", "gradual": False},
    "magnitude": {"method": "magnitude", "rearrangement": False, "reconstruction": "none", "gradual": False},
    "taylor": {"method": "taylor", "rearrangement": False, "reconstruction": "none", "gradual": False},
    "fisher": {"method": "fisher", "rearrangement": False, "reconstruction": "none", "gradual": False},
    "+ rearrangement": {"method": "fisher", "reconstruction": "none", "gradual": False},
    "+ scales": {"method": "fisher", "reconstruction": "scales", "gradual": False},
    "+ reconstruction": {"method": "fisher", "gradual": False},
    GRADUAL: {"method": "fisher"},
    OBS_ALONE: {"method": "obs", "reconstruction": "none"},
    OBS_SCALES: {"method": "obs", "reconstruction": "scales"},
    OBS: {"method": "obs"},
    KEEP_BLOCKS: {"method": "obs", "drop_blocks": False},
}
_LATER_SEEDS = (0.7, 0.6, 0.5, 0.4, 0.3)


@dataclass(frozen=True, slots=True)
class Task:
    """What is pruned and judged; paths are relative to the data folder. FLOPs count at `sequence_length` tokens.

    Networks are judged on the answerable questions of `second`, too.
    """

    name: str
    model: str
    calibration: tuple[str, ...]
    evaluation: str
    metric: str
    sequence_length: int
    samples: int
    second: str | None = None
    rows: tuple[str, ...] = field(default_factory=lambda: tuple(ROWS))


TASKS = {
    task.name: task
    for task in (
        Task(
            name="qa",
            model="models/minilm-qa-dense",
            calibration=tuple(f"data/qa/squadshifts-{name}.json" for name in ("new_wiki", "reddit", "amazon")),
            evaluation="data/qa/xquad-en.json",
            second="data/qa/squad-v2-dev-8-articles.json",
            metric="f1",
            sequence_length=192,
            samples=512,
        ),
        Task(
            name="sst2",
            model="",
            calibration=("data/glue/SST-2/train.tsv",),
            evaluation="data/glue/SST-2/dev.tsv",
            metric="accuracy",
            sequence_length=32,
            samples=2048,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: `flops` is the fraction that was asked for."""

    row: str
    flops: float
    seed: int


def plan(task: Task, seeds: Sequence[int]) -> list[Point]:
    """All points, what matters most first: the rows that build on each other at the usual budgets."""
    rows = [row for row in task.rows if row != DENSE]
    built = [row for row in rows if row in (OBS, "fisher", "+ reconstruction", GRADUAL, OBS_ALONE, OBS_SCALES)]
    others = [row for row in rows if row not in built]
    points = [Point(DENSE, 1.0, seeds[0])]
    points += [Point(row, flops, seeds[0]) for flops in _LATER_SEEDS for row in built]
    points += [Point(row, flops, seeds[0]) for row in others for flops in _LATER_SEEDS]
    points += [Point(row, flops, seeds[0]) for flops in (0.9, 0.8) for row in rows]
    points += [Point(OBS, flops, seed) for seed in seeds[1:] for flops in _LATER_SEEDS]
    points += [Point(OBS, flops, seeds[0]) for flops in (0.25, 0.1)]  # beside benchmarks.training
    return points


def same_as(point: Point, found: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """A measured point that this one must equal, because what it adds to that one does nothing here."""
    from prune_export.pruning.budget import target_fractions

    if point.row == GRADUAL and len(target_fractions(point.flops)) == 1:
        row = "+ reconstruction"
    elif point.row == KEEP_BLOCKS:
        row = OBS
    else:
        return None
    for other in found:
        if (other["row"], other["flops"], other["seed"]) == (row, point.flops, point.seed):
            dropped = any(0 in pair for pair in other["kept"])
            return None if point.row == KEEP_BLOCKS and dropped else other | {"row": point.row, "same_as": row}
    return None


class Bench:
    """One seed's calibration, and a pruner for each row."""

    def __init__(self, task: Task, folder: Path, model: Path, seed: int, samples: int, threads: int) -> None:
        from prune_export.checkpoint.load import load_checkpoint
        from prune_export.checkpoint.source import resolve
        from prune_export.data.read import read_examples
        from prune_export.options.prune import CalibrationData
        from prune_export.pruning.calibration import read_calibration
        from prune_export.pruning.costs import flops_costs

        self.task, self.seed, self.threads = task, seed, threads
        self.checkpoint = load_checkpoint(resolve(model))
        sources = [folder / path for path in task.calibration]
        self.calibration = read_calibration(CalibrationData(sources, samples=samples, seed=seed), self.checkpoint)
        self.data: Any = read_examples(folder / task.evaluation)
        self.second: Any = None
        if task.second is not None:
            second: Any = read_examples(folder / task.second)
            answerable = tuple(example for example in second.examples if example.answers)
            self.second = replace(second, examples=answerable, style="squad")
        self.costs = flops_costs(self.checkpoint.encoder, sequence_length=task.sequence_length)
        self._gradients: Any = None
        self._pruners: dict[str, Any] = {}

    def measure(self, point: Point) -> dict[str, Any]:
        """Prunes, and judges what would be exported."""
        from prune_export.pruning.budget import Budget
        from prune_export.pruning.costs import counts_of
        from prune_export.surgeon import operate
        from prune_export.surgeon.zeros import plan_from_zeros

        encoder, fits = self.checkpoint.encoder, []
        if point.row != DENSE:
            steps = self._pruner(point.row).prune(Budget("flops", point.flops), self.costs, point.flops)
            encoder = steps[-1].network.encoder
            fits = [[part.layer, part.part, part.before, part.after] for part in steps[-1].fits]
        counts = counts_of(encoder)
        metrics, second = self.judge(operate(encoder, plan_from_zeros(encoder)))
        return {
            "row": point.row,
            "flops": point.flops,
            "seed": point.seed,
            "metrics": {name: round(value, 3) for name, value in metrics.items()},
            "second_metrics": {name: round(value, 3) for name, value in second.items()},
            "flops_kept": round(self.costs.total(counts) / self.costs.dense, 5),
            "kept": [list(pair) for pair in counts],
            "held_out_errors": [[*part[:2], *(float(f"{error:.4g}") for error in part[2:])] for part in fits],
        }

    def _pruner(self, row: str) -> Any:
        from prune_export.pruning.pruner import Pruner, PrunerSettings
        from prune_export.pruning.selection import Rules

        if row not in self._pruners:
            options = dict(ROWS[row])
            rules = Rules(drop_blocks=options.pop("drop_blocks", True))
            settings = PrunerSettings(**options, rules=rules, seed=self.seed)
            self._pruners[row] = Pruner(self.checkpoint, self.calibration, settings, gradients=self._gradients)
            if settings.method in ("fisher", "taylor") and self._gradients is None:
                self._gradients = self._pruners[row].gradients()
        return self._pruners[row]

    def judge(self, slim: Any) -> tuple[dict[str, float], dict[str, float]]:
        from exporters.onnx.precision import PRECISIONS
        from exporters.onnx.serialize import save
        from exporters.onnx.targets import TARGETS
        from exporters.onnx.writer import build
        from exporters.session import Session
        from prune_export.evaluation.evaluate_network import evaluate_network
        from prune_export.network.opening import Network

        target, precision = TARGETS["cpu"], PRECISIONS["fp32"]
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "model.onnx"
            save(build(slim, target, precision), path)
            settings = target.settings(precision, slim.embeddings.max_length)
            session = Session(path, provider="cpu", threads=self.threads, settings=settings)
            folder = self.checkpoint.source.folder
            network = Network("pruned", "onnx", slim.task, folder, session.inputs, session.outputs, session.run)
            second = {} if self.second is None else dict(evaluate_network(network, self.second).metrics)
            return dict(evaluate_network(network, self.data).metrics), second


@contextmanager
def shared_lock(path: Path | None) -> Iterator[None]:
    """Waits while somebody holds `path` for himself alone."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def read_results(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"points": []}  # type: ignore[no-any-return]


def write(path: Path, results: dict[str, Any]) -> None:
    """A kill leaves the old file or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    lines = ",\n".join(f"  {json.dumps(point)}" for point in results["points"])
    head = json.dumps(results | {"points": []}, indent=1).replace('"points": []', f'"points": [\n{lines}\n ]')
    aside.write_text(head + "\n", encoding="utf-8")
    aside.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--model", type=Path, help="a checkpoint's folder (default: the task's, in --data)")
    parser.add_argument("--samples", type=int, help="examples to calibrate with (default: the task's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="these rows only")
    parser.add_argument("--flops", type=float, nargs="+", help="these budgets only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", help="name of the results file (default: pruning-TASK)")
    parser.add_argument("--lock", type=Path, help="share the lock of this file while at work on a point")
    options = parser.parse_args()
    task = TASKS[options.task]
    model = options.model or options.data / task.model
    samples = options.samples or task.samples
    path = RESULTS / f"{options.name or f'pruning-{task.name}'}.json"
    found = read_results(path)
    done = {Point(point["row"], point["flops"], point["seed"]) for point in found["points"]}
    wanted = [
        point
        for point in plan(task, options.seeds)
        if point not in done
        and (options.rows is None or point.row in (*options.rows, DENSE))
        and (options.flops is None or point.flops in (*options.flops, 1.0))
    ]
    import torch

    torch.set_num_threads(options.threads)
    bench: Bench | None = None
    for point in wanted:
        with shared_lock(options.lock):
            measured = same_as(point, read_results(path)["points"])
            if bench is None or bench.seed != point.seed:
                bench = Bench(task, options.data, model, point.seed, samples, options.threads)
            measured = measured or bench.measure(point)
        found = read_results(path)
        found |= {
            "machine": machine(),
            "task": task.name,
            "metric": task.metric,
            "samples": samples,
            "sequence_length": task.sequence_length,
            "calibration": [Path(source).name for source in task.calibration],
            "evaluation": Path(task.evaluation).name,
            "second": None if task.second is None else Path(task.second).name,
            "examples": len(bench.data.examples),
        }
        write(path, {**found, "points": [*found["points"], measured]})
        print(point, measured["metrics"], measured["kept"], flush=True)


if __name__ == "__main__":
    main()
