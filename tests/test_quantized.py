"""8-bit graphs: what is quantized, by which rule, and what it costs in accuracy."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from exporters import runtime
from exporters.encoder import Encoder
from exporters.errors import WriteError
from exporters.onnx.precision import FP32, INT8, Quantization
from exporters.onnx.quantized import quantized_matrix, quantized_rows, weight_scales
from exporters.onnx.serialize import save, weights_size
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build, quantizable_maps
from exporters.tasks import TASKS, Task
from prune_export.verbs.inspect import inspect
from tests.comparing import LIMITS, largest_difference, torch_outputs
from tests.models import FAMILY_CASES, example_inputs, make_model
from tests.models import save as save_model

LAYERS = 3


def encoder_of(task: Task, folder: Path, **changes: Any) -> tuple[Any, Encoder]:
    model = make_model(FAMILY_CASES[0], task, **changes)
    return model, inspect(save_model(model, folder)).slim


def outputs(encoder: Encoder, inputs: dict[str, Any], path: Path, **changes: Any) -> dict[str, Any]:
    save(build(encoder, TARGETS[changes.pop("target", "cpu")], INT8, **changes), path)
    return runtime.run(runtime.create_session(path), {name: value.numpy() for name, value in inputs.items()})


def operations(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_weights_are_rounded_to_127_steps_of_each_output_feature() -> None:
    weight = torch.tensor([[1.27, -0.634, 0.005], [0.0, 0.0, 0.0], [-254.0, 3.0, 1.0]])
    assert weight_scales(weight).tolist() == pytest.approx([0.01, 1 / 127, 2.0])
    rows = quantized_rows(weight)
    assert rows.dtype == torch.int8
    # 0.5 and 1.5 steps go to the even neighbour.
    assert rows.tolist() == [[127, -63, 0], [0, 0, 0], [-127, 2, 0]]
    assert quantized_matrix(weight).tolist() == rows.t().tolist()


@pytest.mark.parametrize("task", TASKS)
def test_every_linear_map_is_quantized_and_fused(task: Task, tmp_path: Path) -> None:
    """Counts, so that nothing is skipped silently: in the file, and in what ONNX Runtime makes of it."""
    _, encoder = encoder_of(task, tmp_path / "model")
    maps = len(quantizable_maps(encoder))
    assert maps == 6 * LAYERS + (2 if task == "fill-mask" else 0)
    path = tmp_path / "model.onnx"
    save(build(encoder, TARGETS["cpu"], INT8), path)
    found = operations(path)
    fused_layers = LAYERS - (task == "text-classification")  # whose last queries are of one token only
    assert found["QAttention"] == fused_layers  # query, key and value
    assert found["MatMulInteger"] == maps - 3 * fused_layers
    heads = {"question-answering": 1, "token-classification": 1, "text-classification": 2}
    assert found["MatMul"] == 2 * (LAYERS - fused_layers) + heads.get(
        task, 0
    )  # attention's products, and the task's head
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    fused = operations(tmp_path / "optimized.onnx")
    assert fused["MatMulInteger"] == 0
    assert fused["QAttention"] == fused_layers
    assert fused["DynamicQuantizeMatMul"] + fused["MatMulIntegerToFloat"] == maps - 3 * fused_layers


def test_one_integer_product_is_what_its_numbers_say(tmp_path: Path) -> None:
    """The same sums from the file's own integers, in numpy: only float rounding may differ."""
    model, encoder = encoder_of("feature-extraction", tmp_path / "model", num_hidden_layers=1)
    inputs = example_inputs(model)
    keep = frozenset(quantizable_maps(encoder)) - {"layer_0/feed_forward/down"}
    path = tmp_path / "model.onnx"
    save(build(encoder, TARGETS["cpu"], INT8, quantization=Quantization(keep_float=keep)), path)
    written = onnx.load(path)
    node = next(node for node in written.graph.node if node.op_type == "MatMulInteger")
    quantize = next(node for node in written.graph.node if node.op_type == "DynamicQuantizeLinear")
    values = {item.name: onnx.numpy_helper.to_array(item) for item in written.graph.initializer}
    for name in (quantize.input[0], node.output[0]):
        written.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(written.SerializeToString(), _plain(), providers=["CPUExecutionProvider"])
    x, product = session.run([quantize.input[0], node.output[0]], {k: v.numpy() for k, v in inputs.items()})
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    steps = np.clip(np.rint(x / scale) + zero, 0, 255)
    expected = (steps - zero).astype(np.int64) @ values[node.input[1]].astype(np.int64)
    assert np.abs(expected - product).max() <= 127  # one value on the edge between two steps moves a sum by one weight
    assert (expected == product).mean() > 0.9


def _plain() -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def test_maps_can_stay_in_floating_point(tmp_path: Path) -> None:
    model, encoder = encoder_of("question-answering", tmp_path / "model")
    inputs = example_inputs(model)
    reference = torch_outputs(model, encoder, inputs)
    path = tmp_path / "model.onnx"
    all_maps = frozenset(quantizable_maps(encoder))
    everything = largest_difference(reference, outputs(encoder, inputs, path))
    assert 1e-4 < everything < LIMITS["int8"]
    nothing = outputs(encoder, inputs, path, quantization=Quantization(keep_float=all_maps))
    assert largest_difference(reference, nothing) < LIMITS["fp32"]
    assert operations(path)["MatMulInteger"] == operations(path)["QAttention"] == 0
    some = frozenset(name for name in all_maps if name.startswith("layer_0"))
    outputs(encoder, inputs, path, quantization=Quantization(keep_float=some))
    assert operations(path)["MatMulInteger"] == 3 * (LAYERS - 1)
    assert operations(path)["QAttention"] == LAYERS - 1
    outputs(encoder, inputs, path, quantization=Quantization(keep_float=frozenset({"layer_0/attention/key"})))
    assert operations(path)["MatMulInteger"] == 3 * LAYERS + 2  # only some projections: no fused operation
    assert operations(path)["QAttention"] == LAYERS - 1
    with pytest.raises(WriteError, match="no linear map is called layer_9/up"):
        build(encoder, TARGETS["cpu"], INT8, quantization=Quantization(keep_float=frozenset({"layer_9/up"})))


def test_a_wrong_scale_is_seen(tmp_path: Path) -> None:
    """The negative control of the limit that these tests use for int8."""
    model, encoder = encoder_of("question-answering", tmp_path / "model")
    inputs = example_inputs(model)
    path = tmp_path / "model.onnx"
    outputs(encoder, inputs, path)
    written = onnx.load(path)
    scales = next(i for i in written.graph.initializer if i.name == "layer_1/feed_forward/down.weight_scale")
    scales.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scales) * 2, scales.name))
    session = runtime.create_session(written.SerializeToString())
    found = runtime.run(session, {name: value.numpy() for name, value in inputs.items()})
    assert largest_difference(torch_outputs(model, encoder, inputs), found) > LIMITS["int8"]


def test_embeddings_in_8_bits(tmp_path: Path) -> None:
    model, encoder = encoder_of("question-answering", tmp_path / "model", vocab_size=2000)
    inputs = example_inputs(model)
    reference = torch_outputs(model, encoder, inputs)
    small = Quantization(embeddings=True)
    for target in ("cpu", "portable"):
        found = outputs(encoder, inputs, tmp_path / "model.onnx", target=target, quantization=small)
        assert largest_difference(reference, found) < LIMITS["int8"]
    whole = weights_size(build(encoder, TARGETS["cpu"], INT8))
    saved = whole - weights_size(build(encoder, TARGETS["cpu"], INT8, quantization=small))
    assert saved == 2000 * (24 * 3 - 4)  # three bytes of four, and one scale a word


@pytest.mark.parametrize("target", ["cpu", "portable"])
@pytest.mark.parametrize("task", TASKS)
def test_static_ranges_are_observed_and_used(task: Task, target: str, tmp_path: Path) -> None:
    model, encoder = encoder_of(task, tmp_path / "model")
    inputs = example_inputs(model)
    path = tmp_path / "model.onnx"
    save(build(encoder, TARGETS[target], FP32, observe=True), path)
    seen = runtime.run(runtime.create_session(path), {name: value.numpy() for name, value in inputs.items()})
    maps = quantizable_maps(encoder)
    ranges = {name: (float(seen[f"{name}:min"]), float(seen[f"{name}:max"])) for name in maps}
    assert all(low < 0 < high for low, high in ranges.values())
    static = Quantization(ranges=ranges)
    found = outputs(encoder, inputs, path, target=target, quantization=static)
    assert largest_difference(torch_outputs(model, encoder, inputs), found) < LIMITS["int8"]
    assert operations(path)["MatMulInteger"] == operations(path)["DynamicQuantizeLinear"] == 0
    # A weight of each map, and each input once: query, key and value share one.
    inputs_quantized = len(maps) - 2 * LAYERS + (task == "text-classification")  # its last queries read one token
    assert operations(path)["QuantizeLinear"] == inputs_quantized
    assert operations(path)["DequantizeLinear"] == inputs_quantized + len(maps)
    # Ranges that have nothing to do with the values clip them.
    wrong = replace(static, ranges=dict.fromkeys(maps, (-0.01, 0.01)))
    clipped = outputs(encoder, inputs, path, target=target, quantization=wrong)
    assert largest_difference(torch_outputs(model, encoder, inputs), clipped) > LIMITS["int8"]


def test_cuda_has_no_int8(tmp_path: Path) -> None:
    _, encoder = encoder_of("question-answering", tmp_path)
    with pytest.raises(WriteError, match=r"int8 is not for the target cuda.*Use fp16"):
        build(encoder, TARGETS["cuda"], INT8)
