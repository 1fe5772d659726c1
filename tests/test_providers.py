"""Providers: what each one says of its device, and that nothing compares their names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import prune_export
from exporters import runtime
from exporters.errors import MissingDependencyError, ProviderError, UsageError
from exporters.onnx.precision import FP32, INT8
from exporters.onnx.targets import TARGETS
from exporters.onnx.targets.choice import available_provider, resolve_target
from exporters.providers import CPU, CUDA, PROVIDERS, find_provider, torch_provider

PACKAGES = Path(prune_export.__file__).parents[1]


def test_a_provider_is_found_by_its_name() -> None:
    assert [find_provider(name) for name in ("cpu", "cuda")] == [CPU, CUDA]
    assert PROVIDERS == {"cpu": CPU, "cuda": CUDA}
    for name in ("gpu", "CPU", "CUDAExecutionProvider", ""):
        with pytest.raises(UsageError, match=f"provider '{name}': expected one of cpu, cuda"):
            find_provider(name)


def test_pytorch_is_asked_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_cuda in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_cuda=has_cuda: has_cuda)
        assert torch_provider() is (CUDA if has_cuda else CPU)
        CPU.check_torch()
    CUDA.check_torch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ProviderError, match=r"^PyTorch finds no CUDA device here; use --provider cpu$"):
        CUDA.check_torch()
    with pytest.raises(ProviderError, match="use --device cpu"):
        CUDA.check_torch("--device")
    waited: list[int] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(1))
    CPU.synchronize()
    assert not waited
    CUDA.synchronize()
    assert waited


@pytest.mark.parametrize("error", [None, ProviderError("no"), MissingDependencyError("no")])
def test_auto_is_cuda_where_it_starts(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def check(name: str) -> None:
        asked.append(name)
        if error is not None:
            raise error

    monkeypatch.setattr(runtime, "check_provider", check)
    expected = CUDA if error is None else CPU
    assert available_provider() is expected
    assert resolve_target("auto", FP32, needs_runtime=False) is TARGETS[expected.name]
    assert asked == ["cuda", "cuda"]
    assert resolve_target("auto", INT8, needs_runtime=False) is TARGETS["cpu"]  # the one that multiplies int8
    assert asked == ["cuda", "cuda"]


def test_no_module_compares_a_providers_name() -> None:
    """`provider == "cuda"`, or a name in a tuple of names."""
    found = []
    for package in ("exporters", "prune_export"):
        for path in sorted((PACKAGES / package).rglob("*.py")):
            name = path.relative_to(PACKAGES).as_posix()
            for node in ast.walk(ast.parse(path.read_text())):
                sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
                sides += [
                    part for side in sides if isinstance(side, ast.Tuple | ast.List | ast.Set) for part in side.elts
                ]
                if any(isinstance(side, ast.Constant) and side.value in PROVIDERS for side in sides):
                    found.append(f"{name}:{node.lineno}")
    # Columns of /proc/stat.
    assert [place for place in found if not place.startswith("prune_export/benchmark/other_processes.py")] == []
