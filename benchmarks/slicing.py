#!/usr/bin/env python3
"""What slicing the residual stream costs in answers, by width, basis and refit.

Widths are those that hold a share of each norm's variance, or one for all norms. Beside the task's metric on every n-th
question, the mean divergence from the dense network on held-out examples of the calibration data tells more: it changes
smoothly. A point is written as soon as it is there; points that are there already are not measured again.

    python -m benchmarks.slicing --data ../shared --shares 0.93 0.9 0.86
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, machine
from benchmarks.pruning import TASKS, Bench, read_results, write

HELD_OUT, HELD_OUT_SEED = 96, 77


class SlicingBench:
    """A network, its calibration data, its bases by sensitivity, and the judges of what becomes of it."""

    def __init__(self, bench: Bench, folder: Path, questions: int) -> None:
        from prune_export.options.prune import CalibrationData
        from prune_export.pruning.calibration import read_calibration

        self.bench, self.dense = bench, bench.checkpoint.encoder
        examples = bench.data.examples
        bench.data = replace(bench.data, examples=examples[:: max(1, len(examples) // questions)])
        sources = [folder / path for path in bench.task.calibration]
        options = CalibrationData(sources, samples=HELD_OUT, seed=HELD_OUT_SEED)
        self.held_out = read_calibration(options, bench.checkpoint).batches
        self.answers = self._answers(self.dense)
        self._bases: dict[float, Any] = {}

    def bases(self, sensitivity: float) -> Any:
        from prune_export.slicing.bases import spectra

        if sensitivity not in self._bases:
            batches = self.bench.calibration.batches
            self._bases[sensitivity] = spectra(self.dense, batches, sensitivity=sensitivity)
        return self._bases[sensitivity]

    def _answers(self, encoder: Any) -> list[Any]:
        import torch

        from prune_export.slim_model.model import slim_module

        module = slim_module(self.bench.checkpoint, encoder)
        with torch.no_grad():
            return [module(**{name: batch[name] for name in encoder.inputs}) for batch in self.held_out]

    def divergence(self, encoder: Any) -> float:
        """The mean over examples of KL(dense ‖ sliced)."""
        from prune_export.tasks import SPECS

        total = count = 0.0
        for batch, sliced, dense in zip(self.held_out, self._answers(encoder), self.answers, strict=True):
            examples = len(batch["input_ids"])
            count += examples
            total += examples * float(SPECS[encoder.task].divergence(sliced, dense, batch["attention_mask"], 1.0))
        return total / count

    def measure(self, name: str, sensitivity: float, *, refit: bool) -> dict[str, Any]:
        """Slices to `name`, a share ("0.9") or a width ("288"), and judges what would be exported."""
        from exporters.cost import count_parameters, flops_per_token, layer_shape
        from prune_export.slicing.slicer import slice_network
        from prune_export.slicing.widths import one_width, widths_by_share

        def flops(encoder: Any) -> int:
            shapes = tuple(map(layer_shape, encoder.layers))
            length = self.bench.task.sequence_length
            return flops_per_token(shapes, hidden_size=encoder.hidden_size, sequence_length=length)

        whole = float(name) > 1
        widths = one_width(self.dense, int(name)) if whole else widths_by_share(self.bases(0.0), float(name))
        sliced, batches = self.dense, self.bench.calibration.batches
        if name != "1":
            bases = self.bases(sensitivity)
            sliced = slice_network(self.dense, self.dense, batches, widths, bases=bases, refit=refit)
        return {
            "widths": list(sliced.widths),
            "flops_kept": round(flops(sliced) / flops(self.dense), 4),
            "parameters_kept": round(count_parameters(sliced) / count_parameters(self.dense), 4),
            "divergence": float(f"{self.divergence(sliced):.4g}"),
            "metric": round(self.bench.judge(sliced)[self.bench.task.metric], 2),
        }


def rows(names: Sequence[str], sensitivities: Sequence[float], refits: Sequence[str]) -> list[dict[str, Any]]:
    """The points: "1" is the dense network."""
    dense = {"width": "1", "sensitivity": 0.0, "refit": False}
    return [
        dense,
        *(
            {"width": name, "sensitivity": sensitivity, "refit": refit == "yes"}
            for name in names
            for sensitivity in sensitivities
            for refit in refits
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--shares", nargs="*", default=["0.97", "0.93", "0.9", "0.86"], help="shares of the variance")
    parser.add_argument("--widths", nargs="*", default=[], help="widths for all norms")
    parser.add_argument("--sensitivities", type=float, nargs="+", default=[0.0])
    parser.add_argument("--refit", nargs="+", choices=("yes", "no"), default=["no", "yes"])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--name", default="slicing-qa", help="name of the results file")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    task, path = TASKS["qa"], RESULTS / f"{options.name}.json"
    found = read_results(path)
    keys = ("width", "sensitivity", "refit")
    done = [{key: point[key] for key in keys} for point in found["points"]]
    wanted = [
        row for row in rows([*options.shares, *options.widths], options.sensitivities, options.refit) if row not in done
    ]
    bench: SlicingBench | None = None
    for row in wanted:
        if bench is None:
            inner = Bench(task, options.data, options.data / task.model, 0, options.samples, 1)
            bench = SlicingBench(inner, options.data, options.questions)
        point = row | bench.measure(row["width"], row["sensitivity"], refit=row["refit"])
        print(json.dumps(point), flush=True)
        found = read_results(path)
        settings = {"samples": options.samples, "questions": len(bench.bench.data.examples), "task": task.name}
        write(path, found | {"machine": machine(), **settings, "points": [*found["points"], point]})


if __name__ == "__main__":
    main()
