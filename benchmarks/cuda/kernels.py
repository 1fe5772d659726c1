"""Step 5: which attention kernels ran, by what ONNX Runtime says, by its profiler, and by PyTorch's for the device.

ONNX Runtime names the kernel of each attention node where ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO is set
(contrib_ops/cuda/bert/attention_kernel_options.cc). PyTorch's profiler sees every kernel of the process, ours as well.
"""

from __future__ import annotations

import json
import os
import re
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

from benchmarks.cuda.capture import captured_output
from benchmarks.cuda.device import check_device
from benchmarks.cuda.networks import Network, make
from benchmarks.cuda.recording import Recorder
from benchmarks.cuda.speed import TINY_RUNS, Run
from benchmarks.cuda.structures import README_07, tiny
from exporters import runtime
from exporters.bound import BoundBatch
from exporters.feeding import Limits
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.providers import PROVIDERS
from prune_export.benchmark.inputs import make_batch
from prune_export.benchmark.pytorch_row import prepare_for
from prune_export.benchmark.rows import Conditions, Shape
from prune_export.timing import measure, timed

RUNS = (Run(Shape(8, 384)), Run(Shape(32, 384), padding=0.5), Run(Shape(1, 128)))
FORMS = (("cuda", "fp16"), ("cuda-packed", "fp16"), ("cuda", "fp32"), ("cuda-packed", "fp32"))

# Values of the provider option sdpa_kernel: which kernels an attention node may use.
OWN, PYTORCH = "its own choice", "PyTorch fp16, SDPA"
CHOICES = {OWN: None, "cuDNN": "8", "memory-efficient": "2", "unfused": "16"}
DEBUG_INFO = "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO"
_SHOWN = 12  # kernels of a run, those that took longest
_PROFILED = 3  # runs


def run(recorder: Recorder) -> None:
    """Every form at every shape: kernels by name, nodes by provider, and the time with each choice of attention kernel."""
    structure = README_07 if recorder.on_gpu else tiny(README_07)
    network = make(structure, recorder.settings.device)
    recorder.figures["structure"] = asdict(structure)
    needed = 6.0 if recorder.on_gpu else 0.0
    for target, dtype in FORMS:
        name = f"slim, {target}, {dtype}"
        if name in recorder.figures:
            continue  # before the process died
        if TARGETS[target].cuda_only and not recorder.on_gpu:
            recorder.skip(name, "not on this device")
        elif name in recorder.settings.left_out:
            recorder.skip(name, "it broke the device before")
        elif recorder.has_time_for(name, needed):
            with recorder.first_try(name):
                recorder.figures[name] = {}
                try:
                    onnx_form(network, target, dtype, recorder, recorder.figures[name])
                except Exception:
                    recorder.failures.append(f"{name}: {traceback.format_exc()}")
                if recorder.on_gpu:
                    check_device()
    if recorder.has_time_for(PYTORCH, needed):
        recorder.figures[PYTORCH] = pytorch_kernels(network, recorder)


def onnx_form(network: Network, target: str, dtype: str, recorder: Recorder, found: dict[str, Any]) -> None:
    """Fills `found` for the slim network of one target and precision at all shapes."""
    path = Path(recorder.settings.work) / "kernels" / f"{target}-{dtype}.onnx"
    path.parent.mkdir(exist_ok=True)
    save(build(network.slim, TARGETS[target], PRECISIONS[dtype]), path)
    found["nodes"] = nodes_by_provider(path, recorder)
    chosen = recorder.on_gpu and (target, dtype) == FORMS[0]  # the option is for MultiHeadAttention on CUDA
    for choice in CHOICES if chosen else [OWN]:
        options = {"sdpa_kernel": value} if (value := CHOICES[choice]) else {}
        speaking, silent = (_session(path, recorder, options, debug=debug) for debug in (True, False))
        for one in _runs(recorder):
            found[f"{one}, {choice}"] = _one_run(speaking, silent, _batch(one), recorder)
            recorder.save()


def _session(path: Path, recorder: Recorder, options: Mapping[str, str], *, debug: bool) -> Any:
    """A session that names its attention kernels in every run, or one that costs no time for that."""
    os.environ[DEBUG_INFO] = str(int(debug))  # read when the kernels are made
    return runtime.create_session(path, provider=recorder.settings.device, provider_options=options)


def _one_run(speaking: Any, silent: Any, batch: Mapping[str, NDArray[np.int64]], recorder: Recorder) -> dict[str, Any]:
    fed = runtime.session_inputs(silent, batch)
    if not recorder.on_gpu:
        return {"attention": "not on this device", "kernels": device_kernels(lambda: silent.run(None, fed), recorder)}
    with captured_output() as printed:
        speaking.run(None, fed)
    step = BoundBatch(silent, fed, limits=Limits(), device="cuda", graph=1).run
    kernels = device_kernels(step, recorder)
    milliseconds = measure(timed(step), 0.1)[0]
    return {"attention": attention_kernels(printed), "milliseconds": milliseconds, "kernels": kernels}


def attention_kernels(printed: list[str]) -> dict[str, int]:
    """How many nodes used which kernel, from ONNX Runtime's lines: `Operator=… Node=… SdpaKernel=…`."""
    found: Counter[str] = Counter()
    for line in printed:
        if match := re.search(r"Operator=(\w+).*SdpaKernel=(\w+)", line):
            found[" ".join(match.groups())] += 1
    return dict(found)


def device_kernels(step: Callable[[], object], recorder: Recorder) -> list[dict[str, Any]]:
    """What the device ran, the longest first, with microseconds and calls per run; without a GPU, PyTorch's operations."""
    kind = ProfilerActivity.CUDA if recorder.on_gpu else ProfilerActivity.CPU
    step()
    with profile(activities=[kind]) as profiler:
        for _ in range(_PROFILED):
            step()
        if recorder.on_gpu:
            torch.cuda.synchronize()
    field = "self_device_time_total" if recorder.on_gpu else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, field))
    return [
        {
            "kernel": event.key[:200],
            "microseconds": round(getattr(event, field) / _PROFILED, 1),
            "calls": event.count / _PROFILED,
        }
        for event in events[:_SHOWN]
        if getattr(event, field) > 0
    ]


def nodes_by_provider(path: Path, recorder: Recorder) -> dict[str, Any]:
    """By ONNX Runtime's profiler: how many nodes of each kind run on which provider, and their microseconds in all."""
    module = runtime.onnxruntime()
    runtime.check_provider(recorder.settings.device)
    options = module.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    provider = PROVIDERS[recorder.settings.device].onnxruntime
    session = module.InferenceSession(str(path), options, providers=[provider], enable_fallback=0)
    with captured_output():
        runtime.run(session, _batch(_runs(recorder)[0]))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    counts: Counter[str] = Counter()
    microseconds: Counter[str] = Counter()
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = f"{arguments['op_name']} on {arguments['provider'].removesuffix('ExecutionProvider')}"
            counts[name] += 1
            microseconds[name] += event["dur"]
    return {name: {"nodes": counts[name], "microseconds": microseconds[name]} for name in sorted(counts)}


def pytorch_kernels(network: Network, recorder: Recorder) -> dict[str, Any]:
    """The network before pruning in PyTorch, in half precision."""
    prepare = prepare_for(network.module.half(), network.dense.inputs, recorder.settings.device)
    return {str(one): {"kernels": device_kernels(prepare(_batch(one)), recorder)} for one in _runs(recorder)}


def _runs(recorder: Recorder) -> tuple[Run, ...]:
    return RUNS if recorder.on_gpu else TINY_RUNS


def _batch(one: Run) -> dict[str, NDArray[np.int64]]:
    return make_batch(one.shape, Conditions(threads=1, padding=one.padding))
