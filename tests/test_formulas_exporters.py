"""Graphs against Hugging Face's model where a small constant matters, and 8-bit steps against NumPy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import prune_export
from exporters.encoder import ConstantBlock, map_layers
from exporters.onnx.builder import CONTRIB
from exporters.onnx.precision import FP32, PRECISIONS
from exporters.onnx.quantized import _scale_and_zero_point, quantized_matrix, quantized_rows, weight_scales
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.tasks import Task
from tests.comparing import LIMITS, RUNNABLE, largest_difference, onnx_outputs, torch_outputs
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, linear, make_model
from tests.models import save as save_model
from tests.test_packed import runner

BERT = FAMILY_CASES[0]
NORMS = ("LayerNormalization", "SkipLayerNormalization")


@pytest.mark.parametrize("case", [case for case in FAMILY_CASES if case.model_type != "distilbert"], ids=str)
@pytest.mark.parametrize("target", RUNNABLE)
def test_every_norm_has_the_models_epsilon(case: FamilyCase, target: str, tmp_path: Path) -> None:
    """One so large that no answer is right without it; DistilBERT has no such key."""
    model = make_model(case, "fill-mask", **{case.epsilon: 0.75})
    encoder = prune_export.inspect(save_model(model, tmp_path)).slim
    inputs = example_inputs(model)
    reference = torch_outputs(model, encoder, inputs)
    assert largest_difference(reference, onnx_outputs(encoder, inputs, tmp_path, target=target)) < LIMITS["fp32"]
    other = make_model(case, "fill-mask", **{case.epsilon: 1e-12})
    assert largest_difference(reference, torch_outputs(other, encoder, inputs)) > 100 * LIMITS["fp32"]


@pytest.mark.parametrize("target", TARGETS)
def test_norms_of_every_target_say_their_epsilon(target: str, tmp_path: Path) -> None:
    """ONNX Runtime's default, 1e-12, is no model's; ONNX's, 1e-5, is not BERT's. One block each is a constant."""
    model = make_model(BERT, "question-answering", layer_norm_eps=3e-3)
    linear(model, BERT, 0, "attention_output").weight.data.zero_()
    linear(model, BERT, 1, "down").weight.data.zero_()
    encoder = prune_export.inspect(save_model(model, tmp_path)).slim
    save(build(encoder, TARGETS[target], FP32), tmp_path / "model.onnx")
    nodes = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type in NORMS]
    assert len(nodes) == 1 + 2 * 3
    for node in nodes:
        found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert found["epsilon"] == np.float32(3e-3)
        assert node.domain == (CONTRIB if node.op_type == "SkipLayerNormalization" else "")


def test_packed_norms_answer_with_their_epsilon(tmp_path: Path) -> None:
    model = make_model(BERT, "question-answering", layer_norm_eps=0.75)
    encoder = prune_export.inspect(save_model(model, tmp_path)).slim
    save(build(encoder, TARGETS["cuda-packed"], FP32), tmp_path / "model.onnx")
    inputs = example_inputs(model)
    reference = torch_outputs(model, encoder, inputs)
    found = runner(tmp_path / "model.onnx")({name: value.numpy() for name, value in inputs.items()})
    real = inputs["attention_mask"].numpy() == 1
    for name, expected in reference.items():
        np.testing.assert_allclose(found[name][real], expected[real], atol=1e-4)


@pytest.mark.parametrize("target", RUNNABLE)
def test_norms_without_epsilon_multiply_and_add(target: str, tmp_path: Path) -> None:
    """Compares a network of nothing but such norms and constants, as MobileBERT has them, with NumPy."""
    model = make_model(BERT, "feature-extraction")
    encoder = prune_export.inspect(save_model(model, tmp_path), task="feature-extraction").slim
    one, two = torch.linspace(-1, 1, 24), torch.linspace(2, 3, 24)
    encoder = replace(
        encoder, embeddings=replace(encoder.embeddings, norm=replace(encoder.embeddings.norm, epsilon=None))
    )
    encoder = map_layers(
        encoder,
        lambda _, layer: replace(
            layer,
            attention=ConstantBlock(one),
            feed_forward=ConstantBlock(two),
            attention_norm=replace(layer.attention_norm, epsilon=None),
            feed_forward_norm=replace(layer.feed_forward_norm, epsilon=None),
        ),
    )
    inputs = example_inputs(model)
    tables = model.embeddings
    with torch.no_grad():
        x = tables.word_embeddings(inputs["input_ids"]) + tables.token_type_embeddings(inputs["token_type_ids"])
        x = (x + tables.position_embeddings.weight[:17]).numpy()
    x = x * tables.LayerNorm.weight.detach().numpy() + tables.LayerNorm.bias.detach().numpy()
    for layer in model.encoder.layer:
        for constant, norm in ((one, layer.attention.output.LayerNorm), (two, layer.output.LayerNorm)):
            x = (x + constant.numpy()) * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    found = onnx_outputs(encoder, inputs, tmp_path, target=target)["last_hidden_state"]
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("task", ["question-answering", "text-classification"])
def test_key_and_value_biases_are_added_where_they_are_kept(task: Task, target: str, tmp_path: Path) -> None:
    """The surgeon folds them; the graph of an encoder that has them is right without it."""
    model = make_model(BERT, task)
    encoder = prune_export.inspect(save_model(model, tmp_path)).checkpoint.encoder
    inputs = example_inputs(model)
    reference = torch_outputs(model, encoder, inputs)
    assert largest_difference(reference, onnx_outputs(encoder, inputs, tmp_path, target=target)) < LIMITS["fp32"]


def test_weights_are_rounded_to_steps_of_their_rows() -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    array = weight.numpy()
    scales = np.abs(array).max(axis=1) / 127
    np.testing.assert_allclose(weight_scales(weight)[[0, 1, 3, 4]], scales[[0, 1, 3, 4]], rtol=1e-6)
    steps = np.round(array / np.where(scales > 0, scales, 1)[:, None])
    np.testing.assert_array_equal(quantized_rows(weight), steps)
    np.testing.assert_array_equal(quantized_matrix(weight), steps.T)
    assert quantized_rows(weight).dtype == torch.int8
    assert np.abs(steps).max() == 127


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (-5.0, 2.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)])
def test_steps_cover_what_was_observed_and_zero(low: float, high: float) -> None:
    scale, zero = _scale_and_zero_point((low, high), signed=False)
    assert zero.dtype == np.uint8
    ends = [(0 - int(zero)) * scale, (255 - int(zero)) * scale]
    least, most = min(low, 0.0), max(high, 0.0)
    assert ends[0] == pytest.approx(least, abs=scale / 2)
    assert ends[1] == pytest.approx(most if most > least else 1.0, abs=scale / 2)
    assert scale == pytest.approx((most - least or 1.0) / 255)
    scale, zero = _scale_and_zero_point((low, high), signed=True)
    assert (zero, zero.dtype) == (0, np.int8)
    assert scale == pytest.approx((max(abs(least), most) or 1.0) / 127)


def test_fp16_keeps_norms_and_softmax_in_float32(tmp_path: Path) -> None:
    encoder = prune_export.inspect(save_model(make_model(BERT, "question-answering"), tmp_path)).slim
    save(build(encoder, TARGETS["portable"], PRECISIONS["fp16"]), tmp_path / "model.onnx")
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "model.onnx"))
    types = {value.name: value.type.tensor_type.elem_type for value in [*model.graph.value_info, *model.graph.output]}
    for node in model.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert types[node.output[0]] == onnx.TensorProto.FLOAT
        if node.op_type == "MatMul":
            assert types[node.output[0]] == onnx.TensorProto.FLOAT16


def test_lengths_are_rounded_up_only_where_there_are_positions_for_it() -> None:
    fp16 = PRECISIONS["fp16"]
    assert TARGETS["cuda"].settings(fp16, 512).length_multiple == 8
    assert TARGETS["cuda"].settings(fp16, 514).length_multiple == 1
    assert TARGETS["cuda"].settings(FP32, 520).length_multiple == 1
    assert TARGETS["portable"].settings(fp16, 514).length_multiple == 1
