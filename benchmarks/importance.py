#!/usr/bin/env python3
"""Which importance of heads and columns chooses best: one step of pruning by each, without training.

Scores and reconstruction see some examples of the training data. The divergence from the unpruned network, KL at temperature
1, is measured on other examples of it, after selection alone and after reconstruction. Rows that are there are not measured
again.

    python -m benchmarks.importance --data ../shared --seeds 0 1 --flops 0.5 0.3

Results go to benchmarks/results/importance.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measuring import RESULTS, machine
from benchmarks.pruning import TASKS
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.checkpoint.tokenizer import load_tokenizer
from prune_export.pruning.calibration import Calibration, make_calibration
from prune_export.pruning.costs import flops_costs
from prune_export.pruning.gates import hugging_face_layers
from prune_export.pruning.obs import block_moments, obs_scores
from prune_export.pruning.pruned_network import keep_units, unpruned
from prune_export.pruning.pruner import PrunerSettings, prune_step
from prune_export.pruning.scores import LayerGradients, LayerScores, fisher_scores, gate_gradients, taylor_scores
from prune_export.pruning.selection import select
from prune_export.slim_model.model import slim_module
from prune_export.tasks import SPECS
from prune_export.training.features import training_features
from prune_export.training.importance import one_window_each
from prune_export.training.methods.gradual import without_labels
from prune_export.training.recipe import DataSection

PATH = RESULTS / "importance.json"
EXAMPLES, LENGTH, STRIDE, BATCH = 256, 128, 64, 16
Batches = Sequence[Mapping[str, Tensor]]
Gradients = tuple[LayerGradients, ...]


def mean_over_batches(gradients: Gradients) -> tuple[LayerScores, ...]:
    """Return |g·w| of a batch's mean loss, averaged over batches: GRAIN's importance (Yang et al. 2023, equation 3)."""

    def mean(values: Tensor) -> Tensor:
        return torch.stack([rows.double().mean(dim=0).abs() for rows in values.split(BATCH)]).mean(dim=0)

    return tuple(LayerScores(mean(layer.heads), mean(layer.columns)) for layer in gradients)


# Those of the optimal brain surgeon, which are made of moments, and whose answers these are of.
MOMENTS = {"obs": "data", "obs-network": "network"}
# The name of each other importance, whose answers its gradients are of, and what it makes of them.
IMPORTANCES: Mapping[str, tuple[str, Callable[[Gradients], tuple[LayerScores, ...]]]] = {
    "fisher": ("data", fisher_scores),
    "taylor": ("data", taylor_scores),
    "grain": ("data", mean_over_batches),
    "fisher-network": ("network", fisher_scores),
}


def calibrations(checkpoint: Checkpoint, data: Sequence[Path], seed: int) -> tuple[Calibration, Calibration]:
    """Return what is pruned with and what is judged on: different examples of the data, drawn by the seed."""
    section = DataSection(train=tuple(map(str, data)), samples=4 * EXAMPLES, max_seq_length=LENGTH, doc_stride=STRIDE)
    windows = one_window_each(training_features(section, checkpoint, seed=seed).features)
    order = np.random.default_rng(seed).permutation(len(windows))
    tokenizer = load_tokenizer(checkpoint.source.folder)
    first, second = (
        make_calibration("data.train", [windows[int(i)] for i in part], tokenizer, checkpoint.encoder.inputs, seed=seed)
        for part in (order[:EXAMPLES], order[EXAMPLES : 2 * EXAMPLES])
    )
    return first, second


@torch.no_grad()
def answers(model: nn.Module, inputs: Sequence[str], batches: Batches) -> list[Any]:
    """Return the network's outputs per batch."""
    model.eval()
    return [model(**{name: batch[name] for name in inputs}) for batch in batches]


def divergence(checkpoint: Checkpoint, found: Sequence[Any], expected: Sequence[Any], batches: Batches) -> float:
    """Return the mean over examples of KL(expected ‖ found)."""
    task = SPECS[checkpoint.task]
    sizes = [len(batch["input_ids"]) for batch in batches]
    values = [
        float(task.divergence(one, other, batch["attention_mask"], 1.0))
        for one, other, batch in zip(found, expected, batches, strict=True)
    ]
    return round(float(np.average(values, weights=sizes)), 4)


def measure(checkpoint: Checkpoint, data: Sequence[Path], seed: int, fractions: Sequence[float], length: int) -> None:
    """Measure each importance at each fraction of the FLOPs, and write each row."""
    rows = json.loads(PATH.read_text(encoding="utf-8"))["rows"] if PATH.is_file() else []
    done = {(row["importance"], row["flops"], row["seed"]) for row in rows}
    if all((name, flops, seed) in done for name in (*IMPORTANCES, *MOMENTS) for flops in fractions):
        return
    calibration, judged = calibrations(checkpoint, data, seed)
    inputs, network = checkpoint.encoder.inputs, unpruned(checkpoint.encoder)
    model = load_reference_model(checkpoint)
    expected = answers(model, inputs, judged.batches)
    costs = flops_costs(checkpoint.encoder, sequence_length=length)
    layers, task = hugging_face_layers(checkpoint, model), checkpoint.task
    by_answers = {"data": calibration.batches, "network": without_labels(calibration.batches)}
    gradients = {
        name: gate_gradients(model, layers, task, inputs, batches, seed=seed) for name, batches in by_answers.items()
    }
    every = {name: score(gradients[whose]) for name, (whose, score) in IMPORTANCES.items()}
    for name, whose in MOMENTS.items():
        moments = block_moments(model, layers, task, inputs, by_answers[whose], seed=seed)
        every[name] = obs_scores(checkpoint.encoder, moments)
    for flops in fractions:
        for name, scores in every.items():
            if (name, flops, seed) in done:
                continue
            kept = select(scores, costs, flops * costs.dense)
            step = prune_step(
                network,
                checkpoint.encoder,
                scores,
                None,
                kept,
                calibration.batches,
                fraction=flops,
                settings=PrunerSettings(rearrangement=False),
            )
            row: dict[str, Any] = {"importance": name, "flops": flops, "seed": seed}
            for state, encoder in (
                ("selected", keep_units(network, kept).encoder),
                ("reconstructed", step.network.encoder),
            ):
                found = answers(slim_module(checkpoint, encoder), inputs, judged.batches)
                row[state] = divergence(checkpoint, found, expected, judged.batches)
            rows.append(row | {"kept": [[len(heads), len(columns)] for heads, columns in kept]})
            print(row, flush=True)
            PATH.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--flops", type=float, nargs="+", default=[0.5])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = TASKS["qa"]
    checkpoint = load_checkpoint(options.data / task.model)
    data = [options.data / path for path in task.calibration]
    for seed in options.seeds:
        measure(checkpoint, data, seed, options.flops, task.sequence_length)


if __name__ == "__main__":
    main()
