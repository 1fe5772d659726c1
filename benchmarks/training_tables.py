#!/usr/bin/env python3
"""Puts results of benchmarks.training into docs/methods.md, with the one-shot results of benchmarks.pruning beside them.

The text between `<!-- qa -->` and `<!-- /qa -->`, and likewise sst2, qa-curve, sst2-curve and importance, is replaced; the
rest is left alone. Results hold finished runs alone.

    python -m benchmarks.training_tables
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from statistics import mean
from typing import Any

from benchmarks.importance import EXAMPLES, LENGTH
from benchmarks.measuring import RESULTS
from benchmarks.pruning import OBS
from benchmarks.readme import Content, put
from benchmarks.training import TASKS
from prune_export.training.methods.gradual import GradualConfig, flops_schedule

PAGE = RESULTS.parent.parent / "docs" / "methods.md"
TITLES = {
    "dense": "dense",
    "trained-on": "dense, trained on",
    "distilled": "dense, taught by the row above",
    "trained-on-twice-as-long": "dense, trained on twice as long",
    "trained-on-three-times-as-long": "dense, trained on three times as long",
    "gradual": "gradual",
    "hybrid-filled": "movement, hybrid, filled",
    "struct-filled": "movement, struct, filled",
    "l0": "L0 gates, then retraining",
}
METRICS = {"f1": "F1", "exact_match": "EM", "accuracy": "accuracy"}


def table(found: Mapping[str, Any], one_shot: Mapping[str, Any]) -> str:
    """Return a row per network, the most FLOPs first; of those that keep as much, untrained ones come first."""
    names = [name for name in METRICS if name in found["runs"][0]["pytorch"]]
    timed = any("minutes" in run for run in found["runs"])
    head = ["", "FLOPs", "steps", *(["minutes of training"] if timed else [])]
    head += ["heads/columns of each layer", *(METRICS[name] for name in names)]
    rows = [[*head, "ONNX", "ONNX speed-up", "pruning alone"], ["---"] * (len(head) + 3)]
    order = list(TITLES)
    for flops in sorted({run["flops"] for run in found["runs"]}, reverse=True):
        for point in one_shot["points"]:
            if (point["row"], point["flops"], point["seed"]) == (OBS, flops, 0):
                figures = [f"{point['metrics'][name]:.2f}" for name in names]
                cost = ["0"] * (1 + timed)
                rows.append(["one-shot (`prune`)", f"{flops:g}", *cost, _kept(point["kept"]), *figures, "", "", ""])
        runs = [run for run in found["runs"] if run["flops"] == flops]
        for run in sorted(runs, key=lambda run: order.index(run["run"])):
            figures = [f"{run['pytorch'][name]:.2f}" for name in names]
            same = run["onnx"] == run["pytorch"]
            ours = "the same" if same else ", ".join(f"{run['onnx'][name]:.2f}" for name in names)
            took = run.get("minutes", None if "recipe" in run else 0)
            cost = [steps(run), *(["" if took is None else f"{took:.0f}"] if timed else [])]
            rows.append(
                [TITLES[run["run"]], f"{flops:g}", *cost, _kept(run["kept"]), *figures, ours, *speed(found, run)]
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def curve(found: Mapping[str, Any]) -> str:
    """Return a row per run and budget, with the mean over seeds and what it loses to the best dense row of those seeds."""
    metric = found["metric"]
    rows = [["", "FLOPs", "steps", "seeds", METRICS[metric], "of each seed", "lost"], ["---"] * 7]
    groups: dict[tuple[str, float], dict[int, Mapping[str, Any]]] = {}
    for run in sorted(found["runs"], key=lambda run: (-run["flops"], list(TITLES).index(run["run"]), run["seed"])):
        groups.setdefault((run["run"], run["flops"]), {})[run["seed"]] = run

    def mean_of(runs: Mapping[int, Mapping[str, Any]], seeds: set[int]) -> float:
        return mean(runs[seed]["pytorch"][metric] for seed in seeds)

    for (name, flops), runs in groups.items():
        figures = [f"{run['pytorch'][metric]:.2f}" for run in runs.values()]
        dense = [other for (_, size), other in groups.items() if size == 1.0 and set(runs) <= set(other)]
        lost = max(mean_of(other, set(runs)) for other in dense) - mean_of(runs, set(runs))
        cells = [steps(next(iter(runs.values()))), ", ".join(map(str, runs)), f"{mean_of(runs, set(runs)):.2f}"]
        rows.append([TITLES[name], f"{flops:g}", *cells, ", ".join(figures), f"{lost:.2f}" if flops < 1 else ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def steps(run: Mapping[str, Any]) -> str:
    """Optimiser steps from the dense model to this network."""
    if "recipe" not in run:
        return "0"
    method, last = run["recipe"]["method"], run["recipe"]["schedule"]["steps"]
    if method["kind"] == "gradual":
        count = 0
        for budget, reached in flops_schedule(
            run["recipe"]["budget"]["flops"], method.get("step", GradualConfig().step)
        ):
            count += last if reached else method["recovery_steps"]
            if budget == run["flops"]:
                break
        return f"{count:,}"
    return f"{last + method.get('fill_steps', 0) + method.get('retrain_steps', 0):,}"


def speed(found: Mapping[str, Any], run: Mapping[str, Any]) -> tuple[str, str]:
    """Return the export's speed-up over the dense model in PyTorch, and over the dense model's own export."""
    name = f"{run['run']} {run['flops']:g}" if run["run"] == "gradual" else run["run"]
    rows = found.get("speed", {}).get("rows", {})
    if name not in rows:
        return "", ""
    alone = rows["dense"]["milliseconds"] / rows[name]["milliseconds"]
    return f"{rows[name]['speed_up']:.2f}×", f"{alone:.2f}×"


def _kept(kept: Any) -> str:
    if all(pair == kept[0] for pair in kept):
        return f"{kept[0][0]}/{kept[0][1]} each"
    return ", ".join(f"{heads}/{columns}" for heads, columns in kept)


def conditions(found: Mapping[str, Any]) -> str:
    """Return the conditions of the figures."""
    task, first = TASKS[found["task"]], found["runs"][0]
    trained = next(run for run in found["runs"] if "recipe" in run)
    recipe, machine = trained["recipe"], trained["machine"]
    optimiser = recipe["optimiser"]
    sources, rate = ", ".join(recipe["data"]["train"]), f"learning rate {optimiser['learning_rate']:g}"
    pruned = pruned_recipe(found)["optimiser"]
    if rates := pruned_recipe(found)["method"].get("learning_rates"):
        budgets = pruned_recipe(found)["budget"]["flops"]
        each = (f"{value:g} at {budget:g}" for value, budget in zip(rates, budgets, strict=True))
        rate += f" (of pruned networks {', '.join(each)} of the FLOPs)"
    elif pruned["learning_rate"] != optimiser["learning_rate"]:
        rate += f" ({pruned['learning_rate']:g} for pruned networks)"
    words = [
        f"Batch {optimiser['batch_size']}, at most {recipe['data']['max_seq_length']} tokens, {rate}, "
        f"{'bf16, ' if optimiser['bf16'] else ''}trained on {sources}; judged on all {first['answers']:,} examples of "
        f"{found['evaluation']}; {seeds(found)}. FLOPs are those of the encoder layers at length "
        f"{task.data.sequence_length}. {distilled(found)}"
    ]
    if "speed" in found:
        part = found["speed"]
        words.append(
            "Speed-ups are those of the fp32 export on the CPU over the dense model in PyTorch; pruning alone is over the "
            "export of the dense model. Batch "
            f"{part['batch_size']}, length {part['sequence_length']}, {part['machine']['cores']} cores of an "
            f"{part['machine']['processor']}, all in one run; a round's ratios are off by {100 * part['noise']:.0f} %."
        )
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "transformers", "onnxruntime"))
    words.append(f"{machine['date']}, {versions}. `python -m benchmarks.training` measures again.")
    return " ".join(words)


def seeds(found: Mapping[str, Any]) -> str:
    """Return the seeds in words."""
    numbers = sorted({run["seed"] for run in found["runs"]})
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def pruned_recipe(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the recipe of the first pruned network."""
    recipe: Mapping[str, Any] = next(run["recipe"] for run in found["runs"] if "budget" in run.get("recipe", {}))
    return recipe


def distilled(found: Mapping[str, Any]) -> str:
    """Return the teacher of the pruned networks, and the weights of their loss."""
    recipe = pruned_recipe(found)
    part = recipe["distillation"]
    hidden = f", hidden states {part['hidden_weight']:g}" if part.get("hidden_weight") else ""
    dropout, teacher = recipe["optimiser"].get("dropout"), TITLES[recipe["teacher"]]
    return (
        f'The teacher of pruned networks is the row "{teacher}": the loss weighs logits {part["weight"]:g} (temperature '
        f"{part['temperature']:g}){hidden} and the task {1 - part['weight']:g}"
        f"{'' if dropout is None else f'; dropout {dropout:g}'}."
    )


IMPORTANCE = {
    "obs": 'optimal brain surgeon, `answers = "data"` (`obs`, the default)',
    "obs-network": 'optimal brain surgeon, `answers = "network"`',
    "fisher": 'Fisher information, `answers = "data"`',
    "fisher-network": 'Fisher information, `answers = "network"`',
    "taylor": "mean of each sample's absolute gradient (`taylor`)",
    "grain": "mean of a batch's absolute gradient (GRAIN)",
}


def importance(found: Mapping[str, Any]) -> str:
    """Return a row per importance, with the divergence after one step to each fraction of the FLOPs, mean over seeds."""
    fractions = sorted({row["flops"] for row in found["rows"]}, reverse=True)
    lines = [["score", *(f"{fraction:g} of the FLOPs" for fraction in fractions)], ["---"] * (len(fractions) + 1)]
    for name, title in IMPORTANCE.items():
        cells = []
        for fraction in fractions:
            values = {
                row["seed"]: row for row in found["rows"] if (row["importance"], row["flops"]) == (name, fraction)
            }
            cells.append(f"{mean(row['reconstructed'] for row in values.values()):.3f}" if values else "")
        lines.append([title, *cells])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"{table}\n\nMean over {len({row['seed'] for row in found['rows']})} seed(s); {EXAMPLES} windows of {LENGTH} tokens "
        f"to score and reconstruct with, as many others to judge on."
    )


def contents() -> list[Content]:
    """Return the texts of the page that are made of the results that are there."""
    pages = []
    for task in TASKS:
        path, other = (RESULTS / f"{name}-{task}.json" for name in ("training", "pruning"))
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if task.endswith("-curve"):
                if not any(run["flops"] < 1 for run in found["runs"]):
                    continue
                pages.append((PAGE, task, f"{curve(found)}\n\n{conditions(found)}"))
                continue
            one_shot = json.loads(other.read_text(encoding="utf-8")) if other.is_file() else {"points": []}
            pages.append((PAGE, task, f"{table(found, one_shot)}\n\n{conditions(found)}"))
    path = RESULTS / "importance.json"
    if path.is_file():
        pages.append((PAGE, "importance", importance(json.loads(path.read_text(encoding="utf-8")))))
    return pages


def main() -> None:
    put(contents())


if __name__ == "__main__":
    main()
