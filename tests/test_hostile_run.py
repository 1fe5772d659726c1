"""A training goes on from a run's folder that someone else made: nothing in its checkpoints is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import prune_export
from exporters.errors import CheckpointError, OutputError, UsageError
from prune_export.training.arguments import check_trainer_section
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
        prune_export.train(tiny_recipe(folder), keep_checkpoints=True)
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


# --- what the Trainer wrote as JSON ------------------------------------------------------------------------------------

STATES: list[Any] = [
    {},
    [],
    "text",
    {"unknown": 1},
    {"global_step": 10**9},
    {"global_step": -5},
    {"global_step": "4"},
    {"global_step": 1e400},
    {"epoch": None},
    {"epoch": "x"},
    {"epoch": 1e9},
    {"epoch": -1},
    {"log_history": 3},
    {"log_history": [1]},
    {"log_history": [{"loss": [[]]}]},
    {"stateful_callbacks": []},
    {"stateful_callbacks": {}},
    {"stateful_callbacks": {"TrainerControl": []}},
    {"stateful_callbacks": {"TrainerControl": {"args": {"should_log": "x"}, "attributes": {}}}},
    {"total_flos": "x"},
    {"total_flos": -1},
    {"train_batch_size": None},
    {"train_batch_size": 0},
    {"train_batch_size": 10**9},
    {"logging_steps": 0},
    {"save_steps": "x"},
    {"num_input_tokens_seen": 10**30},
    {"trial_params": {}},
    {"best_model_checkpoint": "/etc"},
]


def test_a_hostile_state_is_one_line(begun: Path, tmp_path: Path) -> None:
    path = begun / "trainer_state.json"
    genuine, recipe = path.read_text(), as_begun(tmp_path)
    for change in STATES:
        whole = isinstance(change, dict) and change
        path.write_text(json.dumps(json.loads(genuine) | change if whole else change).replace("Infinity", "1e400"))
        with pytest.raises(CheckpointError, match=r"trainer_state\.json: .* to go on from the one before") as caught:
            prune_export.train(recipe, resume=True)
        assert "\n" not in str(caught.value)
    for missing in ("max_steps", "global_step", "epoch", "train_batch_size", "log_history", "stateful_callbacks"):
        path.write_text(json.dumps({key: value for key, value in json.loads(genuine).items() if key != missing}))
        with pytest.raises(CheckpointError, match=missing):
            prune_export.train(recipe, resume=True)
    state = json.loads(genuine)  # the norm of a gradient may be no number where numbers are fp16
    path.write_text(
        json.dumps(state | {"log_history": [*state["log_history"], {"grad_norm": float("nan"), "step": 1}]})
    )
    assert prune_export.train(recipe, resume=True).final.is_dir()


def test_a_log_of_others(begun: Path, tmp_path: Path) -> None:
    log, recipe = begun.parents[2] / "log.jsonl", as_begun(tmp_path)
    kept = [b'{"stage": "another", "step": 99}', b'{"stage": "01-training", "step": "x"}', b"{}", b'{"loss": NaN}']
    noise = [b"[1]", b"3", b"null", b'"x"', b"\xff\xfe", b'{"a": "\xff"}', b"[" * 100_000, b"9" * 5000, b'{"cut": ']
    log.write_bytes(b"\n".join([*kept, *noise]))
    assert prune_export.train(recipe, resume=True).final.is_dir()
    lines = log.read_bytes().splitlines()
    assert lines[: len(kept)] == kept
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert len(lines) > len(kept)


@pytest.mark.parametrize(
    "name", ["log.jsonl", "recipe.toml", "run.json", "final", "checkpoints/pipe", "tensorboard/a/b"]
)
def test_a_pipe_or_socket_in_a_run_is_refused(name: str, begun: Path, tmp_path: Path) -> None:
    place, recipe = begun.parents[2] / name, as_begun(tmp_path)
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    for make, kind in ((os.mkfifo, "a pipe"), (lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), "a socket")):
        make(place)
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match=f"is {kind}; expected a file or folder of the run itself"):
                prune_export.train(recipe, **options)
        place.unlink()


# --- [trainer] ---------------------------------------------------------------------------------------------------------

SECTIONS: list[dict[str, Any]] = [
    {"log_level": "x"},
    {"log_level": 3},
    {"log_level_replica": ""},
    {"dataloader_num_workers": -1},
    {"dataloader_num_workers": 10**9},
    {"dataloader_num_workers": True},
    {"dataloader_prefetch_factor": 0},
    {"dataloader_persistent_workers": True},
    {"adam_beta1": 1.5},
    {"adam_beta2": "x"},
    {"adam_epsilon": float("nan")},
    {"logging_steps": 0},
    {"logging_steps": 10**400},
    {"save_steps": float("inf")},
    {"fsdp": "x"},
    {"fsdp": ["x"]},
    {"fsdp": {}},
    {"fsdp_config": []},
    {"fsdp_config": "none.json"},
    {"accelerator_config": "none.json"},
    {"accelerator_config": {"x": 1}},
    {"deepspeed": 3},
    {"parallelism_config": {}},
    {"metric_for_best_model": 1},
    {"lr_scheduler_kwargs": {"x": 1}},
    {"lr_scheduler_kwargs": "x"},
    {"optim": "x"},
    {"optim_args": 3},
    {"torch_compile_mode": "x"},
    {"use_cpu": "x"},
    {"x" * 100_000: 1},
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: ", ".join(f"{k[:30]}" for k in section))
def test_a_section_for_the_trainer_is_one_line(
    section: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCELERATE_USE_FSDP", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(finished / "cache") if name.startswith("XDG") else "false")
    begun = read_recipe(finished / "run/recipe.toml")
    recipe = replace(begun, output=str(tmp_path / "run"), trainer={"use_cpu": True} | section)
    with pytest.raises(UsageError) as caught:
        prune_export.train(recipe)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("key", ["deepspeed", "fsdp_config", "accelerator_config"])
def test_files_that_the_section_names_are_regular(key: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UsageError, match=rf"trainer\.{key}: .*not a regular file but a pipe"):
        check_trainer_section({key: str(tmp_path / "pipe.json")})


def test_a_section_that_is_fine_stays_so(tmp_path: Path) -> None:
    section = {
        "log_level": "info",
        "dataloader_num_workers": 1,
        "adam_beta1": 0.8,
        "logging_steps": 2.0,
        "save_steps": 2,
    }
    section |= {"accelerator_config": {"split_batches": False}, "optim": "adamw_torch", "lr_scheduler_kwargs": {}}
    recipe = tiny_recipe(tmp_path, trainer=section)
    prune_export.train(recipe, keep_checkpoints=True)
    shutil.rmtree(tmp_path / "run/final")
    shutil.rmtree(tmp_path / "run/checkpoints/01-training/checkpoint-6")
    assert prune_export.train(recipe, resume=True).final.is_dir()
