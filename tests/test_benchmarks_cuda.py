"""The measurement on a GPU: the walk through it without one, and what it does when something goes wrong.

No figure is judged here; on a GPU, `python -m benchmarks.cuda` is its own test.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.cuda import kernels, results
from benchmarks.cuda.__main__ import main
from benchmarks.cuda.capture import captured_output
from benchmarks.cuda.fatbin import keep_chip
from benchmarks.cuda.marked_tests import marked_files
from benchmarks.cuda.networks import make
from benchmarks.cuda.results import ResultError
from benchmarks.cuda.run import run
from benchmarks.cuda.steps import STEPS, Step
from benchmarks.cuda.structures import README_07, STRUCTURES, tiny
from benchmarks.source_tree import ROOT
from exporters import runtime
from exporters.encoder import Attention, FeedForward
from exporters.errors import OutputError, ProviderError
from tests.comparing import largest_difference, onnx_outputs, torch_outputs
from tests.models import example_inputs


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the walk through all steps, from the source tree, in a folder that holds something else as well."""
    output = tmp_path_factory.mktemp("walk")
    (output / "log").write_text("what somebody wrote before")
    command = [sys.executable, "-m", "benchmarks.cuda", "--device", "cpu", "--minutes", "15", "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=output, env=environment, capture_output=True, text=True, check=False)
    log = (output / results.LOG).read_text(encoding="utf-8", errors="replace")
    assert ended.returncode == 0, ended.stdout + ended.stderr + log[-3000:]
    return output


@pytest.mark.slow
def test_every_step_leaves_its_figures(walked: Path) -> None:
    names = [f"{number}-{step.name}.json" for number, step in enumerate(STEPS, 1)]
    assert sorted(path.name for path in walked.iterdir()) == sorted([*names, results.LOG, "log"])
    steps = [results.read(walked / name) for name in names]
    assert len({step["run"] for step in steps}) == 1
    assert {step["status"] for step in steps} == {"done"}
    figures = {name: part["figures"] for step in steps for name, part in step["parts"].items()}
    skipped = [text for step in steps for part in step["parts"].values() for text in part["skipped"]]

    assert figures["machine"]["torch"]["version"] == torch.__version__
    assert figures["machine"]["onnxruntime"]["version"] == runtime.onnxruntime().__version__
    assert figures["pytest"]["outcomes"]["skipped"] > 70
    parity = figures["parity"]
    assert {name.split(",")[0] for name in parity} == {"bert", "roberta", "distilbert"}
    assert all(found["passed"] and found["provider"] == "CPUExecutionProvider" for found in parity.values())
    batches = figures["squadv1-readme-07"]["batches"]
    assert set(batches) == {"1x16", "4x32, 50% padding"}
    for found in batches.values():
        forms = found["forms"]
        assert found["baseline"] == "PyTorch fp16, SDPA"
        assert set(forms) == {
            "PyTorch fp16, SDPA",
            "dense ONNX fp16",
            "slim fp16",
        }
        assert all(min(form["milliseconds"]["rounds"]) > 0 for form in forms.values())
        assert forms["dense ONNX fp16"]["ratio of FLOPs"] == 1
        assert forms["slim fp16"]["ratio of FLOPs"] > 1.5
    compiled = figures["squadv1-readme-07, torch.compile"]["batches"]["1x16"]["forms"]
    assert compiled["torch.compile fp16"]["milliseconds"]["median"] > 0
    nodes = figures["kernels"]["slim, cuda, fp16"]["nodes"]
    assert nodes["MultiHeadAttention on CPU"]["nodes"] == 2
    pytorch = figures["kernels"]["PyTorch fp16, SDPA"]["1x16"]["kernels"]
    assert any("attention" in kernel["kernel"] for kernel in pytorch)
    for name in ("slim fp16, CUDA graphs", "slim fp16, packed", "slim, cuda-packed, fp16", "bert, cuda-packed, fp32"):
        assert f"{name}: not on this device" in skipped


# What goes wrong.


def steps_of(*parts: str, done_by: float = 1.0) -> list[Step]:
    """A step for each part; the names of the steps are theirs."""
    return [Step(part.replace(" ", "-"), "tests.cuda_parts", (part,), done_by) for part in parts]


def run_steps(
    output: Path, steps: list[Step], *, minutes: float = 1.0, **options: Any
) -> tuple[bool, list[str], list[Any]]:
    """Whether it was sound, the lines that were said, and the results."""
    lines: list[str] = []
    sound = run(output, device="cpu", minutes=minutes, data=None, steps=steps, say=lines.append, **options)
    found = [results.read(results.file_of(output, number, step.name)) for number, step in enumerate(steps, 1)]
    return sound, lines, found


def test_a_step_that_fails_is_recorded_and_the_next_one_runs(tmp_path: Path) -> None:
    sound, lines, found = run_steps(tmp_path, steps_of("sound", "fails", "dies", "skips"))
    assert not sound
    assert [step["status"] for step in found] == ["done", "failed", "failed", "done"]
    parts = [next(iter(step["parts"].values())) for step in found]
    assert all(part["figures"]["before"] == 1 for part in parts)  # what was found before the end is kept
    (failure,) = parts[1]["failures"]
    assert failure.startswith("Traceback")
    assert failure.rstrip().endswith("ValueError: what went wrong")
    assert parts[2]["failures"] == [f"its process died (SIGSEGV); {results.LOG} has what it printed"]
    assert parts[3]["skipped"][0].startswith("something long: not enough time: ")
    assert any("fails: ValueError: what went wrong" in line for line in lines)
    log = (tmp_path / results.LOG).read_text(encoding="utf-8")
    assert "printed by a sound part" in log
    assert "4-skips.json: done" in log


def test_a_part_that_breaks_the_device_runs_again_without_what_did(tmp_path: Path) -> None:
    sound, _, (step,) = run_steps(tmp_path, steps_of("breaks the device"))
    part = step["parts"]["breaks the device"]
    assert not sound
    assert step["status"] == part["status"] == "failed"
    assert part["figures"] == {"left out": ["bad"], "before": 1, "good": 1, "best": 1}
    assert "illegal access" in part["failures"][0]
    assert part["failures"][1:] == ["the device answers no more, while trying: bad"]


def test_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that hangs is ended; where no time is left, none begins."""
    monkeypatch.setattr("benchmarks.cuda.run._OVERTIME", 0.5)
    steps = [*steps_of("hangs", done_by=0.5), *steps_of("sound", done_by=0.5), *steps_of("skips")]
    start = time.monotonic()
    sound, _, found = run_steps(tmp_path, steps, minutes=0.25)
    assert time.monotonic() - start < 15
    assert not sound
    assert [step["status"] for step in found] == ["failed", "skipped", "done"]
    assert found[0]["parts"]["hangs"]["failures"] == ["it ran past its time and was ended"]
    assert found[1]["parts"]["sound"]["skipped"] == ["no time left"]


def test_results_of_two_runs_are_never_mixed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("somebody's")
    _, _, (first, _) = run_steps(tmp_path, steps_of("sound", "skips"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ResultError, match=r"earlier run \(1-sound.json, 2-skips.json, run.log\).*--overwrite"):
        run_steps(tmp_path, steps_of("sound", "skips"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    time.sleep(1.1)  # runs are told apart by their second
    _, _, (second, _) = run_steps(tmp_path, steps_of("sound", "skips"), overwrite=True)
    assert second["run"] != first["run"]
    assert {path.name for path in tmp_path.iterdir()} == set(before)
    assert (tmp_path / "notes.txt").read_text() == "somebody's"


def test_an_earlier_run_is_an_error_of_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "3-parity.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["benchmarks.cuda", "--device", "cpu", "--output", str(tmp_path)])
    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "3-parity.json" in said
    assert said.count("\n") == 1


def test_a_part_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["benchmarks.cuda", "--device", "cpu", "--only", "machine", "--output", str(tmp_path)]
    )
    assert main() == 0
    assert {path.name for path in tmp_path.iterdir()} == {"1-machine.json", "run.log"}


# What is measured.


def test_networks_are_what_the_structures_say(tmp_path: Path) -> None:
    structure = tiny(README_07)
    network = make(structure, "cpu")
    layers = network.slim.layers
    blocks = [(layer.attention, layer.feed_forward) for layer in layers]
    for (attention, feed_forward), heads, columns in zip(
        blocks, structure.kept_heads, structure.kept_columns, strict=True
    ):
        assert isinstance(attention, Attention)
        assert isinstance(feed_forward, FeedForward)
        assert len(attention.heads) == heads
        assert feed_forward.columns == columns
    inputs = example_inputs(network.module)
    reference = torch_outputs(network.module, network.dense, inputs)
    assert largest_difference(reference, onnx_outputs(network.dense, inputs, tmp_path, target="cuda")) < 1e-5
    slim = onnx_outputs(network.slim, inputs, tmp_path, target="cuda")
    assert largest_difference(reference, slim) > 1e-2


def test_structures_are_the_published_ones(shared: Path) -> None:
    published = json.loads((shared / "structures" / "nn_pruning.json").read_text(encoding="utf-8"))["networks"]
    names = {"bert-large-x2.15": "bert-large-uncased-wwm-squadv2-x2.15-f83.2-d25-hybrid-v1"}
    for name, structure in STRUCTURES.items():
        (found,) = (network for network in published if network["name"] == names.get(name, name))
        assert structure.kept_heads == tuple(map(len, found["heads_kept"]))
        assert structure.kept_columns == tuple(found["intermediate_kept"])
        assert (structure.hidden, structure.heads, structure.columns) == (
            found["hidden"],
            found["heads"],
            found["intermediate"],
        )


def test_all_tests_for_a_gpu_are_found() -> None:
    """Every file with a mark, in whatever form it is written."""
    mark = ".".join(("mark", "cuda"))
    marked = {path for path in (ROOT / "tests").glob("*.py") if mark in path.read_text(encoding="utf-8")}
    assert set(marked_files(ROOT / "tests")) == marked
    assert len(marked) >= 3


def test_kernels_are_read_from_what_onnx_runtime_prints() -> None:
    line = "\x1b[36mOperator=MultiHeadAttention Node=layer_{} DataType=fp16 SdpaKernel=EFFICIENT_ATTENTION\x1b[0m\n"
    with captured_output() as lines:
        os.write(1, line.format(0).encode())
        os.write(2, line.format(1).encode())
        os.write(1, b"Operator=PackedMultiHeadAttention DataType=fp16 SdpaKernel=FLASH_ATTENTION\n")
        os.write(1, b"AttentionKernelOptions: MATH=1\n")
    assert len(lines) == 4
    assert kernels.attention_kernels(lines) == {
        "MultiHeadAttention EFFICIENT_ATTENTION": 2,
        "PackedMultiHeadAttention FLASH_ATTENTION": 1,
    }


# How ONNX Runtime is packed.


def fat_library(entries: list[tuple[int, int, bytes]]) -> tuple[bytes, dict[bytes, int]]:
    """An ELF file whose .nv_fatbin holds a container of entries (kind, chip, code), and where each code lies."""
    names = b"\0.nv_fatbin\0.shstrtab\0"
    body, places = b"", {}
    start = 64 + 16  # the file's header, then padding in the section, then the container's header
    for kind, chip, code in entries:
        header = struct.pack("<HHIQ", kind, 0x101, 64, len(code)).ljust(28, b"\0") + struct.pack("<I", chip)
        body += header.ljust(64, b"\0")
        places[code] = start + 16 + len(body)
        body += code
    section = bytes(16) + struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body
    table = 64 + len(section) + len(names)
    header = bytearray(b"\x7fELF\x02".ljust(64, b"\0"))
    struct.pack_into("<Q", header, 0x28, table)
    struct.pack_into("<HHH", header, 0x3A, 64, 3, 2)

    def section_header(name: int, at: int, size: int) -> bytes:
        return struct.pack("<IIQQQQ", name, 1, 0, 0, at, size).ljust(64, b"\0")

    headers = bytes(64) + section_header(1, 64, len(section)) + section_header(12, 64 + len(section), len(names))
    return bytes(header) + section + names + headers, places


def test_code_for_other_chips_is_blanked(tmp_path: Path) -> None:
    entries = [(2, 80, b"A" * 40), (2, 90, b"H" * 24), (1, 90, b"P" * 32), (2, 120, b"B" * 8)]
    whole, places = fat_library(entries)
    library = tmp_path / "library.so"
    library.write_bytes(whole)
    assert keep_chip(library, 90) == {80: 40, 90: 56, 120: 8}
    left = library.read_bytes()
    expected = bytearray(whole)
    for _, _, code in (entries[0], entries[2], entries[3]):
        assert whole[places[code] : places[code] + len(code)] == code
        expected[places[code] : places[code] + len(code)] = bytes(len(code))
    assert left == bytes(expected)
    with pytest.raises(ValueError, match=r"no machine code for sm_75; found \[80, 90, 120\]"):
        keep_chip(library, 75)
    library.write_bytes(b"MZ")
    with pytest.raises(ValueError, match="64-bit ELF"):
        keep_chip(library, 90)


# How ONNX Runtime starts with CUDA.


class Runtime:
    """Stands in for an onnxruntime with CUDA, which has nothing to run on here."""

    __version__ = "1.31.1"
    SessionOptions = runtime.onnxruntime().SessionOptions

    def __init__(self, error: Exception | None, running: list[str]) -> None:
        self.error, self.running = error, running
        self.preloaded, self.arguments = 0, {}

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        self.preloaded += 1
        print("Failed to load libcublasLt.so.13")
        raise RuntimeError("no such folder")

    def InferenceSession(self, *_: Any, **named: Any) -> Any:  # noqa: N802 - onnxruntime's name
        self.arguments = named
        if self.error is not None:
            raise self.error
        return self

    def get_providers(self) -> list[str]:
        return self.running


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (RuntimeError("CUDA failure 100: no CUDA-capable device"), ProviderError, "did not start: CUDA failure 100"),
        (
            Exception("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED"),
            OutputError,
            "ONNX Runtime cannot load it: .*NOT_IMPLEMENTED",
        ),
        (None, ProviderError, r"did not start \(running: CPUExecutionProvider\)"),
    ],
)
def test_a_provider_that_does_not_start(
    error: Exception | None,
    expected: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The libraries of CUDA are looked for first, in silence, and ONNX Runtime may not go on on the CPU by itself."""
    module = Runtime(error, ["CPUExecutionProvider"])
    monkeypatch.setattr(runtime, "onnxruntime", lambda: module)
    with pytest.raises(expected, match=message):
        runtime.create_session(b"", provider="cuda")
    assert module.preloaded == 1
    assert module.arguments["enable_fallback"] == 0
    assert capsys.readouterr().out == ""


def test_the_cpu_needs_no_libraries_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Runtime(None, ["CPUExecutionProvider"])
    monkeypatch.setattr(runtime, "onnxruntime", lambda: module)
    runtime.create_session(b"", provider="cpu")
    assert module.preloaded == 0


def test_probe_runs() -> None:
    session = runtime.create_session(runtime.probe())
    assert session.run(None, {"x": np.array([-1.0], dtype=np.float32)})[0] == [0.0]
