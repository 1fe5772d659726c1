#!/usr/bin/env python3
"""Compares ways to run a network, side by side: rows `kind:path` (or `name=kind:path`), the first is the baseline.

onnx            an exported folder or a foreign .onnx file, in ONNX Runtime with the folder's recorded settings
openvino-f32    the same file in OpenVINO, computing in float32
openvino-bf16   the same file in OpenVINO, computing in bfloat16
pytorch         a checkpoint as the untouched Hugging Face model
compile         the same through torch.compile
slim            a checkpoint as our slim PyTorch network

python -m benchmarks.compare onnx:out/dense onnx:out/ours openvino-f32:out/ours [--shapes 1x128 1x384 8x384]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from exporters.errors import PruneExportError, UsageError
from prune_export.benchmark.markdown import markdown
from prune_export.benchmark.rows import Row, Shape
from prune_export.benchmark.run import run_rows
from prune_export.benchmark.sources import onnx_row, torch_row
from prune_export.cli.console import progress
from prune_export.facts.record import find_exported
from prune_export.options.bench import RunConditions

OPENVINO = {"openvino-f32": "f32", "openvino-bf16": "bf16"}


def row_of(words: str) -> Row:
    """The row that `[name=]kind:path` asks for.

    Raises:
        UsageError: there is no such kind.
    """
    name, _, rest = words.rpartition("=")
    kind, _, path = rest.partition(":")
    name = name or f"{kind} {Path(path).name}"
    if kind == "onnx":
        return onnx_row(path, name=name)
    if kind in OPENVINO:
        return openvino_row(path, kind, name=name)
    if kind in ("pytorch", "compile", "slim"):
        return torch_row(path, kind, name=name)
    raise UsageError(
        f"'{words}': expected kind:path with a kind of onnx, {', '.join(OPENVINO)}, pytorch, compile, slim"
    )


def openvino_row(path: str | Path, kind: str, *, name: str) -> Row:
    """The .onnx file of an exported folder, in OpenVINO."""
    ours = onnx_row(path, name=name)
    model, options = str(find_exported(path).model), {"precision": OPENVINO[kind]}
    return Row(name, kind, "benchmarks.openvino_row:load", model, options, ours.cost)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="[NAME=]KIND:PATH")
    parser.add_argument("--shapes", nargs="+", default=["1x128", "1x384", "8x384"], help="batch x length")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: one a physical core")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time of a row and round (default: 2)")
    parser.add_argument("--padding", type=float, default=0.0, help="fraction of the tokens (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    options = parser.parse_args()
    try:
        shapes = [Shape(*map(int, shape.split("x"))) for shape in options.shapes]
        with progress(quiet=False) as listener:
            report = run_rows(
                [row_of(words) for words in options.rows],
                shapes,
                RunConditions(
                    threads=options.threads,
                    padding=options.padding,
                    rounds=options.rounds,
                    seconds=options.seconds,
                ),
                progress=listener,
            )
    except PruneExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown(report))
    if options.json:
        options.json.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
