"""Step 4: one structure in every form, measured in alternating rounds of one process.

Several networks share a process here, unlike in `prune-export bench`: starting a process takes most of ten seconds on a GPU
machine, and threads of one do not disturb the others where a device does the work.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cuda.device import check_device
from benchmarks.cuda.machine import nvidia_smi
from benchmarks.cuda.networks import Network, make
from benchmarks.cuda.recording import Recorder
from benchmarks.cuda.structures import STRUCTURES, tiny
from exporters.cost import layer_shape
from exporters.encoder import Encoder
from exporters.onnx.precision import FP16
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.session import SessionSettings
from prune_export.benchmark import onnx_row
from prune_export.benchmark.cost import cost_of_layers
from prune_export.benchmark.inputs import lengths, make_batch
from prune_export.benchmark.process import Measured
from prune_export.benchmark.pytorch_row import prepare_for
from prune_export.benchmark.results import spread
from prune_export.benchmark.rounds import compare_rows
from prune_export.benchmark.rows import Conditions, Cost, Row, Shape
from prune_export.timing import measure

PYTORCH, COMPILED = "PyTorch fp16, SDPA", "torch.compile fp16"
DENSE, PLAIN, GRAPHS, PACKED = "dense ONNX fp16", "slim fp16", "slim fp16, CUDA graphs", "slim fp16, packed"

Prepare = Callable[[Mapping[str, NDArray[np.int64]]], Callable[[], float]]


@dataclass(frozen=True, slots=True)
class Run:
    """One batch to measure; `padding` is the fraction of its tokens that are padding."""

    shape: Shape
    padding: float = 0.0

    def __str__(self) -> str:
        return f"{self.shape}, {self.padding:.0%} padding" if self.padding else str(self.shape)


@dataclass(frozen=True, slots=True)
class Form:
    """One network in one form: what prepares a batch for it, and what it costs."""

    name: str
    prepare: Prepare
    cost: Cost


# The first ones tell most, should time run out.
RUNS = (
    Run(Shape(1, 128)),
    Run(Shape(8, 384)),
    Run(Shape(32, 384), padding=0.5),
    Run(Shape(32, 128)),
    Run(Shape(1, 384)),
    Run(Shape(32, 384)),
    Run(Shape(8, 128)),
)
TINY_RUNS = (Run(Shape(1, 16)), Run(Shape(4, 32), padding=0.5))
_COMPILED_RUNS = 3  # each shape is compiled anew
ROUNDS = 5
SECONDS = {"cuda": 0.06, "cpu": 0.01}  # of a form and round
_COMPILING = {"cuda": 45.0, "cpu": 2.0}  # guessed, until one was compiled
_MARGIN = 1.3
_FIRST_RUNS = 4  # compiled modules and sessions record their CUDA graphs in one of these


def run(recorder: Recorder) -> None:
    """Figures per batch: milliseconds of every round, ratios to PyTorch in the same round, and the ratio of FLOPs."""
    name, _, compiled = recorder.part.partition(", ")
    structure = STRUCTURES[name] if recorder.on_gpu else tiny(STRUCTURES[name])
    start = time.perf_counter()
    network = make(structure, recorder.settings.device)
    names = (GRAPHS if recorder.on_gpu else PLAIN,) if compiled else (DENSE, PLAIN, GRAPHS, PACKED)
    forms = [pytorch_form(network, recorder), *onnx_forms(network, recorder, names)]
    if compiled:
        forms.append(torch_compiled(network, recorder))
    batches = recorder.figures.setdefault("batches", {})
    recorder.figures |= {
        "structure": asdict(structure),
        "attention of PyTorch": network.module.config._attn_implementation,
        "prepared in seconds": round(time.perf_counter() - start, 1),
        "rounds": ROUNDS,
        "seconds of a form and round": SECONDS[recorder.settings.device],
        "nvidia-smi before": nvidia_smi() if recorder.on_gpu else None,
    }
    recorder.save()
    needed = _COMPILING[recorder.settings.device] if compiled else 0.0
    for one in _runs(recorder.on_gpu, compiled=bool(compiled)):
        if str(one) in batches:
            continue  # measured by a process that died later
        if recorder.has_time_for(str(one), needed):
            start = time.perf_counter()
            found = measure_all(forms, one, structure.vocabulary, recorder)
            if found is not None:
                batches[str(one)] = found
            needed = _MARGIN * (time.perf_counter() - start)
            recorder.save()
    if recorder.on_gpu:
        recorder.figures["nvidia-smi after"] = nvidia_smi()


def _runs(on_gpu: bool, *, compiled: bool) -> tuple[Run, ...]:
    runs = RUNS if on_gpu else TINY_RUNS
    return runs[:_COMPILED_RUNS] if compiled else runs


def measure_all(forms: Sequence[Form], one: Run, vocabulary: int, recorder: Recorder) -> dict[str, Any] | None:
    """One batch in all forms that can run it; the first, measured again at the end of each round, is the baseline."""
    conditions = Conditions(threads=1, padding=one.padding, vocabulary=vocabulary)
    batch = make_batch(one.shape, conditions)
    ready = [(form, timed) for form in forms if (timed := _first_run(form, one, batch, recorder)) is not None]
    if not ready:
        return None
    seconds = SECONDS[recorder.settings.device]
    times: list[list[Measured]] = []
    for _ in range(ROUNDS):
        order = [*ready, ready[0]]
        times.append([Measured(measure(timed, seconds)[0], None) for _, timed in order])
    result = compare_rows(one.shape, [form.name for form, _ in ready], [form.cost for form, _ in ready], times)
    rows = {
        latency.row: {
            "milliseconds": spread(latency.milliseconds),
            "speed-up": spread(latency.speed_ups),
            "ratio of FLOPs": latency.flops_speed_up,
        }
        for latency in result.rows
    }
    return {
        "tokens of each sequence": lengths(one.shape, one.padding),
        "baseline": ready[0][0].name,
        "noise": result.noise,
        "forms": rows,
    }


def _first_run(
    form: Form, one: Run, batch: Mapping[str, NDArray[np.int64]], recorder: Recorder
) -> Callable[[], float] | None:
    """What runs `form` on the batch, once it ran; None, recorded, where it cannot."""
    what = f"{form.name} at {one}"
    if form.name in recorder.settings.left_out:
        recorder.skip(what, "it broke the device before")
        return None
    with recorder.first_try(form.name):
        try:
            timed = form.prepare(batch)
            for _ in range(_FIRST_RUNS):
                timed()
        except Exception:
            recorder.failures.append(f"{what}: {traceback.format_exc()}")
            timed = None
        if recorder.on_gpu:
            check_device()
    return timed


def pytorch_form(network: Network, recorder: Recorder) -> Form:
    """The network before pruning as transformers runs it, in half precision."""
    module = network.module.half()
    return Form(PYTORCH, prepare_for(module, network.dense.inputs, recorder.settings.device), _cost(network.dense))


def torch_compiled(network: Network, recorder: Recorder) -> Form:
    """The same compiled for each shape, with CUDA graphs; without a GPU through every step but the compiler itself."""
    options: dict[str, Any] = {"mode": "reduce-overhead"} if recorder.on_gpu else {"backend": "aot_eager"}
    recorder.figures["torch.compile"] = options | {"dynamic": False}
    module = torch.compile(network.module, dynamic=False, **options)
    return Form(COMPILED, prepare_for(module, network.dense.inputs, recorder.settings.device), _cost(network.dense))


def onnx_forms(network: Network, recorder: Recorder, names: Sequence[str]) -> list[Form]:
    """Those of `names` that load on this device, loaded."""
    forms: list[Form] = []
    for name in names:
        encoder = network.dense if name == DENSE else network.slim
        target, graphs = TARGETS["cuda-packed" if name == PACKED else "cuda"], name == GRAPHS
        if not recorder.on_gpu and (target.cuda_only or graphs):
            recorder.skip(name, "not on this device")
        elif name in recorder.settings.left_out:
            recorder.skip(name, "it broke the device before")
        else:
            path = Path(recorder.settings.work) / recorder.part.replace("/", "-") / f"{len(forms)}.onnx"
            with recorder.first_try(name):
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    save(build(encoder, target, FP16), path)
                    forms.append(_load(name, path, encoder, graphs, target.settings(FP16, 512), recorder))
                except Exception:
                    recorder.failures.append(f"{name}: {traceback.format_exc()}")
                if recorder.on_gpu:
                    check_device()
    return forms


def _load(name: str, path: Path, encoder: Encoder, graphs: bool, settings: SessionSettings, recorder: Recorder) -> Form:
    conditions = Conditions(threads=1, provider=recorder.settings.device, cuda_graphs=graphs)
    row = Row(name, "onnx", "", str(path), {"settings": asdict(settings)})
    return Form(name, onnx_row.load(row, conditions).prepare, _cost(encoder))


def _cost(encoder: Encoder) -> Cost:
    return cost_of_layers(tuple(map(layer_shape, encoder.layers)), encoder.hidden_size)
