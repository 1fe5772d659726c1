#!/usr/bin/env python3
"""The speed of families that no other exporter has forms for: base-size networks (12 layers, random weights, dense).

Rows as in benchmarks/speed.py: PyTorch, our slim PyTorch network, optimum's export in ONNX Runtime with its own
optimizations, ours in fp32 and in int8; with --openvino, OpenVINO on our portable file. Every network is one run.

    python -m benchmarks.families [--families mpnet …] [--shapes 1x128 …] [--openvino]

Checkpoints are made in `--work` (and stay there); results go to benchmarks/results/speed-FAMILY.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import transformers

from benchmarks.compare import openvino_row
from benchmarks.measuring import write_results
from benchmarks.speed import SHAPES, results_of, rows_of
from prune_export.benchmark.markdown import markdown
from prune_export.benchmark.rows import Shape
from prune_export.benchmark.run import run_rows
from prune_export.cli.console import progress
from prune_export.options.bench import RunConditions
from prune_export.verbs.export import export

# The classes of transformers; their configurations' defaults are those of the base size.
CLASSES = {"bert": ("BertConfig", "BertForQuestionAnswering"), "mpnet": ("MPNetConfig", "MPNetForQuestionAnswering")}


def make_checkpoint(family: str, folder: Path) -> None:
    """Saves a dense network of base size with random weights; made once."""
    if (folder / "model.safetensors").is_file():
        return
    config, architecture = CLASSES[family]
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, config)())
    model.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/families"), help="where checkpoints are made")
    parser.add_argument("--families", nargs="+", choices=CLASSES, default=list(CLASSES))
    parser.add_argument("--shapes", nargs="+", default=list(map(str, SHAPES)), help="batch x length")
    parser.add_argument("--openvino", action="store_true", help="also OpenVINO, for reference (pip install openvino)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time of a row and round (default: 1)")
    parser.add_argument("--threads", type=int, help="default: one a physical core")
    options = parser.parse_args()
    shapes = [Shape(*map(int, shape.split("x"))) for shape in options.shapes]
    for family in options.families:
        checkpoint = options.work / family
        make_checkpoint(family, checkpoint)
        with tempfile.TemporaryDirectory(dir=options.work) as name, progress(quiet=False) as listener:
            folder = Path(name)
            rows = rows_of(checkpoint, folder, ["fp32", "int8"], openvino=False, listener=listener)
            if options.openvino:
                export(checkpoint, folder / "portable", target="portable", verify=False, progress=listener)
                rows.append(openvino_row(folder / "portable", "openvino-f32", name="OpenVINO f32, our portable file"))
            conditions = RunConditions(threads=options.threads, rounds=options.rounds, seconds=options.seconds)
            report = run_rows(rows, shapes, conditions, progress=listener)
        print(f"## {family}\n\n{markdown(report)}", flush=True)
        print(write_results(f"speed-{family}", results_of(report, family, "dense, base size")))


if __name__ == "__main__":
    main()
