"""Residual streams of several widths: exact at full width, like a simulation in all dimensions below; saved and exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from exporters.encoder import Encoder
from exporters.errors import UnsupportedError, UsageError
from exporters.tasks import TASKS, Task
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.slicing.bases import spectra
from prune_export.slicing.slicer import slice_network
from prune_export.slicing.widths import one_width, widths_by_share
from prune_export.slim_model.model import slim_module
from prune_export.surgeon import operate
from prune_export.surgeon.zeros import plan_from_zeros
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, linear, make_model, save

CASES = {case.model_type: case for case in FAMILY_CASES}
BERT, ELECTRA, ALBERT = CASES["bert"], CASES["electra"], CASES["albert"]


def batches_of(model: Any, count: int = 10) -> list[dict[str, Tensor]]:
    return [example_inputs(model, seed=seed) for seed in range(count)]


def read(model: Any, folder: Path, task: Task) -> Checkpoint:
    return load_checkpoint(save(model, folder), task=task)


def answers(checkpoint: Checkpoint, encoder: Encoder, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        outputs = slim_module(checkpoint, encoder)(**inputs)
    return {name: outputs[name] for name in encoder.outputs}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("case", [BERT, ELECTRA, CASES["roberta"], CASES["distilbert"]], ids=str)
def test_full_width_is_the_original(case: FamilyCase, task: Task, tmp_path: Path) -> None:
    """With all directions, and without the mean that LayerNorm subtracts, on inputs that no basis was made of."""
    model = make_model(case, task)
    checkpoint = read(model, tmp_path, task)
    dense, inputs = checkpoint.encoder, example_inputs(model, seed=99)
    bases = spectra(dense, batches_of(model))
    with torch.no_grad():
        expected = model(**inputs)
    for width, refit in ((24, False), (23, False), (24, True)):
        sliced = slice_network(
            dense, dense, batches_of(model), one_width(dense, width), bases=bases, refit=refit
        )
        assert sliced.widths == one_width(dense, width)
        for name, actual in answers(checkpoint, sliced, inputs).items():
            assert (actual - expected[name]).abs().max() < 2e-5, (name, width)


@pytest.mark.parametrize("case", [BERT, ELECTRA], ids=str)
def test_a_pruned_network_is_sliced_as_well(case: FamilyCase, tmp_path: Path) -> None:
    """With fewer heads and columns, and blocks that are constants."""
    model = make_model(case, "question-answering")
    with torch.no_grad():
        linear(model, case, 0, "value").weight[:6] = 0
        linear(model, case, 1, "value").weight[:] = 0
        linear(model, case, 1, "down").weight[:] = 0
        linear(model, case, 2, "up").weight[::3] = 0
    checkpoint = read(model, tmp_path, "question-answering")
    pruned = operate(checkpoint.encoder, plan_from_zeros(checkpoint.encoder))
    inputs = example_inputs(model, seed=99)
    sliced = slice_network(checkpoint.encoder, pruned, batches_of(model), one_width(pruned, 23), refit=False)
    with torch.no_grad():
        expected = model(**inputs)
    for name, actual in answers(checkpoint, sliced, inputs).items():
        assert (actual - expected[name]).abs().max() < 2e-5
    assert [type(layer.attention).__name__ for layer in sliced.layers] == ["Attention", "ConstantBlock", "Attention"]


def simulated(model: Any, vectors: list[Any], scales: list[float], inputs: dict[str, Tensor]) -> dict[str, Any]:
    """A BERT for questions in NumPy, in all dimensions, whose norms project what they normalize onto `vectors` `[24, k]`."""
    weights = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    heads, size, epsilon = 4, 6, model.config.layer_norm_eps

    def apply(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(z: Any, name: str, index: int) -> Any:
        basis = vectors[index]
        kept = (z - z.mean(-1, keepdims=True)) @ basis @ basis.T
        n = scales[index] * kept / np.sqrt((kept**2).sum(-1, keepdims=True) / 24 + epsilon)
        return n * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def split(x: Any) -> Any:
        return x.reshape(*x.shape[:2], heads, size).transpose(0, 2, 1, 3)

    ids, types = inputs["input_ids"].numpy(), inputs["token_type_ids"].numpy()
    tables = "bert.embeddings.{}_embeddings.weight"
    x = weights[tables.format("word")][ids] + weights[tables.format("token_type")][types]
    x = norm(x + weights[tables.format("position")][: ids.shape[1]], "bert.embeddings.LayerNorm", 0)
    bias = np.where(inputs["attention_mask"].numpy() == 1, 0.0, -1e30)[:, None, None, :]
    for index in range(3):
        layer = f"bert.encoder.layer.{index}"
        query, key, value = (split(apply(x, f"{layer}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(size) + bias
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = chances / chances.sum(-1, keepdims=True) @ value
        update = apply(mixed.transpose(0, 2, 1, 3).reshape(x.shape), f"{layer}.attention.output.dense")
        x = norm(x + update, f"{layer}.attention.output.LayerNorm", 2 * index + 1)
        inner = apply(x, f"{layer}.intermediate.dense")
        inner = torch.nn.functional.gelu(torch.from_numpy(inner)).numpy()
        x = norm(x + apply(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm", 2 * index + 2)
    logits = apply(x, "qa_outputs")
    return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}


def test_a_narrow_network_is_its_simulation_in_all_dimensions(tmp_path: Path) -> None:
    model = make_model(BERT, "question-answering")
    checkpoint = read(model, tmp_path, "question-answering")
    batches, widths = batches_of(model), (20, 9, 16, 12, 5, 24, 3)
    bases = spectra(checkpoint.encoder, batches)
    sliced = slice_network(checkpoint.encoder, checkpoint.encoder, batches, widths, bases=bases, refit=False)
    assert sliced.widths == widths
    assert [tuple(layer.attention_skip.shape) for layer in sliced.layers] == [(9, 20), (12, 16), (24, 5)]  # type: ignore[union-attr]
    assert sliced.embeddings.word.shape == (61, 20)
    vectors = [basis.vectors[:, :width].numpy() for basis, width in zip(bases, widths, strict=True)]
    scales = [np.sqrt(basis.variance(width)) for basis, width in zip(bases, widths, strict=True)]
    inputs = example_inputs(model, seed=99)
    expected = simulated(model, vectors, scales, inputs)
    for name, actual in answers(checkpoint, sliced, inputs).items():
        np.testing.assert_allclose(actual.numpy(), expected[name], atol=2e-5)
    everything = simulated(model, [np.eye(24)] * 7, [1.0] * 7, inputs)
    with torch.no_grad():
        np.testing.assert_allclose(model(**inputs).start_logits.numpy(), everything["start_logits"], atol=2e-5)
    assert np.abs(everything["start_logits"] - expected["start_logits"]).max() > 0.1  # slicing is no small change here
