"""A training goes on from a run's folder that someone else made: nothing in its checkpoints is run."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import prune_export
from exporters.errors import CheckpointError
from prune_export.training.recipe import Recipe
from prune_export.training.recipe_file import read_recipe
from tests.tiny_training import tiny_recipe


class Attack:
    """Unpickled, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        prune_export.train(tiny_recipe(folder))
    return folder


@pytest.fixture
def begun(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, cut off after the last checkpoint but one; returns that checkpoint."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(finished, tmp_path / "there")
    run = tmp_path / "there/run"
    shutil.rmtree(run / "final")
    first, last = sorted((run / "checkpoints").glob("*/checkpoint-*"))
    shutil.rmtree(last)
    return first


def as_begun(folder: Path) -> Recipe:
    """The recipe that the copied run was begun with; only where the run lies differs."""
    run = folder / "there/run"
    return replace(read_recipe(run / "recipe.toml"), output=str(run))


def write(path: Path, mark: Path, *, bare: bool) -> None:
    """An attack as a bare pickle, or in torch's own form."""
    if bare:
        path.write_bytes(pickle.dumps(Attack(mark)))
    else:
        torch.save({"state": Attack(mark), "param_groups": []}, path)


@pytest.mark.parametrize("bare", [True, False])
def test_the_attack_works(bare: bool, tmp_path: Path) -> None:
    write(tmp_path / "x.pt", tmp_path / "mark", bare=bare)
    if bare:
        pickle.loads((tmp_path / "x.pt").read_bytes())
    else:
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("forced", ["0", "1"])
def test_what_is_read_is_refused(
    name: str, bare: bool, forced: str, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the user's environment would have torch load."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    assert (begun / name).is_file()
    write(begun / name, tmp_path / "mark", bare=bare)
    recipe = as_begun(tmp_path)
    with pytest.raises(CheckpointError, match=r"the training cannot go on from it: .*never run") as caught:
        prune_export.train(recipe, resume=True)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["training_args.bin", "pytorch_model.bin", "custom_checkpoint_0.pkl"])
def test_what_is_not_read_is_not_run(name: str, begun: Path, tmp_path: Path) -> None:
    write(begun / name, tmp_path / "mark", bare=True)
    result = prune_export.train(as_begun(tmp_path), resume=True)
    assert result.final.is_dir()
    assert not (tmp_path / "mark").exists()


def test_a_scaler_of_a_training_that_had_none(begun: Path, tmp_path: Path) -> None:
    write(begun / "scaler.pt", tmp_path / "mark", bare=True)
    with pytest.raises(CheckpointError, match="the training cannot go on from it"):
        prune_export.train(as_begun(tmp_path), resume=True)
    assert not (tmp_path / "mark").exists()


def test_a_damaged_checkpoint_is_one_line(begun: Path, tmp_path: Path) -> None:
    for name in ("optimizer.pt", "rng_state.pth"):
        content = (begun / name).read_bytes()
        (begun / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError, match="Delete it to go on from the one before"):
            prune_export.train(as_begun(tmp_path), resume=True)
        (begun / name).write_bytes(content)
    assert prune_export.train(as_begun(tmp_path), resume=True).final.is_dir()
