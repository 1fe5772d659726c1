"""Every family, for every task, dense: the exported graph answers like the Hugging Face model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from exporters.onnx.precision import FP32 as FP32_WEIGHTS
from exporters.onnx.serialize import weights_size
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.tasks import TASKS, Task
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.families import FAMILIES
from prune_export.families.state_dict import state_dict
from prune_export.slim_model.model import slim_module
from prune_export.verbs.inspect import inspect
from tests.comparing import FORMS, LIMITS, RUNNABLE, largest_difference, onnx_outputs, torch_outputs
from tests.models import ALL_CASES, FAMILY_CASES, FAMILY_TASKS, FamilyCase, example_inputs, make_model, save

FP32 = 1e-5  # tiny networks: a handful of roundings
FP16 = 2e-2

every_family = pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
every_task = pytest.mark.parametrize(("case", "task"), FAMILY_TASKS, ids=str)


def test_every_supported_family_has_a_row() -> None:
    assert {case.model_type for case in ALL_CASES} == set(FAMILIES)
    assert set(get_args(Task)) == set(TASKS)


@every_task
def test_dense_networks_answer_alike(case: FamilyCase, task: Task, tmp_path: Path) -> None:
    model = make_model(case, task)
    inputs = example_inputs(model)
    found = inspect(save(model, tmp_path))
    assert found.checkpoint.task == task
    assert found.summary.is_dense
    assert set(found.slim.inputs) == set(inputs)
    reference = torch_outputs(model, found.slim, inputs)
    slim = slim_module(found.checkpoint, found.slim)
    assert largest_difference(reference, torch_outputs(slim, found.slim, inputs)) < FP32
    for target in RUNNABLE:
        plain = onnx_outputs(found.slim, inputs, tmp_path, target=target, optimize=False)
        assert largest_difference(reference, plain) < FP32, target
        optimized = onnx_outputs(found.slim, inputs, tmp_path, target=target)
        assert largest_difference(reference, optimized) < FP32, target
    for target, dtype in FORMS:
        rounded = onnx_outputs(found.slim, inputs, tmp_path, target=target, dtype=dtype)
        limit = case.int8 if dtype == "int8" else LIMITS[dtype]
        assert largest_difference(reference, rounded) < limit, (target, dtype)
        assert all(output.dtype == "float32" for output in rounded.values())


@every_task
def test_state_dict_is_the_inverse_of_describe(case: FamilyCase, task: Task, tmp_path: Path) -> None:
    model = make_model(case, task)
    checkpoint = load_checkpoint(save(model, tmp_path))
    written = state_dict(checkpoint.family, checkpoint.config, checkpoint.encoder)
    prefix = "" if task != "feature-extraction" else f"{checkpoint.family.prefix}."
    other = type(model)(model.config).eval()
    missing, unexpected = other.load_state_dict(
        {name.removeprefix(prefix): value for name, value in written.items()}, strict=False
    )
    assert not unexpected
    assert all("pooler" in name or "position_ids" in name for name in missing)
    inputs = example_inputs(model)
    reference = torch_outputs(model, checkpoint.encoder, inputs)
    assert largest_difference(reference, torch_outputs(other, checkpoint.encoder, inputs)) < FP32


@every_family
def test_the_oracle_is_the_model_that_was_saved(case: FamilyCase, tmp_path: Path) -> None:
    model = make_model(case, case.task)
    checkpoint = load_checkpoint(save(model, tmp_path))
    inputs = example_inputs(model)
    reference = torch_outputs(model, checkpoint.encoder, inputs)
    oracle = load_reference_model(checkpoint)
    assert type(oracle).__name__ == type(model).__name__
    assert largest_difference(reference, torch_outputs(oracle, checkpoint.encoder, inputs)) == 0.0


@every_family
def test_a_base_model_is_read_out_of_a_task_model(case: FamilyCase, tmp_path: Path) -> None:
    model = make_model(case, case.task)
    found = inspect(save(model, tmp_path), task="feature-extraction")
    inputs = example_inputs(model)
    body = getattr(model, found.checkpoint.family.prefix)
    reference = torch_outputs(body, found.slim, inputs)
    assert largest_difference(reference, onnx_outputs(found.slim, inputs, tmp_path)) < FP32


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        (
            "bert",
            {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 8, "intermediate_size": 48},
        ),  # Bort
        ("bert", {"type_vocab_size": 1}),
        ("bert", {"hidden_act": "relu"}),
        ("bert", {"hidden_act": "silu"}),
        ("bert", {"hidden_act": "gelu_pytorch_tanh"}),
        ("roberta", {"pad_token_id": 3}),
        ("roberta", {"type_vocab_size": 2}),
        ("electra", {"embedding_size": 24}),
        ("albert", {"embedding_size": 24}),
        ("albert", {"num_hidden_groups": 2, "num_hidden_layers": 4}),
        ("albert", {"inner_group_num": 2, "num_hidden_layers": 2}),
        ("distilbert", {"activation": "relu"}),
        ("bert", {"tie_word_embeddings": False}),
    ],
    ids=str,
)
def test_variants_of_configurations(model_type: str, changes: dict[str, Any], tmp_path: Path) -> None:
    case = next(case for case in FAMILY_CASES if case.model_type == model_type)
    model = make_model(case, "fill-mask", **changes)
    found = inspect(save(model, tmp_path))
    inputs = example_inputs(model)
    reference = torch_outputs(model, found.slim, inputs)
    for target in RUNNABLE:
        assert largest_difference(reference, onnx_outputs(found.slim, inputs, tmp_path, target=target)) < FP32
    slim = slim_module(found.checkpoint, found.slim)
    assert largest_difference(reference, torch_outputs(slim, found.slim, inputs)) < FP32


def test_shared_layers_are_stored_once(tmp_path: Path) -> None:
    case = next(case for case in FAMILY_CASES if case.model_type == "albert")
    found = inspect(save(make_model(case, "fill-mask"), tmp_path))
    assert len(found.slim.layers) == 3
    assert len({id(layer) for layer in found.slim.layers}) == 1
    one = inspect(save(make_model(case, "fill-mask", num_hidden_layers=1), tmp_path / "one"))
    for target in TARGETS.values():
        three_layers, one_layer = (weights_size(build(each.slim, target, FP32_WEIGHTS)) for each in (found, one))
        assert three_layers == one_layer


def test_the_position_limit_is_the_models_own(tmp_path: Path) -> None:
    for case in FAMILY_CASES:
        model = make_model(case, "feature-extraction")
        found = inspect(save(model, tmp_path / case.model_type))
        longest = found.slim.embeddings.max_length
        inputs = example_inputs(model, batch=1, length=longest)
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
        inputs["input_ids"] = inputs["input_ids"].clamp(min=5)
        reference = torch_outputs(model, found.slim, inputs)
        assert largest_difference(reference, onnx_outputs(found.slim, inputs, tmp_path)) < FP32
        assert longest == (38 if case.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 40)
