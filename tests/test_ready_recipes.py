"""Every recipe in examples/recipes is read and dry-run, with only model, data and output in the place of what it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.recipe_data import write_mrqa
from benchmarks.recipes import MINIATURES, RECIPES
from benchmarks.recipes_tables import recipes_section
from prune_export.data.examples import Question, QuestionData
from prune_export.data.read import read_examples
from prune_export.training.dry_run import dry_run
from prune_export.training.methods import stages_of
from prune_export.training.methods.student import StudentConfig
from prune_export.training.recipe_file import check_recipe, read_recipe
from tests.tiny_training import checkpoint_folder, questions_file

CLASSES = {"nn_pruning-hybrid-filled-mnli": 3, "minilm-topics": 2}  # the others answer questions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ready")
    questions_file(root / "questions.json", 8)
    for layers in (2, 6):
        checkpoint_folder(root / f"questions-{layers}", num_hidden_layers=layers, intermediate_size=32)
    for classes in CLASSES.values():
        names = {number: f"class {number}" for number in range(classes)}
        checkpoint_folder(root / f"classes-{classes}", "text-classification", id2label=names, num_labels=classes)
        rows = [{"text": "abc", "label": names[number % classes]} for number in range(8)]
        (root / f"classes-{classes}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_ready_recipes_are_dry_run(path: Path, folder: Path, tmp_path: Path) -> None:
    recipe = read_recipe(path)
    classes = CLASSES.get(path.stem)
    layers = 6 if isinstance(recipe.method, StudentConfig) else 2
    model = str(folder / (f"classes-{classes}" if classes else f"questions-{layers}"))
    data = str(folder / (f"classes-{classes}.jsonl" if classes else "questions.json"))
    changes = [f"model={model}", f"data.train={data}", f"output={tmp_path / 'run'}", "trainer.use_cpu=true"]
    changes += [f"teacher={model}"] * (recipe.teacher is not None)
    changes += [f"method.prediction_teacher={model}"] * (getattr(recipe.method, "prediction_teacher", None) is not None)
    if recipe.data.eval is not None:
        changes.append(f"data.eval={data}")
    if classes:
        changes.append("data.dataset=own")
    changes += ["data.max_seq_length=24", "data.doc_stride=4", "optimiser.batch_size=2"]
    found = dry_run(path, changes=changes)
    assert found.features == 8
    assert all(stage.steps > 0 for stage in found.stages)
    assert not (tmp_path / "run").exists()


def test_every_published_recipe_has_a_miniature() -> None:
    assert {each.recipe for each in MINIATURES} == {path.stem for path in RECIPES.glob("*.toml")} - {"minilm-topics"}
    for each in MINIATURES:
        recipe = check_recipe(read_recipe(RECIPES / f"{each.recipe}.toml", each.changes))
        stages = stages_of(recipe)
        assert all(stage.epochs is None for stage in stages), each.recipe  # none has its published length
        assert sum(stage.steps or recipe.schedule.steps or 0 for stage in stages) == each.steps, each.recipe


def test_miniatures_of_mrqa_are_in_its_form(tmp_path: Path) -> None:
    questions = [
        Question("1", "who?", "mira lives in oslo", ("mira", "Mira"), ((0, 4),), "SQuAD"),
        Question("2", "where?", "mira lives in oslo", ("oslo",), ((14, 18),), "SQuAD"),
        Question("3", "what?", "a fox", ("fox",), ((2, 5),), "SQuAD"),
    ]
    data = read_examples(write_mrqa(tmp_path / "dev", "SQuAD", questions))
    assert isinstance(data, QuestionData)
    assert (data.style, list(data.examples)) == ("mrqa", questions)


def test_the_table_of_recipes() -> None:
    row = {
        "recipe": "one",
        "system": "a system",
        "published": "F1 1",
        "steps": 8,
        "flops_kept": [0.5, 0.25],
        "metric": "F1",
        "before": 70.04,
        "after": [60.0, 50.06],
        "evaluation": "x.json",
        "error_over_allowed": [0.012, 0.2],
    }
    versions = {"torch": "1", "transformers": "2", "onnxruntime": "3"}
    found = {
        "machine": {"date": "today", "versions": versions},
        "rows": [row],
        "batch_size": 4,
        "length": 9,
        "examples": 7,
    }
    expected = (
        "| a system | F1 1 | 0.50, 0.25 | F1 70.0 → 60.0, 50.1 (x.json) | 0.01, 0.2 | "
        "`prune-export train examples/recipes/one.toml` |"
    )
    assert recipes_section(found).splitlines()[2] == expected
