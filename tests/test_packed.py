"""Padding removal. Its attention has no kernel on CPUs: onnx's reference evaluator runs the graphs, with that operation (and
two more of ONNX Runtime's) done in numpy as ONNX Runtime documents them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import prune_export
from exporters import runtime
from exporters.errors import OutputError, ProviderError
from exporters.onnx.builder import CONTRIB
from exporters.onnx.precision import FP32
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.tasks import TASKS, Task
from prune_export.parity.check import compare, one_ahead
from prune_export.parity.inputs import Case
from prune_export.parity.tolerance import TOLERANCES
from prune_export.tasks import SPECS
from prune_export.verbs.inspect import inspect
from tests.comparing import torch_outputs
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, linear, make_model
from tests.models import save as save_model

Array = np.ndarray


class PackedMultiHeadAttention(OpRun):
    op_domain = CONTRIB

    def _run(
        self, query: Array, key: Array, value: Array, _bias: Any, offsets: Array, lengths: Array, **named: Any
    ) -> Any:
        heads, scale = named["num_heads"], named["scale"]
        assert offsets.dtype == lengths.dtype == np.int32
        batch, length = offsets.shape
        tokens = lengths[-1]
        assert query.shape[0] == tokens
        places = offsets.reshape(-1)[:tokens]
        assert sorted(offsets.reshape(-1)) == list(range(batch * length))

        def unpack(rows: Array) -> Array:
            whole = np.zeros((batch * length, rows.shape[1]), rows.dtype)
            whole[places] = rows
            return whole.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)

        scores = scale * unpack(query) @ unpack(key).swapaxes(-1, -2)
        absent = np.arange(length) >= np.diff(lengths)[:, None]  # the first ones of a row are its tokens
        scores = np.where(absent[:, None, None, :], -np.inf, scores)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        contexts = weights / weights.sum(-1, keepdims=True) @ unpack(value)
        return (contexts.transpose(0, 2, 1, 3).reshape(batch * length, -1)[places].astype(query.dtype),)


class SkipLayerNormalization(OpRun):
    op_domain = CONTRIB

    def _run(self, x: Array, skip: Array, weight: Array, bias: Array, epsilon: float = 0.0) -> Any:
        total = x + skip
        centred = total - total.mean(-1, keepdims=True)
        return (centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * weight + bias,)


class Gelu(OpRun):
    op_domain = CONTRIB

    def _run(self, x: Array, approximate: Any = None) -> Any:  # the reference evaluator takes it for ai.onnx's Gelu
        assert approximate in (None, "none")
        return (torch.nn.functional.gelu(torch.from_numpy(x)).numpy(),)


def runner(path: Path) -> Callable[[Any], dict[str, Array]]:
    model = onnx.load(path)
    evaluator = ReferenceEvaluator(model, new_ops=[PackedMultiHeadAttention, SkipLayerNormalization, Gelu])
    names = [output.name for output in model.graph.output]
    taken = [value.name for value in model.graph.input]
    return lambda inputs: dict(zip(names, evaluator.run(None, {name: inputs[name] for name in taken}), strict=True))


@pytest.mark.parametrize(
    ("case", "task"),
    [*((FAMILY_CASES[0], task) for task in TASKS), (FAMILY_CASES[1], "question-answering")],  # positions from padding
    ids=str,
)
def test_real_tokens_answer_as_before(case: FamilyCase, task: Task, tmp_path: Path) -> None:
    """Rows padded right, left and not at all; one layer without attention, one without columns."""
    model = make_model(case, task)
    linear(model, case, 0, "attention_output").weight.data.zero_()
    linear(model, case, 1, "down").weight.data.zero_()
    linear(model, case, 1, "value").weight.data[:6] = 0
    encoder = inspect(save_model(model, tmp_path)).slim
    inputs = example_inputs(model)
    path = tmp_path / "model.onnx"
    save(build(encoder, TARGETS["cuda-packed"], FP32), path)
    reference = torch_outputs(model, encoder, inputs)
    arrays = {name: value.numpy() for name, value in inputs.items()}
    case_of = Case("padded", arrays)

    def verdict(run: Callable[[Any], Any], *, padding: bool = False) -> bool:
        answered = one_ahead(lambda _: reference, [case_of])
        (result,) = compare(answered, {"ONNX": (run, TOLERANCES["fp32"])}, spec=SPECS[task], padding=padding)
        assert result.problem is None
        return result.passed

    run = runner(path)
    assert verdict(run)
    assert not verdict(run, padding=True)  # padding is zeros, not what PyTorch computes for it
    if not encoder.head.reads_first_token_only:
        for values in run(arrays).values():
            assert not values[arrays["attention_mask"] == 0].any()
    damaged = onnx.load(path)
    weight = next(item for item in damaged.graph.initializer if item.name == "layer_2/attention/value.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.5, weight.name))
    onnx.save(damaged, path)
    assert not verdict(runner(path))


def test_onnx_runtime_accepts_the_graph_and_lacks_only_the_kernel(tmp_path: Path) -> None:
    """Types and shapes are checked before kernels are looked for."""
    encoder = inspect(save_model(make_model(FAMILY_CASES[0], "question-answering"), tmp_path)).slim
    save(build(encoder, TARGETS["cuda-packed"], FP32), tmp_path / "model.onnx")
    with pytest.raises(OutputError, match=r"implementation for PackedMultiHeadAttention"):
        runtime.create_session(tmp_path / "model.onnx")


def test_exporting_without_cuda_says_what_to_do(tmp_path: Path) -> None:
    try:
        runtime.check_provider("cuda")
    except ProviderError:
        pass
    else:
        pytest.skip("CUDA starts here")
    checkpoint = save_model(make_model(FAMILY_CASES[0], "question-answering"), tmp_path / "model")
    with pytest.raises(ProviderError, match=r"cuda-packed run on ONNX Runtime's CUDA provider only.*--no-verify"):
        prune_export.export(checkpoint, tmp_path / "out", target="cuda-packed")
    prune_export.export(checkpoint, tmp_path / "out", target="cuda-packed", verify=False)
    with pytest.raises(ProviderError, match="CUDAExecutionProvider"):
        prune_export.verify(checkpoint, tmp_path / "out")
