"""What a training says of itself: what it did not prune, tables per budget, disk, time; dry runs."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering

from exporters.errors import CheckpointError, OutputError, PruneExportError, UsageError
from prune_export.checkpoint import beside
from prune_export.cli.main import main
from prune_export.training import run_folder
from prune_export.training.dry_run import dry_run
from prune_export.training.network import cut_warning
from prune_export.training.recipe import Distillation
from prune_export.training.run import train
from tests.tiny_training import checkpoint_folder, recipe_data, tiny_recipe

pytest.importorskip("accelerate")

STRUCT = {"kind": "movement", "shape": "struct"}
GRADUAL = {
    "kind": "gradual",
    "step": 0.75,
    "recovery_steps": 2,
    "samples": 8,
    "reconstruction": "none",
    "rearrangement": False,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Listener:
    """Keeps what it is told; looks at the size of `folder` each time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes, self.most = folder, list[str](), 0

    def stage(self, *_: object, **__: object) -> None:
        self.look()

    def advance(self, *_: object) -> None:
        self.look()

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.look()

    def pause(self) -> None: ...

    def look(self) -> None:
        self.most = max(self.most, size(self.folder))


def size(folder: Path) -> int:
    """Bytes of weights and optimisers in `folder`; a file with two names counts once."""
    found = [path.stat() for path in folder.rglob("*") if path.suffix in (".safetensors", ".pt")]
    return sum({stat.st_ino: stat.st_size for stat in found}.values())


# --- what was not pruned -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quiet", [False, True])
def test_a_training_that_prunes_nothing_says_so(
    quiet: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the log, the table, the record and the result; exit code 0, for that may be what was wanted."""
    data = recipe_data(tmp_path, method=STRUCT, schedule={"steps": 2})
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(data))
    capsys.readouterr()
    assert main(["train", str(tmp_path / "recipe.toml"), *(["--quiet"] if quiet else [])]) == 0
    printed = capsys.readouterr()
    expected = "stage movement: nothing was pruned: 100.0% of the FLOPs are left"
    assert expected in (printed.err if quiet else printed.out)
    record = json.loads((tmp_path / "run/final/pruning.json").read_text())
    assert record["warnings"][0].startswith(expected)
    assert record["cut_without_training"] == 0
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["warning"] for line in lines if "warning" in line] == record["warnings"]
    assert train(tmp_path / "recipe.toml", resume=True).warnings == tuple(record["warnings"])


def test_what_is_cut_at_the_end_without_training_is_said(tmp_path: Path) -> None:
    """Two steps close no gate; the budget is met all the same. What the stage after it writes says so, too."""
    method = {"kind": "l0", "initial_log_alpha": 6.0, "retrain_steps": 1}
    result = train(tiny_recipe(tmp_path, method=method, budget={"flops": 0.5}, schedule={"steps": 2}))
    (warning,) = result.warnings
    assert "stage gates: 100.0% of the FLOPs were left at its last step, 50.0% are now: 50.0% were cut" in warning
    assert result.record["stage"] == "retraining"
    assert "cut_without_training" not in result.record  # of the gates: that stage's own record has it


@pytest.mark.parametrize(("cooldown", "is_cut"), [(0.5, False), (0.0, True)])
def test_a_budget_that_is_reached_only_by_the_end(cooldown: float, is_cut: bool, tmp_path: Path) -> None:
    """The last step of a short schedule without a cooldown still has far more than the budget."""
    method = {**STRUCT, "refresh": 1}
    schedule = {"steps": 4, "warmup": 0.5 if is_cut else 0.0, "cooldown": cooldown}
    trainer = {"logging_steps": 1}
    recipe = tiny_recipe(tmp_path, method=method, budget={"flops": 0.4}, schedule=schedule, trainer=trainer)
    result = train(recipe)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    last = [line["flops_left"] for line in lines if "flops_left" in line][-1]
    assert result.record["left_at_last_step"]["flops_left"] == pytest.approx(last)
    left = result.summary.flops_after[40] / result.summary.flops_before[40]
    assert result.record["cut_without_training"] == pytest.approx(last - left, abs=1e-3)
    assert bool(result.warnings) == is_cut


def test_when_a_warning_is_due() -> None:
    def left(flops: float, **more: float) -> dict[str, float]:
        return {"flops_left": flops} | more

    assert cut_warning("s", left(0.52), left(0.5)) is None
    assert "nothing was pruned" in str(cut_warning("s", left(1.0), left(0.995)))
    assert "no head and no column goes" in str(cut_warning("s", left(1.0, sparsity=0.3), left(1.0, sparsity=0.3)))
    assert "98.0% of the FLOPs were left at its last step, 50.0% are now: 48.0%" in str(
        cut_warning("s", left(0.98), left(0.5))
    )


# --- tables and disk -----------------------------------------------------------------------------------------------------


def test_a_student_is_compared_with_the_recipes_model(tmp_path: Path) -> None:
    checkpoint_folder(tmp_path / "model", num_hidden_layers=4)
    method = {"kind": "student", "layers": 2, "intermediate_epochs": 0, "prediction_epochs": 0, "fine_tuning_steps": 1}
    summary = train(tiny_recipe(tmp_path, method=method)).summary
    dense = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "model")
    assert summary.parameters_before == dense.num_parameters()
    student = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "run/final")
    assert summary.parameters_after == pytest.approx(student.num_parameters(), rel=0.02)  # biases are folded
    assert summary.flops_before[40] == 2 * summary.flops_after[40]
    assert (summary.layers_before, len(summary.layers), summary.is_dense) == (4, 2, False)
    assert summary.to_json()["layers_before"] == 4


@pytest.mark.slow
def test_two_budgets_leave_two_networks_and_two_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else stays; never is more on disk than was said, and not much less."""
    checkpoint_folder(tmp_path / "model", intermediate_size=1024)
    sections: dict[str, Any] = {"method": GRADUAL, "budget": {"flops": [0.6, 0.4]}, "schedule": {"steps": 3}}
    recipe = tiny_recipe(tmp_path, **sections)
    needed = dry_run(recipe).space
    listener = Listener(tmp_path / "run")
    result = train(recipe, progress=listener)
    assert f"disk: {needed}" in listener.notes
    assert [path.name for path in result.published] == ["flops-0.6", "flops-0.4"]
    left = [summary.flops_after[40] / summary.flops_before[40] for summary in result.summaries]
    assert left[0] > left[1] > 0.2
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("run.json", "recipe.toml", "log.jsonl", "tensorboard", "final", "flops-0.6", "flops-0.4")
    }
    assert (result.final / "model.safetensors").samefile(tmp_path / "run/flops-0.4/model.safetensors")
    slack = 400_000  # what each file has beside its tensors
    assert needed.at_end - slack < size(tmp_path / "run") <= needed.at_end + slack
    assert 0.5 * needed.most < listener.most < needed.most + slack

    # The same without hard links, everything kept, through the command line.
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(beside.os, "link", refuse)
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe_data(tmp_path, **sections)))
    capsys.readouterr()
    words = ["--overwrite", "--keep-checkpoints"]
    assert main(["train", str(tmp_path / "recipe.toml"), *words]) == 0
    printed = capsys.readouterr().out
    assert printed.count("What stays") == 2
    assert "flops-0.6\n" in printed
    final, last = tmp_path / "run/final/model.safetensors", tmp_path / "run/flops-0.4/model.safetensors"
    assert not final.samefile(last)
    one, other = load_file(final), load_file(last)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 4
    assert (tmp_path / "run/stages/01-flops-0.775-on-the-way-start/model.safetensors").is_file()
    assert size(tmp_path / "run") <= dry_run(recipe, overwrite=True, keep_checkpoints=True).space.most + slack


def test_a_run_goes_on_after_its_earlier_stages_are_gone(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, method=GRADUAL, budget={"flops": [0.6, 0.4]}, schedule={"steps": 3})
    straight = load_file(train(recipe).final / "model.safetensors")
    for name in ("final", "flops-0.4"):
        shutil.rmtree(tmp_path / "run" / name)
    first = (tmp_path / "run/flops-0.6/model.safetensors").stat().st_mtime_ns
    again = load_file(train(recipe, resume=True).final / "model.safetensors")
    assert all(torch.equal(again[name], straight[name]) for name in straight)
    assert (tmp_path / "run/flops-0.6/model.safetensors").stat().st_mtime_ns == first


def test_a_disk_without_room_is_found_out_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))  # type: ignore[attr-defined]
        for begin in (train, dry_run):
            with pytest.raises(OutputError, match=r"needs up to .* MiB of disk, and 0\.0 MiB are free"):
                begin(recipe)
    assert train(recipe).final.is_dir()  # nothing had been made


def test_scores_for_each_weight_need_room(tmp_path: Path) -> None:
    """Two checkpoints stay while a third is written: weights and Adam's two means of each, 4 bytes a number."""
    checkpoint_folder(tmp_path / "model")
    parameters = dict(AutoModelForQuestionAnswering.from_pretrained(tmp_path / "model").named_parameters())
    everything = sum(value.numel() for value in parameters.values())
    inside = sum(value.numel() for name, value in parameters.items() if ".encoder.layer." in name)
    for shape, scores in (("struct", 0), ("unstructured", inside)):
        recipe = tiny_recipe(tmp_path, method={"kind": "movement", "shape": shape})
        assert dry_run(recipe).space.most == 3 * 4 * 3 * (everything + scores)


def test_bytes_are_said_in_words() -> None:
    assert str(run_folder.DiskSpace(3 * 2**30 + 2**29, 2**30)) == "3.5 GiB at most, 1.0 GiB when it is done"
    assert str(run_folder.DiskSpace(2**30 - 2**20, 2**19)) == "1,023.0 MiB at most, 0.5 MiB when it is done"


# --- TensorBoard -------------------------------------------------------------------------------------------------------


def events(folder: Path) -> dict[str, list[int]]:
    """The steps of each scalar in a folder of event files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    found = accumulator(str(folder), purge_orphaned_data=True).Reload()
    return {name: [event.step for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_tensorboard_shows_what_the_log_holds(tmp_path: Path) -> None:
    """Under transformers' names; a run that is resumed shows each step once."""
    trainer = {"save_steps": 2, "logging_steps": 2, "save_total_limit": 3}
    recipe = tiny_recipe(tmp_path, method=STRUCT, budget={"flops": 0.5}, trainer=trainer)
    train(recipe, keep_checkpoints=True)
    for name in ("final", "checkpoints/01-movement/checkpoint-4", "checkpoints/01-movement/checkpoint-6"):
        shutil.rmtree(tmp_path / "run" / name)
    train(recipe, resume=True)
    steps = events(tmp_path / "run/tensorboard/01-movement")
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    logged = {key for line in lines if "loss" in line for key in line} - {"stage", "step"}
    assert {f"train/{key}" for key in logged} <= set(steps)
    for name in ("loss", "loss_task", "heads_left", "columns_left", "flops_left", "sparsity", "budget"):
        assert steps[f"train/{name}"] == [2, 4, 6], name


def test_training_needs_no_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: False)
    assert train(tiny_recipe(tmp_path)).final.is_dir()
    assert not (tmp_path / "run/tensorboard").exists()


# --- messages ------------------------------------------------------------------------------------------------------------


def test_a_teacher_of_another_task_is_named(tmp_path: Path) -> None:
    checkpoint_folder(tmp_path / "other", "text-classification")
    recipe = replace(tiny_recipe(tmp_path), teacher=str(tmp_path / "other"), distillation=Distillation())
    with pytest.raises(CheckpointError, match=r"the teacher '.*other' cannot be used: it is a BertForSequenceClass"):
        train(recipe)
    with pytest.raises(CheckpointError, match="the teacher 'nowhere/at' cannot be used"):
        dry_run(replace(recipe, teacher="nowhere/at"))


@pytest.mark.parametrize("task", ["question-answering", "text-classification"])
def test_a_length_without_room_names_the_recipes_key(task: str, tmp_path: Path) -> None:
    data: dict[str, Any] = {"max_seq_length": 5}
    if task == "text-classification":
        (tmp_path / "sst2.tsv").write_text("sentence\tlabel\nabc\t1\nxyz\t0\n")
        data = {"max_seq_length": 2, "train": str(tmp_path / "sst2.tsv")}
    checkpoint_folder(tmp_path / "model", task, num_labels=2)
    with pytest.raises(UsageError) as error:
        train(tiny_recipe(tmp_path, data=data))
    assert str(error.value).startswith(f"data.max_seq_length {data['max_seq_length']}: ")
    assert "--" not in str(error.value)


def test_steps_say_how_many_there_are_and_how_long_they_take(tmp_path: Path) -> None:
    listener = Listener(tmp_path / "run")
    train(tiny_recipe(tmp_path, trainer={"logging_steps": 2}), progress=listener)
    steps = [note for note in listener.notes if note.startswith("step")]
    assert [note.split(",")[0] for note in steps] == ["step 2 of 6", "step 4 of 6", "step 6 of 6"]
    assert [" s left, loss" in note for note in steps] == [True, True, False]


def test_quiet_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever other libraries have to say: gradient checkpointing is deprecated in transformers 5."""
    optimiser = {"gradient_checkpointing": True}
    data = recipe_data(tmp_path, optimiser=optimiser, schedule={"steps": 2})
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(data))
    capfd.readouterr()
    assert main(["train", str(tmp_path / "recipe.toml"), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_data_for_evaluation_of_another_task_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "sst2.tsv").write_text("sentence\tlabel\nabc\t1\nxyz\t0\n")
    recipe = tiny_recipe(tmp_path, data={"eval": str(tmp_path / "sst2.tsv")})
    with pytest.raises(PruneExportError, match="question"):
        train(recipe)
    assert not (tmp_path / "run/log.jsonl").exists()


# --- dry runs ------------------------------------------------------------------------------------------------------------


def files(folder: Path) -> dict[str, int]:
    return {str(path): os.lstat(path).st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("method", "budget", "stages"),
    [
        ({"kind": "none"}, {}, {"training": 6}),
        ({**STRUCT, "fill": True, "fill_epochs": 2}, {"flops": 0.5}, {"movement": 6, "fill": 24}),
        ({"kind": "l0", "retrain_steps": 3}, {"flops": 0.5}, {"gates": 6, "retraining": 3}),
        (GRADUAL, {"flops": 0.6}, {"flops-0.775-on-the-way": 2, "flops-0.6": 6}),
        (
            {"kind": "student", "layers": 1, "prediction_steps": 2, "fine_tuning_epochs": 0},
            {},
            {"intermediate": 48, "prediction": 2},
        ),
    ],
    ids=["none", "movement", "l0", "gradual", "student"],
)
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    method: dict[str, Any],
    budget: dict[str, Any],
    stages: dict[str, int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = recipe_data(tmp_path, method=method, budget=budget, distillation={"weight": 0.5})
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(data))
    before = files(tmp_path)
    capsys.readouterr()
    assert main(["train", str(tmp_path / "recipe.toml"), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {part["name"]: part["steps"] for part in found["stages"]} == stages
    assert found["features"] == 48
    assert 0 < found["seconds"] < 120
    assert found["disk_bytes"]["most"] >= found["disk_bytes"]["at_end"] > 0
    assert main(["train", str(tmp_path / "recipe.toml"), "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"train": "missing.json"}}, r"missing\.json"),
        ({"method": {"kind": "student", "layers": 9}}, "method.layers: expected 1 to 2"),
        ({"method": {"kind": "movement", "block": [5, 5]}}, "cannot be cut into blocks of 5 × 5"),
        ({"distillation": {"hidden_weight": 1.0, "layer_map": [0, 1]}}, "expected 3 numbers"),
        ({"method": GRADUAL | {"keep_layers": [7]}, "budget": {"flops": 0.5}}, "method.keep_layers"),
        ({"method": GRADUAL | {"keep_layers": [0, 1]}, "budget": {"flops": [0.9, 0.05]}}, "cannot be met"),
        ({"trainer": {"report_to": "wandb"}}, "trainer.report_to"),
        ({"data": {"labels": ["a", "b"]}}, "^data.labels a b: question answering has no classes"),
        ({"trainer": {"optim": "foo"}}, "transformers refuses the training arguments"),
        ({"trainer": {"deepspeed": "x"}}, "trainer.deepspeed: x: cannot be read"),
        ({"trainer": {"logging_steps": 0}}, "transformers refuses the training arguments"),
    ],
)
def test_a_dry_run_finds_what_is_wrong(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PruneExportError, match=message):
        dry_run(tiny_recipe(tmp_path, **sections))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_finds_evaluation_data_without_room(tmp_path: Path) -> None:
    """Its questions are longer than those of the training data, and are first asked when all is trained."""
    recipe = tiny_recipe(tmp_path, data={"eval": str(longer := tmp_path / "longer.json")})
    questions = json.loads((tmp_path / "questions.json").read_text())
    longer.write_text(json.dumps(questions))
    assert dry_run(recipe).features == 48
    questions["data"][0]["paragraphs"][-1]["qas"][0]["question"] = "the? " * 20
    longer.write_text(json.dumps(questions))
    with pytest.raises(UsageError, match=r"data\.max_seq_length 24: a question of .* leave no room"):
        dry_run(recipe)
    few = tiny_recipe(tmp_path, data={"eval": str(longer), "eval_samples": 1})
    assert dry_run(few).features == 48  # another question was drawn


def test_a_dry_run_finds_a_run_that_is_there(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, schedule={"steps": 1})
    train(recipe)
    with pytest.raises(OutputError, match="holds a run already"):
        dry_run(recipe)
    assert dry_run(recipe, overwrite=True).stages[0].steps == 1
    assert dry_run(recipe, resume=True).stages[0].steps == 1
    with pytest.raises(UsageError, match="seed was 0, now 1"):
        dry_run(replace(recipe, seed=1), resume=True)


def test_a_new_head_in_a_dry_run(tmp_path: Path) -> None:
    checkpoint_folder(tmp_path / "model", "fill-mask")
    (tmp_path / "sst2.tsv").write_text("sentence\tlabel\n" + "abc\t1\nxyz\t0\n" * 4)
    data = {"train": str(tmp_path / "sst2.tsv"), "max_seq_length": 16}
    recipe = tiny_recipe(tmp_path, task="text-classification", data=data)
    before = files(tmp_path)
    assert dry_run(recipe).task == "text-classification"
    assert files(tmp_path) == before
