#!/usr/bin/env python3
"""The speed of families that no other exporter has forms for: base-size networks (12 layers, random weights, dense).

Rows: PyTorch, optimum's export in ONNX Runtime with its own optimizations, ours in fp32 and in int8; with --openvino,
OpenVINO on our portable file. Every network is one run.

    python -m benchmarks.families [--families mpnet …] [--shapes 1x128 …] [--openvino]

Checkpoints are made in `--work` (and stay there); results go to benchmarks/results/speed-FAMILY.json.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.compare import openvino_row
from benchmarks.measuring import write_results
from benchmarks.speed import OPTIMUM, OURS, SHAPES, results_of
from prune_export.benchmark.checkpoint_rows import checkpoint_rows
from prune_export.benchmark.markdown import markdown
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
    """A network of base size: classes of transformers, what differs from their configuration's defaults, and shapes."""

    config: str
    architecture: str
    changes: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[Shape, ...] = SHAPES


# The tasks are those that optimum exports.
NETWORKS = {
    "bert": Network("BertConfig", "BertForQuestionAnswering"),
    "mpnet": Network("MPNetConfig", "MPNetForQuestionAnswering"),
    "modernbert": Network(
        "ModernBertConfig",
        "ModernBertForTokenClassification",
        {"num_hidden_layers": 12, "reference_compile": False},
        (*SHAPES, Shape(1, 1024), Shape(1, 2048)),
    ),
    "deberta-v2": Network(
        "DebertaV2Config",
        "DebertaV2ForQuestionAnswering",
        {  # deberta-v3-base
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "relative_attention": True,
            "pos_att_type": "p2c|c2p",
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
}


def make_checkpoint(family: str, folder: Path) -> None:
    """Saves a dense network of base size with random weights; made once."""
    if (folder / "model.safetensors").is_file():
        return
    network = NETWORKS[family]
    torch.manual_seed(0)
    model = getattr(transformers, network.architecture)(getattr(transformers, network.config)(**network.changes))
    model.save_pretrained(folder)


def rows_of(checkpoint: Path, folder: Path, listener: Progress) -> list[Row]:
    """The rows of one network; exports are made in `folder`, unverified: the weights are random, and this is about time."""
    rows = checkpoint_rows(
        load_checkpoint(checkpoint), ("dense", "optimum"), folder, provider="cpu", dtype="fp32", progress=listener
    )
    rows = [replace(row, name=OPTIMUM) if row.kind == "optimum" else row for row in rows]
    for dtype in ("fp32", "int8"):
        export(checkpoint, folder / dtype, target="cpu", dtype=dtype, verify=False, progress=listener)
        rows.append(onnx_row(folder / dtype, name=OURS.format(dtype)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/families"), help="where checkpoints are made")
    parser.add_argument("--families", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--shapes", nargs="+", help="batch x length (default: the network's)")
    parser.add_argument("--openvino", action="store_true", help="also OpenVINO, for reference (pip install openvino)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time of a row and round (default: 1)")
    parser.add_argument("--threads", type=int, help="default: one a physical core")
    options = parser.parse_args()
    for family in options.families:
        given = [Shape(*map(int, shape.split("x"))) for shape in options.shapes or ()]
        shapes = given or NETWORKS[family].shapes
        checkpoint = options.work / family
        make_checkpoint(family, checkpoint)
        with tempfile.TemporaryDirectory(dir=options.work) as name, progress(quiet=False) as listener:
            folder = Path(name)
            rows = rows_of(checkpoint, folder, listener)
            if options.openvino:
                export(checkpoint, folder / "portable", target="portable", verify=False, progress=listener)
                rows.append(openvino_row(folder / "portable", "openvino-f32", name="OpenVINO f32, our portable file"))
            conditions = RunConditions(threads=options.threads, rounds=options.rounds, seconds=options.seconds)
            report = run_rows(rows, shapes, conditions, progress=listener)
        print(f"## {family}\n\n{markdown(report)}", flush=True)
        print(write_results(f"speed-{family}", results_of(report, family, "dense, base size")))


if __name__ == "__main__":
    main()
