"""What each verb may write, replace and remove: attacks by records, markers, links and options, and mistakes."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from transformers import BertTokenizerFast

import prune_export
from exporters.errors import CheckpointError, OutputError, WeightsError
from prune_export.checkpoint.beside import tokenizer_files
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.source import resolve
from prune_export.cli.main import main
from prune_export.facts.file_names import RECORD, SAFETENSORS, TOKENIZER_FILES
from prune_export.outputs.run import MARKER, RECIPE
from prune_export.surgeon.zeros import plan_from_zeros
from prune_export.training.methods.student import write_student
from prune_export.training.recipe_file import recipe_to_toml
from prune_export.training.run import train
from prune_export.training.run_folder import held_run
from prune_export.training.starting_checkpoint import write_with_head
from tests.test_user_files import tree
from tests.tiny_tokenizers import bert_tokenizer
from tests.tiny_training import checkpoint_folder, questions_file, recipe_data, tiny_recipe

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----"
SMALL = {"max_seq_length": 24, "samples": 8, "gradual": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense checkpoint, questions, an export and a masked checkpoint of it."""
    root = tmp_path_factory.mktemp("made")
    checkpoint_folder(root / "model")
    questions_file(root / "questions.json", count=16)
    prune_export.prune(root / "model", root / "questions.json", root / "masked", flops=0.7, **SMALL)
    prune_export.export(root / "model", root / "onnx", target="portable", samples=4)
    return root


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of it, and a key that is nobody else's."""
    for name in ("model", "masked", "onnx"):
        shutil.copytree(made / name, tmp_path / name)
    shutil.copyfile(made / "questions.json", tmp_path / "questions.json")
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_rsa").write_bytes(SECRET)
    return tmp_path


@contextmanager
def unchanged(*places: Path) -> Iterator[None]:
    before = [tree(place) for place in places]
    yield
    assert [tree(place) for place in places] == before


def export(home: Path, output: Path, **options: Any) -> Any:
    return prune_export.export(home / "model", output, target="portable", verify=False, **options)


def prune(home: Path, output: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"flops": 0.7} | SMALL | options
    return prune_export.prune(given.pop("model", home / "model"), home / "questions.json", output, **given)


# --- records and markers that claim more than we write ---------------------------------------------------------------


def claim(folder: Path, marker: str, *names: str) -> None:
    """Adds `names` to the files that a marker lists."""
    data = json.loads((folder / marker).read_text())
    data["files"] = [*data.get("files", []), *names]
    (folder / marker).write_text(json.dumps(data))


@pytest.mark.parametrize("output", ["onnx", "masked"])
def test_a_record_that_claims_the_users_files_takes_none_of_them(output: str, home: Path) -> None:
    folder = home / output
    (folder / "thesis").write_bytes(b"mine")
    (folder / "photos").mkdir()
    (folder / "photos" / "1.jpg").write_bytes(b"mine")
    (folder / "other.onnx").write_bytes(b"mine")
    (home / "thesis").write_bytes(b"mine")
    marker = RECORD if output == "onnx" else "pruning.json"
    claim(folder, marker, "thesis", "photos", "photos/1.jpg", "other.onnx", "../thesis", "/etc/passwd", ".", "..", "")
    write = export if output == "onnx" else prune
    with unchanged(home / ".ssh", home / "model", folder / "photos"):
        write(home, folder, overwrite=True)
    assert (folder / "thesis").read_bytes() == b"mine"
    assert (folder / "other.onnx").read_bytes() == b"mine"
    assert (home / "thesis").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_regular_file_is_not_of_an_earlier_output(kind: str, home: Path) -> None:
    folder = home / "onnx"
    claim(folder, RECORD, "merges.txt")
    path = folder / "merges.txt"
    if kind == "folder":
        path.mkdir()
        (path / "mine").write_bytes(b"mine")
    elif kind == "link":
        path.symlink_to(home / ".ssh" / "id_rsa")
    else:
        os.mkfifo(path)
    with (
        unchanged(home / ".ssh"),
        pytest.raises(OutputError, match=r"holds merges\.txt, which would be read as a part of the export"),
    ):
        export(home, folder, overwrite=True)
    assert path.is_dir() or path.is_symlink() or stat.S_ISFIFO(path.stat().st_mode)


def test_an_export_of_another_name_goes_with_its_own_files_only(home: Path) -> None:
    """The model of an earlier export is only removed under the name that we give by default."""
    export(home, home / "named" / "mine.onnx")
    (home / "named" / "notes.txt").write_bytes(b"mine")
    export(home, home / "named", overwrite=True)
    assert {"mine.onnx", "notes.txt", "model.onnx"} <= {path.name for path in (home / "named").iterdir()}
    export(home, home / "named" / "third.onnx", overwrite=True)
    names = {path.name for path in (home / "named").iterdir()}
    assert {"mine.onnx", "notes.txt", "third.onnx"} <= names
    assert "model.onnx" not in names


# --- links in a model folder ----------------------------------------------------------------------------------------

WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "export": lambda home, output: export(home, output),
    "prune": lambda home, output: prune(home, output),
    "write_masked": lambda home, output: _write_masked(home / "model", output),
    "student": lambda home, output: write_student(load_checkpoint(home / "model"), (0,), output),
    "with head": lambda home, output: _with_head(home, output),
    "slim": lambda home, output: prune_export.slim(home / "model").save_pretrained(output),
}


def _write_masked(model: Path, output: Path) -> None:
    checkpoint = load_checkpoint(model)
    write_masked(checkpoint, plan_from_zeros(checkpoint.encoder), output)


def _with_head(home: Path, output: Path) -> None:
    checkpoint = load_checkpoint(home / "model")
    write_with_head(checkpoint.source, replace(tiny_recipe(home), task="question-answering"), output)


@pytest.mark.parametrize(
    "name", ["bpe.codes", "merges.txt", "added_tokens.json", "special_tokens_map.json", "config.json"]
)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_out_of_the_model_folder_is_not_copied(writer: str, name: str, home: Path) -> None:
    """As `git clone` keeps it: with nothing but a link, a key would land in what is published."""
    path = home / "model" / name
    if name == "config.json":
        config = json.loads(path.read_text()) | {"key": SECRET.decode()}
        (home / "config.json").write_text(json.dumps(config))
        path.unlink()
        path.symlink_to(home / "config.json")
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(home / ".ssh" / "id_rsa")
    output = home / "output"
    with suppress(prune_export.PruneExportError):
        WRITERS[writer](home, output)
    for written in output.rglob("*") if output.exists() else ():
        assert not written.is_symlink()
        assert SECRET not in written.read_bytes()


def test_a_link_that_is_copied_is_refused_before_the_work(home: Path) -> None:
    path = home / "model" / "special_tokens_map.json"
    content = path.read_bytes() if path.exists() else b"{}"
    path.unlink(missing_ok=True)
    (home / "elsewhere.json").write_bytes(content)
    path.symlink_to(home / "elsewhere.json")
    with pytest.raises(
        CheckpointError, match=r"special_tokens_map\.json: a link that leads out of the folder; expected a file"
    ):
        export(home, home / "output")
    assert not (home / "output").exists()


def test_links_that_stay_inside_are_copied(home: Path) -> None:
    model = home / "model"
    (model / "real").mkdir()
    (model / "vocab.txt").rename(model / "real" / "vocab.txt") if (model / "vocab.txt").exists() else None
    (model / "tokenizer.json").rename(model / "real" / "tokenizer.json")
    (model / "tokenizer.json").symlink_to("real/tokenizer.json")
    export(home, home / "output")
    assert not (home / "output" / "tokenizer.json").is_symlink()
    assert (home / "output" / "tokenizer.json").read_bytes() == (model / "real" / "tokenizer.json").read_bytes()


def test_the_hubs_cache_is_links_into_its_blobs(home: Path) -> None:
    repository = home / "hub" / "models--owner--name"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted((home / "model").iterdir())):
        shutil.copyfile(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    prune_export.export(snapshot, home / "output", target="portable", verify=False)
    assert (home / "output" / "tokenizer.json").read_bytes() == (home / "model" / "tokenizer.json").read_bytes()
    (snapshot / "config.json").unlink()
    shutil.copyfile(home / "model" / "config.json", home / "config.json")
    (snapshot / "config.json").symlink_to(home / "config.json")
    with pytest.raises(prune_export.PruneExportError, match="a link that leads out of the folder"):
        prune_export.export(snapshot, home / "second", target="portable", verify=False)


def test_only_files_of_the_tokenizer_that_loads_are_copied(home: Path) -> None:
    for name in ("bpe.codes", "merges.txt", "spiece.model", "vocab.json"):
        (home / "model" / name).write_bytes(b"somebody's notes")
    copied = tokenizer_files(home / "model")
    assert set(copied) <= {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.txt",
    }
    assert "tokenizer.json" in copied
    export(home, home / "output")
    assert {path.name for path in (home / "output").iterdir()} == {"model.onnx", "config.json", RECORD, *copied}
    again = BertTokenizerFast.from_pretrained(home / "output")
    assert again("the 7")["input_ids"] == BertTokenizerFast.from_pretrained(home / "model")("the 7")["input_ids"]


# --- prune ----------------------------------------------------------------------------------------------------------


def test_shards_of_somebody_else_are_not_copied_under_a_new_head(home: Path) -> None:
    shutil.copytree(home / "model", home / "private")
    (home / "model" / SAFETENSORS).unlink()
    index = {"weight_map": {"bert.embeddings.word_embeddings.weight": f"../private/{SAFETENSORS}"}}
    (home / "model" / f"{SAFETENSORS}.index.json").write_text(json.dumps(index))
    with unchanged(home), pytest.raises(WeightsError):
        write_with_head(resolve(home / "model"), tiny_recipe(home, task="question-answering"), home / "output")


@pytest.mark.parametrize("name", ["model", "masked"])
def test_the_checkpoint_that_is_read_is_not_replaced(name: str, home: Path) -> None:
    (home / "link").symlink_to(home / name)
    for output in (home / name, home / "link", home / name / ".", home / name / ".." / name):
        with (
            unchanged(home),
            pytest.raises(OutputError, match="is the checkpoint that is read; expected another folder"),
        ):
            prune(home, output, model=home / name, overwrite=True)


@pytest.mark.parametrize("name", ["masked.onnx", "masked.onnx/flops"])
def test_a_masked_checkpoint_is_no_onnx_file(name: str, home: Path) -> None:
    with unchanged(home), pytest.raises(OutputError, match="a masked checkpoint is a folder; expected a folder's name"):
        prune(home, home / name)


def test_weights_that_are_there_are_noticed_before_the_work(home: Path) -> None:
    (home / "mine").mkdir()
    (home / "mine" / SAFETENSORS).write_bytes(b"mine")
    with unchanged(home), pytest.raises(OutputError, match=rf"mine already holds {SAFETENSORS}; --overwrite"):
        prune_export.prune(home / "nowhere", home / "nothing.json", home / "mine", flops=0.5)


def test_an_earlier_masked_checkpoint_goes_with_its_tokenizer(home: Path) -> None:
    with pytest.raises(OutputError, match="holds an earlier masked checkpoint; --overwrite replaces it"):
        prune(home, home / "masked")
    claim(home / "masked", "pruning.json", "merges.txt")
    (home / "masked" / "merges.txt").write_bytes(b"of another tokenizer")
    prune(home, home / "masked", overwrite=True)
    assert not (home / "masked" / "merges.txt").exists()


def test_a_tokenizers_file_that_would_stay_is_refused(home: Path) -> None:
    """Beside the new files it would be read as one of them; and it is somebody's."""
    (home / "masked" / "merges.txt").write_bytes(b"mine")
    with (
        unchanged(home),
        pytest.raises(OutputError, match=r"holds merges\.txt, which would be read as a part of the masked"),
    ):
        prune(home, home / "masked", overwrite=True)


# --- slim -----------------------------------------------------------------------------------------------------------


def test_a_slim_checkpoint_replaces_its_own_kind_only(home: Path) -> None:
    slim = prune_export.slim(home / "masked")
    with unchanged(home), pytest.raises(OutputError, match=r"already holds config\.json"):
        slim.save_pretrained(home / "model")
    slim.save_pretrained(home / "slim")
    bert_tokenizer().save_pretrained(home / "slim")
    (home / "slim" / "notes.txt").write_bytes(b"mine")
    before = tree(home / "slim")
    with torch.no_grad():
        next(slim.parameters()).add_(1.0)
    slim.save_pretrained(home / "slim")
    after = tree(home / "slim")
    assert {name for name in before if before[name] != after[name]} == {"slim.safetensors"}


# --- runs -----------------------------------------------------------------------------------------------------------


def one_step(home: Path, **sections: Any) -> Any:
    return tiny_recipe(home, schedule={"steps": 2}, method={"kind": "none"}, **sections)


def test_a_folder_with_a_recipe_is_no_run(home: Path) -> None:
    """The user's own folder: before, all of it was deleted."""
    folder = home / "run"
    folder.mkdir()
    (folder / "thesis").write_bytes(b"mine")
    (folder / RECIPE).write_text(recipe_to_toml(one_step(home)))
    for options in ({"overwrite": True}, {"resume": True}, {}):
        with unchanged(home), pytest.raises(OutputError, match="holds other things than a run"):
            train(one_step(home), **options)


def test_a_lone_recipe_is_not_replaced(home: Path) -> None:
    folder = home / "run"
    folder.mkdir()
    (folder / RECIPE).write_text(tomli_w.dumps(recipe_data(home)))
    for words in ((), ("--overwrite",), ("--resume",)):
        with unchanged(home):
            assert main(["train", str(folder / RECIPE), "--output", str(folder), "--quiet", *words]) == 1


def test_a_run_begins_anew_without_what_lies_beside_it(home: Path) -> None:
    run = train(one_step(home)).folder
    (run / "notes.txt").write_bytes(b"mine")
    (run / "my model").mkdir()
    shutil.copyfile(home / "model" / SAFETENSORS, run / "my model" / SAFETENSORS)
    (run / "stages").mkdir(exist_ok=True)
    with unchanged(run / "my model"):
        train(one_step(home), overwrite=True)
    assert (run / "notes.txt").read_bytes() == b"mine"
    with pytest.raises(OutputError, match="holds a run already"):
        train(one_step(home))


@pytest.mark.parametrize(
    "name",
    ["final/notes.txt", "checkpoints/01-training/checkpoint-2/notes.txt", "stages/notes.txt", "checkpoints/mine/a"],
)
def test_a_run_with_the_users_files_among_its_own_is_not_begun_anew(name: str, home: Path) -> None:
    run = train(one_step(home)).folder
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_bytes(b"mine")
    with unchanged(home), pytest.raises(OutputError, match="no training writes that"):
        train(one_step(home), overwrite=True)
    assert train(one_step(home), resume=True).folder == run  # what lies there does no harm
    assert (run / name).read_bytes() == b"mine"


@pytest.mark.parametrize(
    "name", ["tensorboard", "checkpoints", "checkpoints/01-training", "log.jsonl", "recipe.toml", "final", "run.json"]
)
def test_links_in_a_run_are_not_followed(name: str, home: Path) -> None:
    """As in a run that was downloaded: what a training writes there would land elsewhere."""
    run = train(one_step(home), keep_checkpoints=True).folder
    target = home / ".ssh" / "id_rsa" if (run / name).is_file() else home / ".ssh"
    (run / name).rename(home / "moved")
    (run / name).symlink_to(target)
    for options in ({"overwrite": True}, {"resume": True}):
        with unchanged(home), pytest.raises(OutputError, match="is a link; expected"):
            train(one_step(home), **options)


def test_the_recipe_that_is_read_is_never_replaced(home: Path) -> None:
    (home / "own.toml").write_text(tomli_w.dumps(recipe_data(home, schedule={"steps": 2}, method={"kind": "none"})))
    assert main(["train", str(home / "own.toml"), "--quiet"]) == 0
    used = home / "run" / RECIPE
    (home / "link.toml").symlink_to(used)
    for recipe in (used, home / "link.toml"):
        with unchanged(home):
            assert main(["train", str(recipe), "--output", str(home / "run"), "--overwrite", "--quiet"]) == 1
    with unchanged(home):
        assert main(["train", str(used), "--output", str(home / "run"), "--resume", "--quiet"]) == 0


@pytest.mark.parametrize("key", ["model", "teacher", "data"])
def test_what_the_recipe_reads_is_not_begun_anew(key: str, home: Path) -> None:
    run = train(one_step(home)).folder
    shutil.copyfile(home / "questions.json", run / "questions.json")
    sections: dict[str, Any] = {
        "model": {"model": str(run / "final")},
        "teacher": {"teacher": str(run / "final"), "distillation": {"weight": 0.5}},
        "data": {"data": {"train": str(run / "questions.json")}},
    }[key]
    with unchanged(home), pytest.raises(OutputError, match="is read by the recipe and lies in"):
        train(one_step(home, **sections), overwrite=True)


@pytest.mark.parametrize("data", [{"train": "nowhere.json"}, {"eval": "nowhere.json"}])
def test_a_mistake_costs_no_earlier_run(data: dict[str, str], home: Path) -> None:
    train(one_step(home))
    with unchanged(home), pytest.raises(prune_export.PruneExportError, match="nowhere"):
        train(one_step(home, data=data), overwrite=True)


def test_a_checkpoint_in_a_run_that_no_training_wrote_stays(home: Path) -> None:
    run = train(one_step(home)).folder
    prune(home, run / "my-oneshot")
    prune(home, run, flops=[0.6, 0.8])
    shutil.copytree(run / "final", run / "backup")
    kept = [run / name for name in ("my-oneshot", "backup", "flops-0.6", "flops-0.8")]
    assert all(path.is_dir() for path in kept)
    with unchanged(*kept):
        train(one_step(home), overwrite=True)
    shutil.rmtree(run / "final")
    shutil.copytree(run / "my-oneshot", run / "final")
    for options in ({"overwrite": True}, {"resume": True}):
        with unchanged(home), pytest.raises(OutputError, match="holds other things than a result of this run"):
            train(one_step(home), **options)


def test_a_recipe_changed_by_hand_is_not_replaced(home: Path) -> None:
    """A training that failed early may be begun again, but not over what the user wrote meanwhile."""
    (home / "questions.json").rename(home / "away.json")
    with pytest.raises(prune_export.PruneExportError):
        train(replace(one_step(home), data=replace(one_step(home).data, train=(str(home / "missing.json"),))))
    used = home / "run" / RECIPE
    used.write_text(used.read_text() + "# my notes\n")
    with unchanged(home / "run"), pytest.raises(OutputError, match="holds a run already"):
        train(one_step(home))


def test_one_training_at_a_time(home: Path) -> None:
    """A second one would write into the first one's checkpoints, or take them away."""
    recipe = one_step(home)
    train(recipe)
    with held_run(home / "run", recipe, None, (), resume=True, overwrite=False):
        for options in ({"overwrite": True}, {"resume": True}):
            with unchanged(home), pytest.raises(OutputError, match="another training is at work"):
                train(recipe, **options)
    train(recipe, resume=True)


@pytest.mark.parametrize(("keep", "kept"), [(True, {"checkpoint-4", "checkpoint-6"}), (False, set())])
def test_old_checkpoints_go_without_what_is_not_theirs(keep: bool, kept: set[str], home: Path) -> None:
    """The Trainer would remove whole folders."""
    recipe = tiny_recipe(home, schedule={"steps": 6}, method={"kind": "none"}, trainer={"save_steps": 2})
    first = home / "run" / "checkpoints" / "01-training" / "checkpoint-1"
    first.mkdir(parents=True)
    (first / "notes.txt").write_bytes(b"mine")
    (home / "run" / MARKER).write_text(json.dumps({"format": "prune-export/run", "version": 1}))
    (home / "run" / RECIPE).write_text(recipe_to_toml(recipe))
    train(recipe, resume=True, keep_checkpoints=keep)
    found = {path.name for path in first.parent.iterdir()}
    assert found == {"checkpoint-1", *kept}
    assert (first / "notes.txt").read_bytes() == b"mine"


# --- single files ---------------------------------------------------------------------------------------------------


def words(home: Path) -> list[str]:
    return ["verify", "--model", str(home / "model"), "--onnx", str(home / "onnx"), "--samples", "4", "--quiet"]


def verify(home: Path, junit: Path) -> int:
    return main([*words(home), "--junit", str(junit)])


def test_a_report_replaces_nothing_but_a_report(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(home / "pipe")
    (home / "link").symlink_to(home / ".ssh" / "id_rsa")
    (home / "notes.xml").write_bytes(b"mine")
    places = [
        home / "onnx" / "model.onnx",
        home / "model" / "config.json",
        home / "notes.xml",
        home / "pipe",
        home / "link",
    ]
    for place in [*places, Path("/dev/null"), home]:
        mode = place.lstat().st_mode
        with unchanged(home / "onnx", home / "model", home / ".ssh"):
            assert verify(home, place) == 1
        assert place.lstat().st_mode == mode
        assert "expected a file name" in (error := capsys.readouterr().err) or "choose another name" in error
    assert (home / "notes.xml").read_bytes() == b"mine"
    report = home / "new" / "report.xml"
    for _ in range(2):  # an earlier report is replaced
        assert verify(home, report) == 0
    report.write_bytes(report.read_bytes().replace(b"</testsuites>", b"<!-- my notes --></testsuites>"))
    with unchanged(home):
        assert verify(home, report) == 1
    (home / "quoting.md").write_text('our reports begin with <testsuite name="prune-export parity"')
    with unchanged(home):
        assert verify(home, home / "quoting.md") == 1
        assert main([*words(home), "--junit", str(home / "onnx" / "model.onnx"), "--overwrite"]) == 1


def evaluate(home: Path, predictions: str, *words: str, model: str = "model") -> int:
    given = [
        "evaluate",
        "--model",
        str(home / model),
        "--data",
        str(home / "questions.json"),
        "--limit",
        "4",
        "--quiet",
    ]
    given += ["--max-seq-length", "24", "--doc-stride", "4", "--predictions", predictions]
    return main([*given, *words])


def test_predictions_go_where_they_are_asked_for(home: Path) -> None:
    assert evaluate(home, str(home / "answers")) == 0
    assert len(json.loads((home / "answers").read_text())) == 4
    assert not (home / "answers.json").exists()
    assert evaluate(home, str(home / "answers")) == 0  # as we wrote it
    (home / "answers").write_bytes((home / "answers").read_bytes() + b"\n")
    with unchanged(home):
        assert evaluate(home, str(home / "answers")) == 1
    assert evaluate(home, str(home / "answers"), "--overwrite") == 0
    for place in ("questions.json", "model/config.json"):
        with unchanged(home):
            assert evaluate(home, str(home / place), "--overwrite") == 1
    with unchanged(home):  # the model is given as a file
        assert evaluate(home, str(home / "onnx/config.json"), "--overwrite", model="onnx/model.onnx") == 1


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "prune_export.json"])
def test_predictions_replace_no_file_of_a_model_that_is_a_file(name: str, home: Path) -> None:
    words = ["evaluate", "--model", str(home / "onnx/model.onnx"), "--data", str(home / "questions.json"), "--quiet"]
    small = ["--limit", "4", "--max-seq-length", "24", "--doc-stride", "4"]
    (home / "link").symlink_to(home / "onnx")
    assert (home / "onnx" / name).is_file()
    for place in (home / "onnx" / name, home / "link" / name):
        with unchanged(home):
            assert main([*words, *small, "--predictions", str(place), "--overwrite"]) == 1
    for _ in range(2):
        assert main([*words, *small, "--predictions", str(home / "answers.json"), "--overwrite"]) == 0


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_are_what_the_umask_says(mask: int, home: Path) -> None:
    before = os.umask(mask)
    try:
        export(home, home / "output")
        prune(home, home / "pruned")
        prune_export.slim(home / "masked").save_pretrained(home / "slim")
        assert verify(home, home / "report.xml") == 0
        assert evaluate(home, str(home / "answers.json")) == 0
        run = train(one_step(home)).folder
    finally:
        os.umask(before)
    folders = (home / "output", home / "pruned", home / "slim", run / "final")
    files = [path for folder in folders for path in folder.iterdir()]
    files += [home / "report.xml", home / "answers.json", run / RECIPE, run / MARKER]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o777 & ~mask}


def test_names_that_are_no_utf_8(home: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(home) + b"/\xff out"))
    folder.mkdir()
    (folder / "notes.txt").write_bytes(b"mine")
    export(home, folder)
    with pytest.raises(OutputError, match="UTF-8"):
        export(home, folder / os.fsdecode(b"\xff.onnx"), overwrite=True)
    shutil.copytree(home / "model", folder / "model")
    with pytest.raises(WeightsError, match="UTF-8"):  # safetensors takes no other paths
        prune_export.export(folder / "model", folder / "again", target="portable", verify=False)
    assert (folder / "notes.txt").read_bytes() == b"mine"


def test_every_family_names_the_files_of_its_tokenizer() -> None:
    """What transformers' classes call their vocabulary is among the names that a checkpoint's folder may hold."""
    import transformers

    for family in ("Bert", "DistilBert", "Electra", "Roberta", "Albert", "Camembert", "XLMRoberta"):
        tokenizer = getattr(transformers, f"{family}TokenizerFast", None)
        if tokenizer is not None and getattr(tokenizer, "vocab_files_names", None):
            assert set(tokenizer.vocab_files_names.values()) <= set(TOKENIZER_FILES), family
