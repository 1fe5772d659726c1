"""Without an optional package: what needs it says in one line which extra to install; what does not need it works."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import tomli_w

import prune_export
from tests.models import FAMILY_CASES, make_model
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer
from tests.tiny_training import questions_file, recipe_data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extras")
    sizes = {"vocab_size": 90, "num_hidden_layers": 1, "max_position_embeddings": 40}
    for task, name in (("question-answering", "model"), ("text-classification", "classifier")):
        save_with_tokenizer(make_model(FAMILY_CASES[0], task, **sizes), bert_tokenizer(), folder / name)  # type: ignore[arg-type]
    prune_export.export(folder / "model", folder / "onnx", target="cpu", verify=False)
    questions_file(folder / "questions.json", 4)
    (folder / "dev.tsv").write_text("sentence1\tsentence2\tgold_label\n" + "a\tb\tneutral\nb\ta\tentailment\n")
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe_data(folder, schedule={"steps": 1})))
    (folder / "saved").mkdir()
    (folder / "saved" / "dataset_info.json").write_text("{}")
    return folder


def without(packages: Sequence[str], code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs `code` where `packages` cannot be imported."""
    start = f"import sys\nfor name in {list(packages)}: sys.modules[name] = None\nimport prune_export\n"
    start += "from prune_export.cli.main import main\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False, cwd=folder)


ONNXRUNTIME = "pip install 'prune-export[cpu]'"
NEEDED = [
    ("onnxruntime", ONNXRUNTIME, ["--model", "model", "--output", "out"]),
    ("onnxruntime", ONNXRUNTIME, ["verify", "--model", "model", "--onnx", "onnx"]),
    ("onnxruntime", ONNXRUNTIME, ["evaluate", "--model", "onnx", "--data", "questions.json"]),
    ("onnxruntime", ONNXRUNTIME, ["bench", "--onnx", "onnx"]),
    ("onnxruntime", ONNXRUNTIME, ["profile", "--model", "model", "--sequence-length", "8"]),
    (
        "onnxruntime",
        ONNXRUNTIME,
        "prune --model model --calibration questions.json --output out --speedup 2 --sequence-length 8".split(),  # noqa: SIM905
    ),
    ("datasets", "pip install 'prune-export[evaluate]'", ["evaluate", "--model", "onnx", "--data", "squad"]),
    ("datasets", "pip install 'prune-export[evaluate]'", ["evaluate", "--model", "onnx", "--data", "saved"]),
    ("sklearn", "pip install 'prune-export[evaluate]'", ["evaluate", "--model", "classifier", "--data", "dev.tsv"]),
    ("matplotlib", "pip install 'prune-export[bench]'", ["bench", "--onnx", "onnx", "--picture", "picture.svg"]),
    ("optimum", "pip install 'prune-export[optimum]'", ["bench", "--model", "model", "--rows", "optimum"]),
    ("accelerate", "pip install 'prune-export[train]'", ["train", "recipe.toml"]),
    ("tomli_w", "pip install 'prune-export[train]'", ["train", "recipe.toml"]),
]


@pytest.mark.parametrize(("package", "advice", "words"), NEEDED, ids=[f"{p}: {w[0]} {w[-1]}" for p, _, w in NEEDED])
def test_the_message_names_the_extra(package: str, advice: str, words: list[str], made: Path) -> None:
    packages = [package, "scipy"] if package == "sklearn" else [package]  # which needs the other
    found = without(packages, f"sys.exit(main({[*words, '--quiet']!r}))", made)
    assert found.returncode == 1
    assert found.stderr.startswith("prune-export: error: ")
    assert advice in found.stderr
    assert found.stderr.count("\n") == 1
    assert found.stdout == ""
    assert not {"out", "run", "picture.svg"} & {path.name for path in made.iterdir()}


def test_what_works_without_any_extra(made: Path, tmp_path: Path) -> None:
    """Importing, inspecting, exporting unproven, slim networks, recipes, questions, pruning by FLOPs."""
    code = f"""
model, out = {str(made / "model")!r}, {str(tmp_path)!r}
prune_export.inspect(model)
prune_export.export(model, out + "/onnx", verify=False)
prune_export.slim(model)
assert prune_export.read_recipe("recipe.toml").schedule.steps == 1
assert len(prune_export.evaluate(model, "questions.json").results) == 1
assert len(prune_export.prune(model, "questions.json", out + "/masked", flops=0.5)) == 1
for call in (
    lambda: prune_export.load_session("onnx"),
    lambda: prune_export.Pipeline("onnx"),
    lambda: prune_export.train("recipe.toml"),
):
    try:
        call()
    except prune_export.MissingDependencyError as error:
        assert "pip install 'prune-export[" in str(error)
    else:
        raise AssertionError
"""
    extras = [
        "onnxruntime",
        "datasets",
        "sklearn",
        "scipy",
        "matplotlib",
        "optimum",
        "accelerate",
        "tomli_w",
        "tensorboard",
        "sentencepiece",
    ]
    found = without(extras, code, made)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "masked" / "pruning.json").is_file()
