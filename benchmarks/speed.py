#!/usr/bin/env python3
"""The figures of docs/speed.md: what users would run otherwise, beside our exports, on networks of published structures.

Rows: PyTorch dense (the network before pruning), our slim PyTorch network, our export of the dense network, optimum's
export of the same checkpoint in ONNX Runtime with its own optimizations, ours in fp32 and in int8. Weights are random,
structures are those of `structures/nn_pruning.json`; every network is one run (prune_export/benchmark/).

    python -m benchmarks.speed [--data ../shared] [--networks NAME …] [--openvino]

Checkpoints and exports are made in `--work` (and stay there); results go to benchmarks/results/speed-NETWORK.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.compare import openvino_row
from benchmarks.measuring import machine, write_results
from prune_export.benchmark.checkpoint_rows import checkpoint_rows
from prune_export.benchmark.markdown import markdown
from prune_export.benchmark.results import BenchReport
from prune_export.benchmark.rows import Row, Shape
from prune_export.benchmark.run import run_rows
from prune_export.benchmark.sources import onnx_row
from prune_export.checkpoint.load import load_checkpoint
from prune_export.cli.console import progress
from prune_export.options.bench import RunConditions
from prune_export.progress import Progress
from prune_export.verbs.export import export


@dataclass(frozen=True, slots=True)
class Network:
    """A published structure, and how many rounds it is measured."""

    structure: str
    rounds: int = 3


# Under which names the results are kept. A round of BERT-large takes minutes.
NETWORKS = {
    "squadv1-readme-07": Network("squadv1-readme-07"),
    "squadv1-readme-10": Network("squadv1-readme-10"),
    "bert-large-x2.15": Network("bert-large-uncased-wwm-squadv2-x2.15-f83.2-d25-hybrid-v1", rounds=2),
}
SHAPES = tuple(Shape(batch, length) for batch in (1, 8) for length in (128, 384))
DENSE_ONNX = "prune-export fp32, dense"
OPTIMUM = "optimum + ONNX Runtime"
OURS = "prune-export {}"  # with the dtype


def make_checkpoint(structure: str, data: Path, folder: Path) -> None:
    """A checkpoint as on the model hub, with random weights; made once."""
    if (folder / "model.safetensors").is_file():
        return
    tool = data / "tools" / "make_checkpoint.py"
    command = [sys.executable, str(tool), "--structure", structure, "--format", "hub", "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def rows_of(checkpoint: Path, folder: Path, dtypes: list[str], *, openvino: bool, listener: Progress) -> list[Row]:
    """The rows of one network; exports are made in `folder`."""
    names = {"dense-onnx": DENSE_ONNX, "optimum": OPTIMUM}
    kinds = ("dense", "slim", *names)
    rows = checkpoint_rows(load_checkpoint(checkpoint), kinds, folder, provider="cpu", dtype="fp32", progress=listener)
    rows = [replace(row, name=names.get(row.kind, row.name)) for row in rows]
    for dtype in dtypes:
        output = folder / dtype
        # Unverified: the weights are random, and this is about time.
        export(checkpoint, output, target="cpu", dtype=dtype, verify=False, progress=listener)
        rows.append(onnx_row(output, name=OURS.format(dtype)))
    if openvino:
        ours = folder / "fp32"
        rows += [
            openvino_row(ours, f"openvino-{kind}", name=f"OpenVINO {kind}, our fp32 file") for kind in ("f32", "bf16")
        ]
    return rows


def results_of(report: BenchReport, network: str, structure: str) -> dict[str, Any]:
    """The report as it is kept: without the places of files on the machine that measured."""
    found = report.to_json()
    for row in found["rows"]:
        del row["model"]
    return found | {"network": network, "structure": structure, "machine": machine() | report.machine}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="where tools/make_checkpoint.py lies")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="where checkpoints are made")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "int8"], help="of our exports")
    parser.add_argument("--shapes", nargs="+", default=list(map(str, SHAPES)), help="batch x length")
    parser.add_argument("--openvino", action="store_true", help="also OpenVINO, for reference (pip install openvino)")
    parser.add_argument("--rounds", type=int, help="default: 3, of BERT-large 2")
    parser.add_argument("--seconds", type=float, default=0.3, help="measured time of a row and round (default: 0.3)")
    parser.add_argument("--threads", type=int, help="default: one a physical core")
    options = parser.parse_args()
    shapes = [Shape(*map(int, shape.split("x"))) for shape in options.shapes]
    for name in options.networks:
        network, checkpoint = NETWORKS[name], options.work / name
        make_checkpoint(network.structure, options.data, checkpoint)
        with tempfile.TemporaryDirectory(dir=options.work) as folder, progress(quiet=False) as listener:
            rows = rows_of(checkpoint, Path(folder), options.dtypes, openvino=options.openvino, listener=listener)
            report = run_rows(
                rows,
                shapes,
                RunConditions(
                    threads=options.threads, rounds=options.rounds or network.rounds, seconds=options.seconds
                ),
                progress=listener,
            )
        print(f"## {name}\n\n{markdown(report)}", flush=True)
        print(write_results(f"speed-{name}", results_of(report, name, network.structure)), flush=True)


if __name__ == "__main__":
    main()
