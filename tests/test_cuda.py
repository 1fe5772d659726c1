"""The CUDA target on ONNX Runtime's CUDA provider; skipped where that does not start."""

from __future__ import annotations

from pathlib import Path

import pytest

import prune_export
from exporters import runtime
from exporters.errors import ProviderError
from exporters.tasks import Task
from prune_export.verbs.inspect import inspect
from tests.comparing import largest_difference, onnx_outputs, torch_outputs
from tests.models import FAMILY_CASES, FAMILY_TASKS, FamilyCase, example_inputs, linear, make_model, save


@pytest.mark.cuda
@pytest.mark.parametrize(("case", "task"), FAMILY_TASKS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-2)])
def test_cuda_answers_like_pytorch(case: FamilyCase, task: Task, dtype: str, tolerance: float, tmp_path: Path) -> None:
    model = make_model(case, task)
    linear(model, case, 0, "value").weight.data[:6] = 0
    linear(model, case, 0, "up").weight.data[::2] = 0
    encoder = inspect(save(model, tmp_path)).slim
    inputs = example_inputs(model)
    reference = torch_outputs(model, encoder, inputs)
    found = onnx_outputs(encoder, inputs, tmp_path, target="cuda", dtype=dtype, provider="cuda")
    assert largest_difference(reference, found) < tolerance


@pytest.mark.cuda
@pytest.mark.parametrize("target", ["cuda", "cuda-packed"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_cuda_parity_of_the_real_network(dtype: str, target: str, shared: Path, tmp_path: Path) -> None:
    result = prune_export.export(shared / "models" / "minilm-qa-masked", tmp_path / "out", target=target, dtype=dtype)
    assert result.parity is not None
    assert result.parity.provider == "CUDAExecutionProvider"
    assert result.parity.passed


def cuda_starts() -> bool:
    try:
        runtime.check_provider("cuda")
    except ProviderError:
        return False
    return True


def test_a_provider_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """ONNX Runtime itself would run on the CPU and only log it."""
    if cuda_starts():
        pytest.skip("CUDA starts here")
    checkpoint = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path / "checkpoint")
    result = prune_export.export(checkpoint, tmp_path / "out", target="cuda", samples=4)
    assert result.parity is not None
    assert result.parity.provider == "CPUExecutionProvider"
    assert any("parity ran on CPUExecutionProvider" in note for note in result.notes)
    with pytest.raises(ProviderError, match="CUDAExecutionProvider"):
        prune_export.verify(checkpoint, tmp_path / "out")
    assert prune_export.verify(checkpoint, tmp_path / "out", provider="cpu").passed
