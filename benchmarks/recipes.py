#!/usr/bin/env python3
"""Every published recipe in miniature, from recipe to proven ONNX.

Each recipe of examples/recipes/ runs as it stands but for what cannot be had on two cores: its networks (MiniLM in their
place), its data (small parts of real data in the same form) and its lengths. What it leaves is exported, which proves the
export by parity, and judged with the task's metric beside the dense network. One table: published figure, what the
miniature did, command.

    python -m benchmarks.recipes --data ../shared [--only nn_pruning-hybrid …] [--found FOLDER]

A row replaces an earlier one of the same recipe in benchmarks/results/recipes.json; docs/published.md is made of that file.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, machine
from benchmarks.readme import put
from benchmarks.recipe_data import dense_classifier, found_network, mrqa_folders, squad_2
from benchmarks.recipes_tables import NAME, contents, recipes_section
from benchmarks.source_tree import ROOT
from prune_export.cli.console import progress
from prune_export.training.recipe import Recipe
from prune_export.training.recipe_file import read_recipe
from prune_export.training.run import TrainResult, train
from prune_export.verbs.evaluate import evaluate
from prune_export.verbs.export import export
from prune_export.verbs.inspect import inspect

RECIPES = ROOT / "examples" / "recipes"
STEPS, BATCH_SIZE, EXAMPLES = 16, 4, 100
EVALUATIONS = {
    "qa": "xquad-en",
    "found": "xquad-en",
    "qa2": "8 articles of SQuAD 2.0",
    "mrqa": "two sets in MRQA's form",
    "texts": "SST-2",
}
LENGTH = 128  # tokens of a window, and at which FLOPs are counted


@dataclass(frozen=True, slots=True)
class Miniature:
    """A recipe, what its system published, and the changes to it; `data` is the form of its data ("found" ends as "qa")."""

    recipe: str
    system: str
    published: str
    data: str
    steps: int
    changes: tuple[str, ...]


# In a run of STEPS steps no score falls below a threshold, and no gate closes, at the recipes' rates.
_SCORES = (f"schedule.steps={STEPS}", "optimiser.score_learning_rate=1.0")
_GATES = (*_SCORES, f"method.retrain_steps={STEPS}")
_FILLED = (*_SCORES, f"method.fill_steps={STEPS}")
_STUDENT = ("method.layers=3", f"method.prediction_steps={STEPS}")

MINIATURES = (
    Miniature(
        "nn_pruning-hybrid",
        "nn_pruning, hybrid, SQuAD 1.1",
        "F1 86.94 of 88.5 at 2.35×",
        "qa",
        STEPS,
        _SCORES,
    ),
    Miniature(
        "nn_pruning-hybrid-filled",
        "nn_pruning, hybrid-filled, SQuAD 1.1",
        "F1 87.71 of 88.5 at 2.44×",
        "qa",
        2 * STEPS,
        _FILLED,
    ),
    Miniature("nn_pruning-struct", "nn_pruning, struct, SQuAD 1.1", "F1 84.68 of 88.5 at 3.64×", "qa", STEPS, _SCORES),
    Miniature("nn_pruning-block", "nn_pruning, block, SQuAD 1.1", "no network", "qa", STEPS, _SCORES),
    Miniature(
        "nn_pruning-hybrid-bert-large-squad2",
        "nn_pruning, hybrid, BERT-large, SQuAD 2.0",
        "F1 83.22 of 85.85 at 2.15×",
        "qa2",
        STEPS,
        _SCORES,
    ),
    Miniature(
        "nn_pruning-hybrid-filled-mnli",
        "nn_pruning, hybrid-filled, MNLI",
        "accuracy 83.71 of 84.6 at 2.00×",
        "texts",
        2 * STEPS,
        _FILLED,
    ),
    Miniature(
        "mccarley-l0", "McCarley et al., SQuAD 2.0, BERT-base", "none for this network", "qa2", 2 * STEPS, _GATES
    ),
    Miniature(
        "mccarley-l0-bert-large-squad2",
        "McCarley et al., SQuAD 2.0",
        "1.5 F1 lost at nearly 2× (without distillation)",
        "qa2",
        2 * STEPS,
        _GATES,
    ),
    Miniature(
        "mccarley-l0-roberta-large-nq",
        "McCarley et al., Natural Questions",
        "less than 0.5 F1 lost at nearly 2×",
        "mrqa",
        2 * STEPS,
        _GATES,
    ),
    Miniature(
        "tinyroberta-distil",
        "TinyRoBERTa, SQuAD 2.0",
        "F1 82.04, EM 78.86 at 2×",
        "qa2",
        3 * STEPS,
        (*_STUDENT, f"method.intermediate_steps={STEPS}", f"method.fine_tuning_steps={STEPS}"),
    ),
    Miniature(
        "tinyroberta-mrqa-distil", "TinyRoBERTa, MRQA, distillation", "none after this alone", "mrqa", STEPS, _STUDENT
    ),
    Miniature(
        "tinyroberta-mrqa-finetune",
        "TinyRoBERTa, MRQA, fine-tuning",
        "F1 80.07 in domain, 64.16 out of domain, of 84.38 and 72.88, at 2×",
        "mrqa",
        STEPS,
        (f"schedule.steps={STEPS}",),
    ),
    Miniature(
        "bort-search",
        "Bort",
        "GLUE 83.6 (BERT-large 80.5) at 7.9× of BERT-base",
        "found",
        STEPS,
        (f"schedule.steps={STEPS}",),
    ),
    Miniature(
        "gradual-fisher",
        "scores of Kwon et al., steps of ZipLM",
        "nothing for the combination",
        "qa",
        STEPS,
        (f"schedule.steps={STEPS // 4}", f"method.recovery_steps={STEPS // 4}", "method.step=0.7", "method.samples=48"),
    ),
)


class Inputs:
    """Networks and data of the miniatures, each made when it is first asked for."""

    def __init__(self, data: Path, work: Path, found: Path | None) -> None:
        self.data, self.work = data, work
        self.dense_questions = data / "models/minilm-qa-dense"
        self.squad_2: Callable[[], Path] = cache(lambda: squad_2(data, work))
        self.mrqa: Callable[[], tuple[Path, Path]] = cache(lambda: mrqa_folders(data, work))
        self.dense_classifier: Callable[[], Path] = cache(lambda: dense_classifier(data, work))
        self.found: Callable[[], Path] = cache(lambda: found or found_network(self.dense_questions, work))

    def dense(self, kind: str) -> Path:
        """Returns the dense network, which is also the teacher."""
        return self.dense_classifier() if kind == "texts" else self.dense_questions

    def training(self, kind: str) -> Path:
        """Returns what is trained on."""
        if kind == "texts":
            return self.data / "data/glue/SST-2/train.tsv"
        if kind == "mrqa":
            return self.mrqa()[0]
        return self.squad_2() if kind == "qa2" else self.data / "data/qa/squadshifts-new_wiki.json"

    def evaluation(self, kind: str) -> Path:
        """Returns what networks are judged on."""
        files = {"texts": "glue/SST-2/dev.tsv", "qa2": "qa/squad-v2-dev-8-articles.json"}
        return self.mrqa()[1] if kind == "mrqa" else self.data / "data" / files.get(kind, "qa/xquad-en.json")


def changes_to(miniature: Miniature, recipe: Recipe, inputs: Inputs) -> list[str]:
    """Returns all that differs from the recipe, as `--set` takes it."""
    dense = inputs.dense(miniature.data)
    model = {"bort-search": inputs.found, "tinyroberta-mrqa-finetune": lambda: distilled(inputs.work)}
    changes = [
        f"model={model.get(miniature.recipe, lambda: dense)()}",
        f"output={inputs.work / miniature.recipe}",
        f"data.train={inputs.training(miniature.data)}",
        "data.samples=400",
        f"data.max_seq_length={LENGTH}",
        f"data.doc_stride={LENGTH // 4}",
        f"optimiser.batch_size={BATCH_SIZE}",
        "optimiser.accumulation=1",
        *miniature.changes,
    ]
    changes += [f"teacher={dense}"] * (recipe.teacher is not None)
    return changes + [f"method.prediction_teacher={dense}"] * hasattr(recipe.method, "prediction_teacher")


def distilled(work: Path) -> Path:
    """Returns the network of the first of TinyRoBERTa's two trainings for MRQA."""
    return work / "tinyroberta-mrqa-distil" / "final"


def score(model: Path, inputs: Inputs, kind: str) -> tuple[str, float]:
    """Returns the task's metric of a checkpoint or an exported folder, by its name."""
    (result,) = evaluate(
        model, inputs.evaluation(kind), limit=EXAMPLES, max_seq_length=LENGTH, doc_stride=LENGTH // 4
    ).results
    name = "f1" if "f1" in result.metrics else "accuracy"
    return {"f1": "F1"}.get(name, name), result.metrics[name]


def run(miniature: Miniature, inputs: Inputs, before: Callable[[str], tuple[str, float]]) -> dict[str, Any]:
    """Trains, exports, judges; returns a row of the results."""
    path = RECIPES / f"{miniature.recipe}.toml"
    changes = changes_to(miniature, read_recipe(path), inputs)
    began = time.perf_counter()
    with progress(quiet=False) as listener:
        trained = train(path, changes=changes, overwrite=True, progress=listener)
    dense = inspect(inputs.dense(miniature.data)).summary.flops_before[LENGTH]
    kept, after, shares, layers = [], [], [], []
    for folder, summary in networks(trained):
        exported = export(folder, folder.with_name(f"{folder.name}-onnx"), target="cpu", overwrite=True)
        assert exported.parity is not None
        outputs = [output for case in exported.parity.results for output in case.outputs]
        shares.append(max(output.max_absolute / output.allowed for output in outputs))
        kept.append(summary.flops_after[LENGTH] / dense)
        layers.append([[layer.after.heads, layer.after.columns] for layer in summary.layers])
        after.append(score(exported.folder, inputs, miniature.data)[1])
    metric, dense_score = before(miniature.data)
    return {
        "recipe": miniature.recipe,
        "system": miniature.system,
        "published": miniature.published,
        "changes": [change.replace(f"{inputs.work}/", "").replace(f"{inputs.data}/", "") for change in changes],
        "steps": miniature.steps,
        "flops_kept": kept,
        "layers": layers,
        "metric": metric,
        "before": dense_score,
        "after": after,
        "evaluation": EVALUATIONS[miniature.data],
        "error_over_allowed": shares,
        "warnings": list(trained.warnings),
        "seconds": round(time.perf_counter() - began),
    }


def networks(trained: TrainResult) -> list[tuple[Path, Any]]:
    """Returns the checkpoints that a run leaves, with their summaries: one per budget, or the last one."""
    if trained.published:
        return list(zip(trained.published, trained.summaries, strict=True))
    return [(trained.final, trained.summary)]


def write(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Writes `rows` in the place of earlier ones of the same recipes, in the order of MINIATURES."""
    path = RESULTS / f"{NAME}.json"
    old = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    by_recipe = {row["recipe"]: row for row in [*old, *rows]}
    ordered = [by_recipe[each.recipe] for each in MINIATURES if each.recipe in by_recipe]
    found = {"machine": machine(), "batch_size": BATCH_SIZE, "length": LENGTH, "examples": EXAMPLES, "rows": ordered}
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--work", type=Path, default=Path("build/recipes"))
    parser.add_argument("--only", nargs="+", choices=[each.recipe for each in MINIATURES], help="these recipes alone")
    parser.add_argument("--found", type=Path, help="what prune-export search wrote (default: four of MiniLM's layers)")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options.work.mkdir(parents=True, exist_ok=True)
    inputs = Inputs(options.data.resolve(), options.work.resolve(), options.found)
    before = cache(lambda kind: score(inputs.dense(kind), inputs, kind))
    for miniature in MINIATURES:
        if options.only is None or miniature.recipe in options.only:
            row = run(miniature, inputs, before)
            found = write([row])
            print({name: row[name] for name in ("recipe", "flops_kept", "before", "after", "seconds")}, flush=True)
    put(contents())
    print(recipes_section(found))


if __name__ == "__main__":
    main()
