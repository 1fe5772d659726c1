"""Plain networks: any shape of a parent as an ordinary Hugging Face checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from exporters.errors import OutputError, UnsupportedError, UsageError
from exporters.tasks import TASKS
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.reference_model import quiet_transformers
from prune_export.families import FAMILIES
from prune_export.search.plain_network import Inheritance, inherit, plain_checkpoint, prepare_inheritance
from prune_export.search.shape import Shape
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, make_model

CASES = {str(case): case for case in FAMILY_CASES}
FULL = Shape(3, 4, 24, 20)


def batches_of(model: Any, task: str, count: int = 9) -> list[dict[str, torch.Tensor]]:
    batches = [example_inputs(model, batch=6, seed=seed) for seed in range(count)]
    for batch in batches:
        if task == "question-answering":
            first = batch["attention_mask"].argmax(dim=1)
            batch |= {"start_positions": first, "end_positions": first}
        elif task == "text-classification":
            batch["labels"] = torch.arange(6) % 3
        elif task == "token-classification":
            batch["labels"] = batch["input_ids"] % 3
    return batches


def made(case: FamilyCase, task: Any, folder: Path, **changes: Any) -> tuple[Any, Inheritance]:
    model = make_model(case, task, **changes)
    model.save_pretrained(folder)
    return model, prepare_inheritance(load_checkpoint(folder, task=task), batches_of(model, task))


def outputs(model: Any, inputs: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        result = model(**inputs)
    names = [
        name
        for name in ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output")
        if name in result
    ]
    return [result[name][inputs["attention_mask"].bool()] if result[name].ndim == 3 else result[name] for name in names]


def saved_and_loaded(network: Any, model_class: Any, folder: Path) -> Any:
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    network.config.to_json_file(folder / "config.json", use_diff=False)
    save_file(dict(network.tensors), folder / "model.safetensors", metadata={"format": "pt"})
    with quiet_transformers():
        model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra"])
def test_at_full_size_it_is_the_parent(name: str, task: Any, tmp_path: Path) -> None:
    model, inheritance = made(CASES[name], task, tmp_path / "parent")
    network = inherit(inheritance, FULL)
    loaded = saved_and_loaded(network, type(model), tmp_path / "plain")
    inputs = example_inputs(model, seed=5)
    for expected, actual in zip(outputs(model, inputs), outputs(loaded, inputs), strict=True):
        assert torch.allclose(expected, actual, atol=2e-5, rtol=0)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["bert", "distilbert", "electra"])
def test_every_shape_loads_in_transformers(name: str, task: Any, tmp_path: Path) -> None:
    model, inheritance = made(CASES[name], task, tmp_path / "parent")
    for shape in (
        Shape(2, 2, 18, 12),
        Shape(1, 1, 20, 20),
        Shape(3, 4, 16, 5),
    ):  # heads of 9, 20 and 4 dimensions, not 6
        network = inherit(inheritance, shape)
        loaded = saved_and_loaded(network, type(model), tmp_path / "plain")
        assert FAMILIES[name].dimensions(loaded.config).hidden == shape.hidden
        assert all(result.isfinite().all() for result in outputs(loaded, example_inputs(model, seed=5)))
