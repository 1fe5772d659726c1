"""Every recipe in examples/recipes is read and dry-run, with only model, data and output in the place of what it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prune_export.training.dry_run import dry_run
from prune_export.training.recipe_file import read_recipe
from tests.conftest import ROOT
from tests.tiny_training import checkpoint_folder, questions_file

CLASSES = {"nn_pruning-hybrid-filled-mnli": 3, "minilm-topics": 2}  # the others answer questions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ready")
    questions_file(root / "questions.json", 8)
    checkpoint_folder(root / "questions", num_hidden_layers=6, intermediate_size=32)
    for classes in CLASSES.values():
        names = {number: f"class {number}" for number in range(classes)}
        checkpoint_folder(root / f"classes-{classes}", "text-classification", id2label=names, num_labels=classes)
        rows = [{"text": "abc", "label": names[number % classes]} for number in range(8)]
        (root / f"classes-{classes}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.mark.parametrize("path", sorted((ROOT / "examples/recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_ready_recipes_are_dry_run(path: Path, folder: Path, tmp_path: Path) -> None:
    recipe = read_recipe(path)
    classes = CLASSES.get(path.stem)
    model = str(folder / (f"classes-{classes}" if classes else "questions"))
    data = str(folder / (f"classes-{classes}.jsonl" if classes else "questions.json"))
    changes = [f"model={model}", f"data.train={data}", f"output={tmp_path / 'run'}", "trainer.use_cpu=true"]
    changes += [f"teacher={model}"] * (recipe.teacher is not None)
    changes += [f"method.prediction_teacher={model}"] * (getattr(recipe.method, "prediction_teacher", None) is not None)
    if recipe.data.eval is not None:
        changes.append(f"data.eval={data}")
    if classes:
        changes.append("data.dataset=own")
    found = dry_run(path, changes=[*changes, "data.max_seq_length=24", "data.doc_stride=4"])
    assert found.features == 8
    assert all(stage.steps > 0 for stage in found.stages)
    assert not (tmp_path / "run").exists()
