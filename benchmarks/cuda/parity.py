"""Step 3: the answers of the targets `cuda` and `cuda-packed` beside those of the Hugging Face models."""

from __future__ import annotations

import time
import traceback
from itertools import product
from pathlib import Path

from benchmarks.cuda.device import check_device
from benchmarks.cuda.networks import REAL, TINY, save_pruned
from benchmarks.cuda.recording import Recorder
from exporters.onnx.targets import TARGETS
from prune_export.verbs.export import export
from prune_export.verbs.verify import verify

FAMILIES = ("bert", "roberta", "distilbert")
MINILM = "minilm-qa-masked"
_SAMPLES = 6


def run(recorder: Recorder) -> None:
    """Every network in both precisions and forms; half precision, which is what a GPU is for, first."""
    work = Path(recorder.settings.work) / "parity"
    networks = [save_pruned(name, REAL if recorder.on_gpu else TINY, work / name) for name in FAMILIES]
    minilm = Path(recorder.settings.data or "") / "models" / MINILM
    if recorder.settings.data and minilm.is_dir() and recorder.on_gpu:
        networks.insert(0, minilm)
    else:
        why = "its files are not here" if recorder.on_gpu else "a real network is not for a walk through"
        recorder.skip(MINILM, why)
    took = 0.0
    for dtype, target, checkpoint in product(("fp16", "fp32"), ("cuda", "cuda-packed"), networks):
        name = f"{checkpoint.name}, {target}, {dtype}"
        if name in recorder.figures:
            continue  # before the process died
        if TARGETS[target].cuda_only and not recorder.on_gpu:
            recorder.skip(name, "not on this device")
        elif name in recorder.settings.left_out:
            recorder.skip(name, "it broke the device before")
        elif recorder.has_time_for(name, 1.5 * took):
            start = time.perf_counter()
            with recorder.first_try(name):
                compare(recorder, name, checkpoint, target, dtype, work / "out" / name.replace(", ", "-"))
            took = max(took, time.perf_counter() - start)


def compare(recorder: Recorder, name: str, checkpoint: Path, target: str, dtype: str, output: Path) -> None:
    """One export beside its original: errors of every output, answers, and the verdict."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        export(checkpoint, output, target=target, dtype=dtype, verify=False)
        report = verify(checkpoint, output, provider=recorder.settings.device, samples=_SAMPLES)
    except Exception:
        recorder.failures.append(f"{name}: {traceback.format_exc()}")
        recorder.figures[name] = {"passed": False}
    else:
        recorder.figures[name] = report.to_json() | {"problems": report.problems()}
        if not report.passed:
            recorder.failures.append(f"{name}: {report.explain()}")
    if recorder.on_gpu:
        check_device()
    recorder.save()
