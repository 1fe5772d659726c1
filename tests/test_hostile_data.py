"""A data set's name or folder leads to no code, and to no file that it does not hold."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporters.errors import DataError
from prune_export.cli.main import main
from prune_export.data import hub
from prune_export.data.allowed import check_builder, check_name
from prune_export.data.read import read_examples

datasets = pytest.importorskip("datasets")


class Attack:
    """Unpickled, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with an attack in train.pkl; returns the file that it would make."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    mark = tmp_path / "mark"
    (tmp_path / "here/train.pkl").write_bytes(pickle.dumps(Attack(mark)))
    return mark


def test_the_library_would_unpickle(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"."):
        datasets.load_dataset("pandas", split="train", cache_dir=str(tmp_path / "cache"))
    assert prepared.exists()


@pytest.mark.parametrize("name", ["pandas:train", "pandas", "pandas:default:train", "./pandas:train", "pandas/:train"])
def test_no_builder_is_taken_for_a_data_set(name: str, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--model", "none", "--data", name, "--quiet"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(DataError):
        read_examples(name)
    assert not prepared.exists()


@pytest.mark.parametrize(
    "name", ["csv", "json", "parquet", "webdataset", "imagefolder", "sql", "spark", "generator", "cache"]
)
def test_builders(name: str) -> None:
    with pytest.raises(DataError, match="a reader of the datasets library"):
        check_name(name, f"{name}:train")


@pytest.mark.parametrize(
    "name",
    [
        "hf://datasets/owner/name",
        "buckets/x",
        "owner/name/more",
        "..",
        "../x",
        "/etc",
        "a b",
        "",
        "https://host/x",
        "a\\b",
    ],
)
def test_names_that_are_not_the_hub_s(name: str) -> None:
    with pytest.raises(DataError):
        check_name(name, f"{name}:train")


def test_a_folder_is_not_given_to_the_library(prepared: Path) -> None:
    shutil.copytree(".", "../there")
    shutil.move("../there", "squad")
    with pytest.raises(DataError, match="is a file or folder here; give it alone"):
        read_examples("squad:train")
    assert not prepared.exists()


@pytest.mark.parametrize("name", ["squad", "glue", "owner/name", "nyu-mll/glue", "a.b/c_d-e"])
def test_names_of_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_name(name, name)


# --- what the hub's data set turns out to be ---------------------------------------------------------------------------


def builder(kind: str, file: Path, tmp_path: Path) -> Any:
    return datasets.load_dataset_builder(kind, data_files={"train": str(file)}, cache_dir=str(tmp_path / "cache"))


def test_a_builder_that_unpickles_is_refused_before_it_works(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = builder("pandas", Path("train.pkl").resolve(), tmp_path)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_: found)
    with pytest.raises(DataError, match="of the kind 'pandas'; expected one of parquet, json, csv, text, arrow"):
        read_examples("owner/name:train")
    assert not prepared.exists()
    with pytest.raises(Exception, match=r"."):
        found.download_and_prepare()
    assert prepared.exists()


def test_a_builder_that_reads_files_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set's README may name any path."""
    file = tmp_path / "data.jsonl"
    row = {"id": "1", "question": "q?", "context": "a b", "answers": {"text": ["a"], "answer_start": [0]}}
    file.write_text(json.dumps(row) + "\n")
    found = builder("json", file, tmp_path)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_: found)
    with pytest.raises(DataError, match=r"names the file .*data\.jsonl.*, which is not the hub's"):
        read_examples("owner/name:train")
    monkeypatch.setattr(hub, "check_builder", lambda *_: None)
    assert len(read_examples("owner/name:train").examples) == 1  # and else it would have read it


def test_files_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    found = builder("json", tmp_path / "x.json", tmp_path)
    found.config.data_files = {"train": ["hf://datasets/owner/name@0123/train.json"]}
    check_builder(found, "owner/name")
    found.config.data_files = {"train": ["https://elsewhere/train.json"]}
    with pytest.raises(DataError, match="not the hub's"):
        check_builder(found, "owner/name")


# --- folders of save_to_disk -------------------------------------------------------------------------------------------

ROWS = {
    "id": ["1"],
    "question": ["q?"],
    "context": ["a b"],
    "answers": [{"text": ["a"], "answer_start": [0]}],
}


def saved(folder: Path, rows: dict[str, Any] = ROWS, **options: Any) -> Path:
    datasets.Dataset.from_dict(rows, **options).save_to_disk(folder)
    return folder


def test_a_saved_folder_that_names_files_elsewhere(tmp_path: Path) -> None:
    folder, other = saved(tmp_path / "saved"), saved(tmp_path / "other")
    assert len(read_examples(folder).examples) == 1
    state = json.loads((folder / "state.json").read_text())
    name = state["_data_files"][0]["filename"]
    for wrong in (f"../other/{name}", str(other / name), "..", "", 3, f"./{name}"):
        (folder / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": wrong}]}))
        with pytest.raises(DataError, match=r"expected a file or folder in it"):
            read_examples(folder)
    (folder / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": f"../other/{name}"}]}))
    assert len(datasets.load_from_disk(str(folder))) == 1  # the library reads it
    (folder / "state.json").write_text(json.dumps(state))
    (folder / name).unlink()
    (folder / name).symlink_to(other / name)
    with pytest.raises(DataError, match="leads out of"):
        read_examples(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(DataError, match="is not a regular file"):
        read_examples(folder)


def test_a_saved_dictionary_that_names_splits_elsewhere(tmp_path: Path) -> None:
    saved(tmp_path / "other")
    folder = tmp_path / "saved"
    datasets.DatasetDict(train=datasets.Dataset.from_dict(ROWS)).save_to_disk(folder)
    assert len(read_examples(folder, purpose="training").examples) == 1
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["../other"]}))
    with pytest.raises(DataError, match="expected a file or folder in it"):
        read_examples(folder, purpose="training")


def test_what_only_the_library_reads_is_refused(tmp_path: Path) -> None:
    """Python's json takes NaN, and an object can be gone through like a list: neither hides what is named."""
    folder, other = saved(tmp_path / "saved"), saved(tmp_path / "other")
    state = json.loads((folder / "state.json").read_text())
    name = state["_data_files"][0]["filename"]
    outside = json.dumps(state | {"_data_files": [{"filename": f"../other/{name}"}]})
    for text in (
        outside.replace("{", '{"x": NaN, ', 1),
        outside.replace("{", '{"x": -Infinity, ', 1),
        "[" * 100_000,
        "[]",
        "{}",
        json.dumps(state | {"_data_files": {"0": {"filename": name}}}),
    ):
        (folder / "state.json").write_text(text)
        with pytest.raises(DataError, match=r"state\.json: "):
            read_examples(folder)
    (folder / "state.json").write_text(outside.replace("{", '{"x": NaN, ', 1))
    assert len(datasets.load_from_disk(str(folder))) == 1  # the library reads it
    several = tmp_path / "several"
    datasets.DatasetDict(train=datasets.Dataset.from_dict(ROWS)).save_to_disk(several)
    for text in ('{"splits": {"../other": 1}}', '{"splits": ["../other"], "x": NaN}', '{"splits": "train"}', "{}"):
        (several / "dataset_dict.json").write_text(text)
        with pytest.raises(DataError, match=r"dataset_dict\.json: "):
            read_examples(several, purpose="training")
    (several / "dataset_dict.json").write_text('{"splits": {"../other": 1}}')
    assert len(datasets.load_from_disk(str(several))["../other"]) == 1
    assert other.is_dir()


def test_a_saved_folder_that_leads_to_itself(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    datasets.DatasetDict(train=datasets.Dataset.from_dict(ROWS)).save_to_disk(folder)
    (folder / "again").symlink_to(".")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["again", "again", "train"]}))
    with pytest.raises(DataError, match="datasets cannot load it"):
        read_examples(folder, purpose="training")


def test_columns_of_pictures_are_not_opened(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    plain = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Dataset.from_dict(ROWS).features | {"picture": plain}
    pictures = {"picture": [{"path": str(tmp_path / "secret.png"), "bytes": None}]}
    folder = saved(tmp_path / "saved", ROWS | pictures, features=datasets.Features(features))
    info = json.loads((folder / "dataset_info.json").read_text())
    info["features"]["picture"] = {"_type": "Image"}  # stored in the same form
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(FileNotFoundError):
        datasets.load_from_disk(str(folder))[0]
    assert len(read_examples(folder).examples) == 1
