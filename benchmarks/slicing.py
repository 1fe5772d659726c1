#!/usr/bin/env python3
"""What slicing the residual stream costs in answers, by width, basis and refit.

Widths are those that hold the same share of each norm's eigenvalues, chosen so that a fraction of the layers' FLOPs stays.
Beside the task's metric on every n-th question, the mean divergence from the dense network on held-out examples of the
calibration data tells more: it changes smoothly. A point is written as soon as it is there; points that are there already
are not measured again.

    python -m benchmarks.slicing --data ../shared --flops 0.7 0.55 0.45
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
REFITS = ("none", "writing", "full")


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

    def flops(self, shapes: Sequence[Any]) -> int:
        from exporters.cost import flops_per_token

        hidden, length = self.dense.hidden_size, self.bench.task.sequence_length
        return flops_per_token(tuple(shapes), hidden_size=hidden, sequence_length=length)

    def widths(self, fraction: float, sensitivity: float) -> tuple[int, ...]:
        """The widths of the largest share that keeps at most `fraction` of the FLOPs, by bisection."""
        from exporters.cost import layer_shape
        from prune_export.slicing.widths import widths_by_share

        shapes = list(map(layer_shape, self.dense.layers))
        low, high = 0.0, 1.0
        for _ in range(40):
            widths = widths_by_share(self.bases(sensitivity), (low + high) / 2)
            of_layers = zip(widths[:-1:2], widths[1::2], widths[2::2], strict=True)
            sliced = [replace(shape, widths=of_layer) for shape, of_layer in zip(shapes, of_layers, strict=True)]
            if self.flops(sliced) > fraction * self.flops(shapes):
                high = (low + high) / 2
            else:
                low = (low + high) / 2
        return widths_by_share(self.bases(sensitivity), low)

    def measure(self, fraction: float, sensitivity: float, *, refit: Any) -> dict[str, Any]:
        """Slices to a fraction of the FLOPs, and judges what would be exported."""
        from exporters.cost import count_parameters, layer_shape
        from prune_export.slicing.slicer import slice_network

        sliced, batches = self.dense, self.bench.calibration.batches
        if fraction < 1:
            bases, widths = self.bases(sensitivity), self.widths(fraction, sensitivity)
            sliced = slice_network(self.dense, self.dense, batches, widths, bases=bases, refit=refit)
        flops = [self.flops(list(map(layer_shape, encoder.layers))) for encoder in (sliced, self.dense)]
        return {
            "widths": list(sliced.widths),
            "flops_kept": round(flops[0] / flops[1], 4),
            "parameters_kept": round(count_parameters(sliced) / count_parameters(self.dense), 4),
            "divergence": float(f"{self.divergence(sliced):.4g}"),
            "metric": round(self.bench.judge(sliced)[0][self.bench.task.metric], 2),
        }


def rows(budgets: Sequence[float], sensitivities: Sequence[float], refits: Sequence[str]) -> list[dict[str, Any]]:
    """The points; all FLOPs are the dense network's."""
    return [
        {"flops": 1.0, "sensitivity": 0.0, "refit": "none"},
        *(
            {"flops": budget, "sensitivity": sensitivity, "refit": refit}
            for budget in budgets
            for sensitivity in sensitivities
            for refit in refits
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--flops", type=float, nargs="+", default=[0.7, 0.55, 0.45], help="fractions that stay")
    parser.add_argument("--sensitivities", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--refit", nargs="+", choices=REFITS, default=list(REFITS))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--name", default="slicing-qa", help="name of the results file")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    task, path = TASKS["qa"], RESULTS / f"{options.name}.json"
    found = read_results(path)
    keys = ("flops", "sensitivity", "refit")
    done = [{key: point[key] for key in keys} for point in found["points"]]
    wanted = [row for row in rows(options.flops, options.sensitivities, options.refit) if row not in done]
    bench: SlicingBench | None = None
    for row in wanted:
        if bench is None:
            inner = Bench(task, options.data, options.data / task.model, 0, options.samples, 1)
            bench = SlicingBench(inner, options.data, options.questions)
        point = row | bench.measure(row["flops"], row["sensitivity"], refit=row["refit"])
        print(json.dumps(point), flush=True)
        found = read_results(path)
        settings = {"samples": options.samples, "questions": len(bench.bench.data.examples), "task": task.name}
        write(path, found | {"machine": machine(), **settings, "points": [*found["points"], point]})


if __name__ == "__main__":
    main()
