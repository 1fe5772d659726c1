"""What a rebuild must not change: bytes of ONNX files, masked weights, metrics and exit codes for a fixed set of inputs.

`python -m tests.test_unchanged` records them anew for the installed transformers; a change on purpose is named in CHANGELOG.
Bits depend on the processor's arithmetic, so a machine whose own arithmetic differs from the recorded one skips.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import prune_export
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.tasks import Task
from prune_export.cli.main import main
from prune_export.families import FAMILIES
from prune_export.verbs.inspect import inspect
from tests.comparing import FORMS
from tests.models import FAMILY_CASES, FAMILY_TASKS, FamilyCase, linear, make_model
from tests.models import save as save_model
from tests.tiny_training import checkpoint_folder, questions_file, tiny_recipe

RECORD = Path(__file__).with_name("unchanged.json")
VERSION = f"transformers-{transformers.__version__.split('.')[0]}"
CUDA_PACKED = [("cuda-packed", "fp32"), ("cuda-packed", "fp16")]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def arithmetic(_: Path) -> str:
    """A forward and a backward pass of an untouched model: the same bits here as where the digests were recorded?"""
    model = make_model(FAMILY_CASES[0], "question-answering")
    ids = torch.arange(60).view(3, 20)
    loss = model(input_ids=ids, start_positions=ids[:, 3], end_positions=ids[:, 7]).loss
    loss.backward()
    tensors = [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]
    return digest(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors))


def onnx_files(case: FamilyCase, task: Task, folder: Path) -> str:
    """All targets and precisions of a network with fewer heads, fewer columns and a block that lost everything."""
    model = make_model(case, task)
    with torch.no_grad():
        linear(model, case, 0, "value").weight[:6] = 0
        linear(model, case, 0, "value").bias[:6] = 0
        if case.model_type != "albert":  # its layers are one
            for name in ("up", "down"):
                linear(model, case, 1, name).weight[:] = 0
        linear(model, case, 2, "up").weight[::3] = 0
        linear(model, case, 2, "up").bias[::3] = 0
    encoder = inspect(save_model(model, folder)).slim
    parts = []
    has_packed = issubclass(FAMILIES[case.model_type].scores_kind, TARGETS["cuda-packed"].scores)
    for target, dtype in FORMS + (CUDA_PACKED if has_packed else []):
        save(build(encoder, TARGETS[target], PRECISIONS[dtype]), folder / "model.onnx")
        parts.append((folder / "model.onnx").read_bytes())
    return digest(b"".join(parts))


def masked(options: dict[str, Any], folder: Path) -> str:
    model, data = checkpoint_folder(folder / "model"), questions_file(folder / "questions.json")
    prune_export.prune(model, data, folder / "out", samples=16, max_seq_length=24, **options)
    return digest((folder / "out/model.safetensors").read_bytes())


def trained(sections: dict[str, Any], folder: Path) -> str:
    result = prune_export.train(tiny_recipe(folder, **sections))
    return digest((result.final / "model.safetensors").read_bytes())


def slim_folder(folder: Path) -> str:
    model = checkpoint_folder(folder / "model")
    prune_export.prune(
        model,
        questions_file(folder / "q.json"),
        folder / "out",
        samples=16,
        max_seq_length=24,
        flops=0.5,
        method="fisher",
    )
    prune_export.slim(folder / "out").save_pretrained(folder / "slim")
    return digest((folder / "slim/slim.safetensors").read_bytes())


def metrics(folder: Path) -> str:
    model, data = checkpoint_folder(folder / "model"), questions_file(folder / "questions.json")
    (found,) = prune_export.evaluate(model, data, max_seq_length=24).results
    return json.dumps(found.metrics)


def exit_codes(folder: Path) -> str:
    """Of commands that succeed, are refused, find no file, miss a limit, and of usage errors."""
    model, data = checkpoint_folder(folder / "model"), questions_file(folder / "questions.json")
    out, masked_to = folder / "onnx", folder / "masked"
    common = ["--max-seq-length", "24"]
    commands = {
        "export": ["--model", str(model), "--output", str(out), "--samples", "4"],
        "export again": ["--model", str(model), "--output", str(out)],
        "no model": ["--model", str(folder / "missing"), "--output", str(folder / "nothing")],
        "no such option": ["--model", str(model), "--outptu", str(out)],
        "verify": ["verify", "--model", str(model), "--onnx", str(out), "--samples", "4"],
        "inspect": ["inspect", "--model", str(model)],
        "evaluate": ["evaluate", "--model", str(model), "--data", str(data), *common],
        "evaluate, too bad": [
            *("evaluate", "--model", str(model), "--data", str(data), *common),
            *("--fail-below", "f1=99"),
        ],
        "prune": [
            *("prune", "--model", str(model), "--calibration", str(data), *common, "--samples", "8"),
            *("--flops", "0.6", "--output", str(masked_to)),
        ],
        "prune to nothing": [
            *("prune", "--model", str(model), "--calibration", str(data), *common),
            *("--flops", "1.5", "--output", str(folder / "no")),
        ],
        "no verb": ["prune-it"],
    }
    codes = {}
    for name, words in commands.items():
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            try:
                codes[name] = main(words)
            except SystemExit as end:
                codes[name] = int(end.code or 0)
    return json.dumps(codes)


INPUTS: dict[str, Callable[[Path], str]] = {
    **{f"onnx, {case}, {task}": partial(onnx_files, case, task) for case, task in FAMILY_TASKS},
    "masked, fisher, flops": partial(masked, {"flops": 0.5, "method": "fisher"}),
    "masked, taylor, parameters": partial(masked, {"parameters": 0.6, "method": "taylor"}),
    "masked, magnitude, heads and columns": partial(
        masked, {"heads": 0.5, "columns": 0.5, "method": "magnitude", "reconstruction": "none"}
    ),
    "masked, at one go": partial(
        masked, {"flops": 0.4, "method": "fisher", "gradual": False, "rearrangement": False, "align": 4}
    ),
    "trained, none": partial(trained, {}),
    "trained, movement": partial(
        trained, {"method": {"kind": "movement", "shape": "struct", "fill": True}, "budget": {"flops": 0.5}}
    ),
    "trained, movement with a threshold": partial(trained, {"method": {"kind": "movement"}}),
    "trained, l0": partial(trained, {"method": {"kind": "l0", "retrain_steps": 3}, "budget": {"flops": 0.5}}),
    "trained, gradual": partial(
        trained,
        {
            "method": {"kind": "gradual", "score": "fisher", "step": 0.75, "recovery_steps": 2, "samples": 8},
            "budget": {"flops": 0.6},
        },
    ),
    "trained, student": partial(
        trained,
        {
            "method": {
                "kind": "student",
                "layers": 1,
                "intermediate_steps": 2,
                "prediction_steps": 2,
                "fine_tuning_steps": 2,
            }
        },
    ),
    "slim": slim_folder,
    "metrics": metrics,
    "exit codes": exit_codes,
}


@contextmanager
def one_thread(cache: Path) -> Iterator[None]:
    """Sums in one order, and nothing from a cache."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setenv("XDG_STATE_HOME", str(cache))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def recorded() -> dict[str, str]:
    found: dict[str, str] = json.loads(RECORD.read_text(encoding="utf-8")).get(VERSION, {})
    with one_thread(RECORD.parent):
        own = arithmetic(RECORD)
    if found.get("arithmetic") != own:
        pytest.skip(f"recorded with another arithmetic, or not for {VERSION}; python -m tests.test_unchanged records")
    return found


@pytest.mark.parametrize("name", INPUTS)
def test_nothing_has_changed(name: str, recorded: dict[str, str], tmp_path: Path) -> None:
    if name.startswith("trained"):
        pytest.importorskip("accelerate")
    with one_thread(tmp_path / "cache"):
        assert INPUTS[name](tmp_path) == recorded[name]


def record() -> None:
    """Writes what is found now."""
    everything = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    found: dict[str, str] = {}
    for name, make in {"arithmetic": arithmetic, **INPUTS}.items():
        with tempfile.TemporaryDirectory() as work, one_thread(Path(work) / "cache"):
            found[name] = make(Path(work))
            print(name, found[name], flush=True)
    everything[VERSION] = found
    RECORD.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    record()
