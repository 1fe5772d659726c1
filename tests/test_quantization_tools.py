"""Quantization tools of others on our exports: they find the type of every value, and the answers stay close."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import prune_export
from exporters import runtime
from tests.models import example_inputs, save
from tests.test_formats import masked_model

# Weights and activations of these networks in 8 bits; a wrong scale or a lost block is off by as much as the logits are.
CLOSE = 0.1


def answers_close(one: Path, other: Path) -> None:
    inputs = {name: value.numpy() for name, value in example_inputs(masked_model()).items()}
    expected, found = (runtime.run(runtime.create_session(path), inputs) for path in (one, other))
    for name, values in expected.items():
        assert np.abs(found[name] - values).max() < CLOSE * np.abs(values).max()


@pytest.mark.parametrize("target", ["cpu", "cuda", "portable"])
def test_quantize_dynamic(target: str, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    folder = save(masked_model(), tmp_path / "model")
    model = prune_export.export(folder, tmp_path / "out", target=target, samples=4).model
    quantize_dynamic(model, tmp_path / "int8.onnx")
    operations = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    fused = (
        3 if target == "cpu" else 0
    )  # query, key and value of a layer lie in one operation there, which stays as it is
    assert operations.count("MatMulInteger") >= 3 * (6 - fused) + 1
    answers_close(model, tmp_path / "int8.onnx")


def test_optimums_quantizer(tmp_path: Path) -> None:
    optimum = pytest.importorskip("optimum.onnxruntime")
    folder = save(masked_model(), tmp_path / "model")
    model = prune_export.export(folder, tmp_path / "out", target="cpu", samples=4).model
    quantizer = optimum.ORTQuantizer.from_pretrained(tmp_path / "out", file_name="model.onnx")
    how = optimum.AutoQuantizationConfig.avx2(is_static=False, per_channel=False)
    quantizer.quantize(save_dir=tmp_path / "int8", quantization_config=how)
    answers_close(model, tmp_path / "int8" / "model_quantized.onnx")
