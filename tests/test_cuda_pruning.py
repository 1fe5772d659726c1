"""Pruning, training and searching on a GPU: choices as on the CPU, checkpoints that export; skipped without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import prune_export
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.options.prune import CalibrationData
from prune_export.pruning import block_timing
from prune_export.pruning.calibration import read_calibration
from prune_export.surgeon.zeros import plan_from_zeros
from prune_export.training.run import train
from tests.comparing import largest_difference, torch_outputs
from tests.tiny_training import checkpoint_folder, questions_file, tiny_recipe

pytestmark = pytest.mark.cuda(by="torch")

GRADUAL = {"kind": "gradual", "step": 0.75, "recovery_steps": 2, "samples": 24}
L0 = {"kind": "l0", "retrain_steps": 3, "initial": "fisher", "initial_samples": 8}
DISTILLATION = {"weight": 0.5, "hidden_weight": 1.0}
HALF = {"flops": 0.5, "sequence_length": 24}
METHODS: dict[str, dict[str, Any]] = {
    "obs": {"method": GRADUAL, "budget": HALF, "distillation": DISTILLATION},
    "own answers": {"method": GRADUAL | {"answers": "network"}, "budget": HALF},
    "fisher": {"method": GRADUAL | {"score": "fisher"}, "budget": HALF},
    "struct": {
        "method": {"kind": "movement", "shape": "struct", "initial": "fisher", "initial_samples": 8},
        "budget": {"flops": 0.5},
        "distillation": DISTILLATION,
    },
    "hybrid": {
        "method": {"kind": "movement", "shape": "hybrid", "block": [8, 8], "fill": True, "fill_steps": 3},
        "budget": {"flops": 0.5},
        "distillation": {"weight": 0.5},
    },
    "l0": {"method": L0, "budget": {"flops": 0.5}, "distillation": DISTILLATION},
    "frozen l0": {"method": L0 | {"frozen": True}, "budget": {"flops": 0.5}},
}


@pytest.mark.parametrize("method", ["obs", "fisher", "taylor", "magnitude"])
def test_a_gpu_prunes_like_the_cpu(method: str, tmp_path: Path) -> None:
    model, data = checkpoint_folder(tmp_path / "model"), questions_file(tmp_path / "questions.json")
    folders = {}
    for device in ("cpu", "cuda"):
        folders[device] = tmp_path / device
        prune_export.prune(model, data, folders[device], flops=0.6, method=method, device=device, max_seq_length=24)
    cpu, cuda = (load_checkpoint(folder) for folder in folders.values())
    assert plan_from_zeros(cpu.encoder) == plan_from_zeros(cuda.encoder)
    inputs = read_calibration(CalibrationData(data, max_seq_length=24), cpu).batches[0]
    outputs = [torch_outputs(load_reference_model(one), one.encoder, inputs) for one in (cpu, cuda)]
    assert largest_difference(*outputs) < 2e-3  # least squares on so little data is ill-conditioned: weights may differ


@pytest.mark.parametrize("trained_on", ["cuda", "cpu"])
@pytest.mark.parametrize("name", METHODS)
def test_training_ends_in_a_checkpoint_that_exports(name: str, trained_on: str, tmp_path: Path) -> None:
    """With `use_cpu`, all of it stays on the CPU."""
    recipe = tiny_recipe(tmp_path, **METHODS[name], trainer={"use_cpu": trained_on == "cpu"})
    allocations = torch.cuda.memory_stats().get("allocation.all.allocated", 0)
    result = train(recipe)
    assert (torch.cuda.memory_stats()["allocation.all.allocated"] > allocations) == (trained_on == "cuda")
    assert prune_export.export(result.final, tmp_path / "onnx").parity.passed


@pytest.mark.parametrize(
    "options",
    [
        {"align": 4, "evaluations": 14},
        {"align": 4, "evaluations": 14, "widths": True},
        {"uniform": True, "evaluations": 4},
    ],
    ids=["ladders", "widths", "uniform"],
)
def test_a_search_on_a_gpu(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_ROUNDS", 1), ("_SECONDS", 0.0), ("_WIDTHS", 4)):
        monkeypatch.setattr(block_timing, name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model, data = checkpoint_folder(tmp_path / "model"), questions_file(tmp_path / "questions.json")
    lengths = {"max_seq_length": 24, "sequence_length": 24}
    found = prune_export.search(model, data, tmp_path / "found", device="cuda", points=3, **lengths, **options)
    assert found.front.points
    assert json.loads((tmp_path / "found/front.json").read_text())["points"]
