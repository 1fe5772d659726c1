"""Whole trainings of a few steps: output, resuming after a kill, several processes, bad recipes, NaN, a full disk."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file

import prune_export
from exporters.errors import CheckpointError, DataError, OutputError, PruneExportError, TrainingError, UsageError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.cli.main import main
from prune_export.training import stage_run
from prune_export.training.recipe import Distillation
from prune_export.training.recipe_file import recipe_from
from prune_export.training.run import train
from tests.models import FAMILY_CASES, example_inputs
from tests.tiny_training import checkpoint_folder, questions_file, recipe_data, tiny_recipe

PartialState = pytest.importorskip("accelerate").PartialState

HYBRID = {"kind": "movement", "shape": "hybrid", "block": [8, 8]}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return set(left) == set(right) and all(torch.equal(left[name], right[name]) for name in left)


def test_hybrid_filled_ends_in_a_checkpoint_that_exports(tmp_path: Path) -> None:
    method = HYBRID | {"fill": True, "fill_steps": 3}
    recipe = tiny_recipe(tmp_path, method=method, budget={"flops": 0.5}, distillation={"weight": 0.5})
    data = replace(recipe.data, eval=recipe.data.train[0], eval_samples=20)
    result = train(replace(recipe, data=data), keep_checkpoints=True)
    assert result.evaluation is not None
    assert result.evaluation.examples == 20
    assert json.loads((tmp_path / "run/evaluation.json").read_text()) == result.evaluation.to_json()
    kept = result.summary.flops_after[40] / result.summary.flops_before[40]  # 40 positions are all it has
    assert 0.45 < kept <= 0.51
    (tmp_path / "run/evaluation.json").write_text("{}")  # a run that is finished is evaluated anew
    again = train(replace(recipe, data=data), resume=True, keep_checkpoints=True).evaluation
    assert again is not None
    assert again.results[0].metrics == result.evaluation.results[0].metrics
    assert json.loads((tmp_path / "run/evaluation.json").read_text()) == again.to_json()
    masked = weights(tmp_path / "run/stages/01-movement")
    filled = weights(result.final)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert filled[name].ne(0).sum() > masked[name].ne(0).sum()  # zeros inside kept heads grew back
    record = json.loads((result.final / "pruning.json").read_text())
    assert record["recipe"]["method"]["shape"] == "hybrid"
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert {"heads_left", "columns_left", "flops_left", "sparsity", "loss_task", "loss_logits"} <= set(lines[0])
    assert any(line["stage"] == "02-fill" for line in lines)
    exported = prune_export.export(result.final, tmp_path / "onnx", samples=4)
    assert exported.parity is not None
    assert exported.parity.passed


def test_training_learns(tmp_path: Path) -> None:
    """The digits are found: the loss falls although half of the network goes."""
    method = HYBRID | {"initial": "fisher", "initial_samples": 8}
    schedule, optimiser = {"steps": 60}, {"batch_size": 16}
    train(tiny_recipe(tmp_path, method=method, budget={"flops": 0.6}, schedule=schedule, optimiser=optimiser))
    losses = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = [line["loss_task"] for line in losses if "loss_task" in line]
    assert losses[-1] < 0.75 * losses[0]


def test_text_classification_with_an_albert(tmp_path: Path) -> None:
    """Shared layers, labels, thresholds and accumulation."""
    lines = ["sentence\tlabel", *(f"{'abc' if n % 2 else 'xyz'} {n % 7}\t{n % 2}" for n in range(24))]
    (tmp_path / "sst2.tsv").write_text("\n".join(lines) + "\n")
    case = next(case for case in FAMILY_CASES if case.model_type == "albert")
    checkpoint_folder(tmp_path / "model", "text-classification", case=case, num_labels=2)
    data = recipe_data(tmp_path, method={"kind": "movement", "shape": "struct", "selection": "topk"})
    data["data"] = {"train": str(tmp_path / "sst2.tsv"), "dataset": "sst2", "max_seq_length": 16}
    data["optimiser"] |= {"accumulation": 2}
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(data))
    result = train(tmp_path / "recipe.toml")
    assert all(layer.after.heads == 2 and layer.after.columns == 12 for layer in result.summary.layers)


def test_a_pretrained_body_gets_a_head(tmp_path: Path) -> None:
    """Whose classes are those of the data."""
    checkpoint_folder(tmp_path / "model", "fill-mask")
    lines = ["sentence\tlabel", *(f"abc {n % 7}\t{n % 2}" for n in range(24))]
    (tmp_path / "sst2.tsv").write_text("\n".join(lines) + "\n")
    data = recipe_data(tmp_path, task="text-classification", schedule={"steps": 2})
    data["data"] = {"train": str(tmp_path / "sst2.tsv"), "dataset": "sst2", "max_seq_length": 16}
    result = train(recipe_from(data))
    assert json.loads((result.final / "config.json").read_text())["id2label"] == {"0": "negative", "1": "positive"}
    assert prune_export.inspect(result.final).checkpoint.task == "text-classification"


@pytest.mark.parametrize("grouped", [True, False])
def test_batches_are_of_one_length_where_that_is_asked_for(
    grouped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 8 short and 16 long examples, batches of 4 are all short or all long; without grouping, chance mixes them."""
    lines = ["sentence\tlabel", *(f"{'a b c d' if n % 3 else 'a'} {n % 7}\t{n % 2}" for n in range(24))]
    (tmp_path / "sst2.tsv").write_text("\n".join(lines) + "\n")
    checkpoint_folder(tmp_path / "model", "text-classification", num_labels=2)
    data = recipe_data(tmp_path)
    data["data"] = {"train": str(tmp_path / "sst2.tsv"), "dataset": "sst2", "group_by_length": grouped}
    batches: list[list[int]] = []

    class Watched(stage_run.Collator):
        def __call__(self, features: Any) -> Any:
            batches.append([len(feature.input_ids) for feature in features])
            return super().__call__(features)

    monkeypatch.setattr(stage_run, "Collator", Watched)
    train(recipe_from(data))
    assert [len(batch) for batch in batches] == [4] * 6  # one epoch
    lengths = sorted(length for batch in batches for length in batch)
    assert len(set(lengths[:8])) == len(set(lengths[8:])) == 1
    assert lengths[7] < lengths[8]
    assert all(len(set(batch)) == 1 for batch in batches) == grouped


def test_every_epoch_has_each_example_once_in_an_order_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Watched(stage_run.Collator):
        def __call__(self, features: Any) -> Any:
            seen.extend(feature.example for feature in features)
            return super().__call__(features)

    monkeypatch.setattr(stage_run, "Collator", Watched)
    questions_file(tmp_path / "questions.json", 12)
    train(tiny_recipe(tmp_path))
    first, second = seen[:12], seen[12:]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_what_is_pruned_stays_so_where_training_goes_on(tmp_path: Path) -> None:
    """A head and columns whose output weights alone are 0 would grow back in a network of full size."""
    checkpoint_folder(tmp_path / "model")
    before = weights(tmp_path / "model")
    attention, down = (f"bert.encoder.layer.0.{name}.dense.weight" for name in ("attention.output", "output"))
    before[attention][:, 8:16] = 0
    before[down][:, [3, 5]] = 0
    save_file(before, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    after = weights(train(tiny_recipe(tmp_path)).final)
    assert after[attention].eq(0).all(dim=0).nonzero().flatten().tolist() == list(range(8, 16))
    assert after[down].eq(0).all(dim=0).nonzero().flatten().tolist() == [3, 5]
    assert not torch.equal(after[down], before[down])


# --- resuming -----------------------------------------------------------------------------------------------------------


def killed(command: list[str], after: Path, environment: dict[str, str]) -> None:
    """Starts a training and kills it with -9 as soon as the file `after` is there."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not after.exists():
        assert process.poll() is None, process.communicate()[1].decode()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("grouped", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_and_ends_in_the_same_weights(grouped: bool, tmp_path: Path) -> None:
    """Dropout, scores, schedule and the order of data are those of a run that nobody disturbed."""
    checkpoint_folder(tmp_path / "model", hidden_dropout_prob=0.1)
    method = HYBRID | {"fill": True, "fill_steps": 4}
    sections: dict[str, Any] = {"method": method, "budget": {"flops": 0.5}, "schedule": {"steps": 20}}
    data = recipe_data(tmp_path, **sections)
    data["trainer"] |= {"save_steps": 5, "logging_steps": 5}
    data["data"]["group_by_length"] = grouped
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(data))
    straight = train(tmp_path / "recipe.toml", changes=(f"output={json.dumps(str(tmp_path / 'straight'))}",))
    command = [sys.executable, "-m", "prune_export", "train", str(tmp_path / "recipe.toml")]
    killed(command, tmp_path / "run/checkpoints/01-movement/checkpoint-10/complete", dict(os.environ))
    assert not (tmp_path / "run/final").exists()
    with pytest.raises(OutputError, match="--resume goes on with it"):
        train(tmp_path / "recipe.toml")
    with pytest.raises(UsageError, match="seed was 0, now 1"):
        train(tmp_path / "recipe.toml", resume=True, changes=("seed=1",))
    resumed = train(tmp_path / "recipe.toml", resume=True)
    assert same(straight.final, resumed.final)
    one, other = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("straight", "run")
    )
    assert [(e["stage"], e["step"], e["loss"]) for e in one if "loss" in e] == [
        (e["stage"], e["step"], e["loss"]) for e in other if "loss" in e
    ]
    # A run that is finished is not run again; another seed gives other weights.
    stamp = (resumed.final / "model.safetensors").stat().st_mtime_ns
    train(tmp_path / "recipe.toml", resume=True)
    assert (resumed.final / "model.safetensors").stat().st_mtime_ns == stamp
    again = train(tmp_path / "recipe.toml", overwrite=True, changes=("seed=1",))
    assert not same(straight.final, again.final)


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(tmp_path: Path) -> None:
    data = recipe_data(tmp_path, method=HYBRID, budget={"flops": 0.6}, optimiser={"batch_size": 8})
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(data))
    one = train(tmp_path / "recipe.toml")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launcher += ["-m", "prune_export.cli", "train", str(tmp_path / "recipe.toml"), "--set", "optimiser.batch_size=4"]
    launched = subprocess.run(
        [*launcher, "--output", str(tmp_path / "two"), "--json"], capture_output=True, text=True, timeout=200
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert launched.stdout.count('"final"') == 1  # only the first process prints
    left, right = weights(one.final), weights(tmp_path / "two/final")
    # Biases of the key and of the span logits change no answer: their gradients are rounding errors, which Adam makes large.
    assert all(torch.allclose(left[name], right[name], atol=1e-6) for name in left if name.endswith("weight"))
    inputs = example_inputs(load_reference_model(load_checkpoint(one.final)))
    found = [
        load_reference_model(load_checkpoint(folder))(**inputs).start_logits
        for folder in (one.final, tmp_path / "two/final")
    ]
    assert torch.allclose(found[0].log_softmax(dim=1), found[1].log_softmax(dim=1), atol=1e-5)


def test_a_gradient_that_is_not_a_number_ends_the_training_before_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the third step is a number; one weight's gradient is none."""
    name, steps, make = "bert.encoder.layer.1.intermediate.dense.weight", list[int](), stage_run.make_network

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        return gradient * (math.nan if len(steps) == 3 else 1)

    def spoiled(*arguments: Any) -> Any:
        network = make(*arguments)
        network.model.get_parameter(name).register_hook(spoil)
        return network

    monkeypatch.setattr(stage_run, "make_network", spoiled)
    with pytest.raises(TrainingError, match=rf"step 3 of 6: the gradient( of {name})? is not a number"):
        train(tiny_recipe(tmp_path, optimiser={"max_gradient_norm": 0.0}))
    assert len(steps) == 3


# --- what goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optimizer": {}}, "unknown key 'optimizer'; the nearest known one is 'optimiser'"),
        ({"optimiser": {"learning_rat": 1.0}}, "the nearest known one is 'optimiser.learning_rate'"),
        ({"method": {"kind": "movment"}}, "did you mean movement?"),
        ({"method": {"kind": "movement", "shape": "round"}}, "method.shape: expected one of hybrid, struct"),
        ({"method": {"kind": "movement", "shape": "block"}, "budget": {"flops": 0.5}}, "expected 'hybrid' or 'struct'"),
        ({"seed": "one"}, "seed: expected a whole number; found 'one'"),
        ({"schedule": {"epochs": 2}}, "expected either steps or epochs"),
        ({"budget": {"flops": 1.5}}, "budget.flops: expected a number above 0, at most 1; found 1.5"),
        ({"schedule": {"warmup": 0.9}}, "expected at most 1"),
        ({"trainer": {"save_step": 5}}, "the nearest is 'save_steps'"),
        ({"trainer": {"learning_rate": 5}}, "set optimiser.learning_rate instead"),
        ({"data": {"max_seq_length": 100}}, "the model has positions for 40 tokens"),
        ({"trainer": {"label_smoothing_factor": 0.1}}, "it is decided by prune-export"),
        ({"optimiser": {"weight_decay": -1.0}}, "optimiser.weight_decay: expected a number of 0 or more; found -1.0"),
        (
            {"method": {"kind": "gradual", "recovery_steps": 0}, "budget": {"flops": 0.5}},
            "method.recovery_steps: expected",
        ),
        (
            {"method": {"kind": "l0", "retrain_steps": -1}, "budget": {"flops": 0.5}},
            "expected a whole number of 0 or more; found -1",
        ),
        ({"method": {"kind": "l0", "blocks": "attention"}, "budget": {"columns": 0.5}}, "columns have no gates"),
        (
            {"method": {"kind": "gradual"}, "budget": {"flops": 0.5, "heads": 0.5}},
            "expected either flops or heads; found both",
        ),
        ({"method": HYBRID | {"block": [16, 8]}, "budget": {"flops": 0.5}}, "whose size is 8 here"),
    ],
)
def test_bad_recipes_are_one_line(
    sections: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe_data(tmp_path, **sections)))
    capsys.readouterr()
    assert main(["train", str(tmp_path / "recipe.toml"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_run_goes_on_to_the_length_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs are fewer steps where there are more processes."""
    recipe = tiny_recipe(tmp_path, trainer={"save_steps": 2})
    epochs = replace(recipe, schedule=replace(recipe.schedule, steps=None, epochs=1))
    with monkeypatch.context() as patch:
        patch.setattr(stage_run, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(epochs)
        patch.setattr(stage_run, "total_steps", lambda *_: 6)
        with pytest.raises(UsageError, match="begun with 12 optimiser steps, now there would be 6"):
            train(epochs, resume=True)
    assert train(epochs, resume=True).final.is_dir()


def test_what_is_needed_at_the_end_is_asked_for_at_the_beginning(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    with pytest.raises(DataError, match=r"missing\.json"):
        train(replace(recipe, data=replace(recipe.data, eval=str(tmp_path / "missing.json"))))
    checkpoint_folder(tmp_path / "other", num_hidden_layers=3)
    (tmp_path / "other/model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError):
        train(replace(recipe, teacher=str(tmp_path / "other"), distillation=Distillation()))
    checkpoint_folder(tmp_path / "masked-words", "fill-mask")
    with pytest.raises(UsageError, match="training needs a task with labels"):
        train(replace(recipe, model=str(tmp_path / "masked-words")))
    assert not (tmp_path / "run/checkpoints").exists()


def test_data_without_answers(tmp_path: Path) -> None:
    data = {"version": "v2.0", "data": [{"paragraphs": [{"context": "abc", "qas": []}]}]}
    entry = {"id": "1", "question": "the?", "answers": [], "is_impossible": True}
    data["data"][0]["paragraphs"][0]["qas"].append(entry)  # type: ignore[index]
    (tmp_path / "questions.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="training needs answers"):
        train(tiny_recipe(tmp_path))


def test_a_loss_that_is_not_a_number_stops(tmp_path: Path) -> None:
    sections = {
        "schedule": {"steps": 12},
        "optimiser": {"learning_rate": 1e30, "max_gradient_norm": 1e30, "warmup": 0.7},
    }
    recipe = tiny_recipe(tmp_path, method=HYBRID, trainer={"save_steps": 1}, **sections)
    with pytest.raises(
        TrainingError, match=r"step \d+ of 12: the .* is not a number.*the last good checkpoint is"
    ) as error:
        train(recipe)
    good = Path(str(error.value).split("checkpoint is ")[1].split(". A lower")[0])
    assert all(value.isfinite().all() for value in weights(good).values())
    assert not (tmp_path / "run/final").exists()


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: every write beyond it fails."""
    recipe = tiny_recipe(tmp_path, method=HYBRID, trainer={"save_steps": 2})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(
            OutputError, match=r"checkpoint-2: the checkpoint cannot be written: .* go on with --resume"
        ):
            train(recipe)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "run/checkpoints/01-movement").iterdir())
    assert train(recipe, resume=True).final.is_dir()


def test_a_run_does_not_begin_over_other_things(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds other things than a run"):
            train(tiny_recipe(tmp_path), overwrite=overwrite)
    assert (tmp_path / "run/mine.txt").read_text() == "x"


def test_a_run_that_failed_before_anything_was_made_can_be_begun_again(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, data={"train": str(tmp_path / "missing.json")})
    with pytest.raises(PruneExportError, match=r"missing\.json"):
        train(recipe)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"recipe.toml", "run.json"}
    questions_file(tmp_path / "missing.json")
    assert train(recipe).final.is_dir()
    with pytest.raises(OutputError, match="holds a run already"):
        train(recipe)


def test_a_run_whose_arguments_are_refused_can_be_begun_again(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="transformers refuses the training arguments"):
        train(tiny_recipe(tmp_path, trainer={"optim": "x"}))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"recipe.toml", "run.json"}
    assert train(tiny_recipe(tmp_path)).final.is_dir()


@pytest.mark.parametrize("names", [{"LOCAL_RANK": "0"}, {"LOCAL_RANK": "0", "WORLD_SIZE": "x"}])
def test_processes_that_cannot_be_found_are_one_line(
    names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # accelerate sets some of them
        monkeypatch.delenv(name)
    recipe = tiny_recipe(tmp_path)
    with monkeypatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        PartialState._reset_state()  # as in a new process
        with pytest.raises(UsageError, match=r"several processes, which cannot be found: .*torchrun") as caught:
            train(recipe)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert train(recipe).final.is_dir()


def test_dropout_is_what_the_recipe_says(tmp_path: Path) -> None:
    """A network whose configuration has dropout trains like one without, if the recipe says so, and not otherwise."""
    finals = []
    for name, configured, wanted in (("none", 0.0, {}), ("off", 0.5, {"dropout": 0.0}), ("on", 0.5, {})):
        folder = tmp_path / name
        folder.mkdir()
        checkpoint_folder(folder / "model", hidden_dropout_prob=configured, attention_probs_dropout_prob=configured)
        recipe = tiny_recipe(
            folder, method=HYBRID | {"fill": True, "fill_steps": 2}, budget={"flops": 0.5}, optimiser=wanted
        )
        finals.append(train(recipe).final)
    assert same(finals[0], finals[1])
    assert not same(finals[0], finals[2])


def test_a_training_in_bf16_leaves_no_trace_in_the_next_one(tmp_path: Path) -> None:
    """transformers 4 keeps the number type in the environment of the process."""
    weights = []
    for number, bf16 in enumerate((False, True, False)):
        folder = tmp_path / str(number)
        folder.mkdir()
        recipe = tiny_recipe(folder)
        train(replace(recipe, optimiser=replace(recipe.optimiser, bf16=bf16)))
        weights.append(load_file(folder / "run/final/model.safetensors"))
    first, half, last = weights
    assert all(torch.equal(first[name], last[name]) for name in first)
    assert not all(torch.equal(first[name], half[name]) for name in first)
