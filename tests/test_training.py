"""Slim networks train on, and come back from disk as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import prune_export
from exporters.tasks import Task
from tests.comparing import largest_difference, torch_outputs
from tests.models import FAMILY_CASES, FAMILY_TASKS, FamilyCase, example_inputs, linear, make_model, save


def labels_for(task: Task, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    batch, length = inputs["input_ids"].shape
    match task:
        case "question-answering":
            places = torch.arange(batch) % length
            return {"start_positions": places, "end_positions": places + 1}
        case "text-classification":
            return {"labels": torch.arange(batch) % 3}
        case "token-classification":
            return {"labels": inputs["input_ids"] % 3}
        case "fill-mask":
            return {"labels": torch.where(inputs["input_ids"] % 4 == 0, inputs["input_ids"], -100)}
        case _:
            return {}


def pruned(case: FamilyCase, task: Task) -> Any:
    model = make_model(case, task)
    linear(model, case, 0, "value").weight.data[:6] = 0
    linear(model, case, 0, "up").weight.data[::2] = 0
    return model


@pytest.mark.parametrize(("case", "task"), [row for row in FAMILY_TASKS if row[1] != "feature-extraction"], ids=str)
def test_the_loss_is_transformers_own(case: FamilyCase, task: Task, tmp_path: Path) -> None:
    model = pruned(case, task)
    slim = prune_export.slim(save(model, tmp_path))
    inputs = example_inputs(model)
    if prune_export.inspect(tmp_path).slim.has_windows:  # what a loss over padding is then is left open
        inputs["attention_mask"][:] = 1
    labels = labels_for(task, inputs)
    with torch.no_grad():
        expected, found = model(**inputs, **labels).loss, slim(**inputs, **labels).loss
        assert slim(**inputs).loss is None
    assert torch.allclose(expected, found, rtol=1e-4)


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_training_lowers_the_loss_and_survives_the_disk(case: FamilyCase, tmp_path: Path) -> None:
    model = pruned(case, case.task)
    slim = prune_export.slim(save(model, tmp_path / "masked"))
    original = torch_outputs(slim, slim.describe(), example_inputs(model))
    inputs = example_inputs(model)
    labels = labels_for(case.task, inputs)
    optimizer = torch.optim.AdamW(slim.parameters(), lr=1e-3)
    with torch.no_grad():
        before = slim(**inputs, **labels).loss.item()
    for _ in range(60):  # in evaluation mode: without dropout, three examples are learnt by heart
        optimizer.zero_grad()
        slim(**inputs, **labels).loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = slim(**inputs, **labels).loss.item()
    assert after < 0.5 * before
    assert all(parameter.grad is not None for parameter in slim.parameters())
    trained = torch_outputs(slim, slim.describe(), inputs)
    assert largest_difference(original, trained) > 0.01
    slim.save_pretrained(tmp_path / "slim")
    again = prune_export.load_slim(tmp_path / "slim")
    assert largest_difference(trained, torch_outputs(again, again.describe(), inputs)) == 0.0
    result = prune_export.export(tmp_path / "slim", tmp_path / "onnx", target="cpu", samples=4)
    assert result.parity is not None
    assert result.parity.passed
    # The checkpoint that it came from is untouched, although weights are mapped from its file.
    fresh = prune_export.slim(tmp_path / "masked")
    assert largest_difference(original, torch_outputs(fresh, fresh.describe(), inputs)) == 0.0


def test_the_hugging_face_trainer_takes_it(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    model = pruned(FAMILY_CASES[0], "text-classification")
    slim = prune_export.slim(save(model, tmp_path / "masked"))
    inputs = example_inputs(model, batch=8)
    labels = labels_for("text-classification", inputs)
    examples = [{name: value[row] for name, value in (inputs | labels).items()} for row in range(8)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "runs"),
        max_steps=20,
        learning_rate=1e-2,
        per_device_train_batch_size=8,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    with torch.no_grad():
        before = slim(**inputs, **labels).loss.item()
    Trainer(model=slim, args=arguments, train_dataset=examples).train()  # type: ignore[arg-type]
    slim.eval()
    with torch.no_grad():
        after = slim(**inputs, **labels).loss.item()
    assert after < before
    slim.save_pretrained(tmp_path / "slim")
    assert prune_export.load_slim(tmp_path / "slim").task == "text-classification"


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
@pytest.mark.parametrize("slim", [False, True])
def test_dropout_as_the_recipe_wants_it(case: FamilyCase, slim: bool, tmp_path: Path) -> None:
    """Without dropout a training network computes what one in evaluation mode does; with the configuration's it does not."""
    from prune_export.training.network import set_dropout

    made = make_model(case, "text-classification")
    model = prune_export.slim(save(made, tmp_path)) if slim else made
    inputs = example_inputs(made, batch=2, length=9)
    with torch.no_grad():
        wanted = model.eval()(**inputs)["logits"]
        model.train()
        assert not torch.allclose(model(**inputs)["logits"], wanted, atol=1e-4)
        set_dropout(model, 0.0)
        assert torch.allclose(model(**inputs)["logits"], wanted, atol=1e-6)


def test_a_folder_that_is_not_slim_is_refused(tmp_path: Path) -> None:
    folder = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path)
    with pytest.raises(prune_export.PruneExportError, match="no slim checkpoint"):
        prune_export.load_slim(folder)
