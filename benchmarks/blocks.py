#!/usr/bin/env python3
"""Every block in every form that ONNX Runtime offers, each in a process of its own: what the targets' choices follow.

A row is a network of four equal layers that hold the block and nothing else, of BERT-base's width, with random weights.
Attention comes with 2, 6 and 12 heads of 64, without padding and with 30 % of it; the feed-forward block with 512 and 3,072
columns; "norms" are layers that lost both blocks, "embeddings" four layers less.

    python -m benchmarks.blocks [--provider cpu] [--threads 2] [--shapes 1x128 1x384 8x384] [--blocks NAME …]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.block_forms import attention_with_projections
from benchmarks.measuring import machine, write_results
from exporters.encoder import (
    Attention,
    ConstantBlock,
    DotProduct,
    Embeddings,
    Encoder,
    FeatureHead,
    FeedForward,
    Layer,
    Linear,
    Norm,
    Ungated,
)
from exporters.onnx.attention import plain_attention
from exporters.onnx.context import Target
from exporters.onnx.norm import skip_layer_norm
from exporters.onnx.precision import FP16, FP32, INT8, Precision
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from prune_export.benchmark.markdown import markdown
from prune_export.benchmark.rows import Shape
from prune_export.benchmark.run import run_rows
from prune_export.benchmark.sources import onnx_row
from prune_export.cli.console import progress
from prune_export.options.bench import RunConditions

HIDDEN, HEAD_SIZE, LAYERS, VOCABULARY, POSITIONS = 768, 64, 4, 1000, 512


@dataclass(frozen=True)
class Form:
    """One way to write a network; `blocks` begin the names of those that it writes in a way of its own."""

    name: str
    target: Target
    precision: Precision
    blocks: tuple[str, ...] = ("attention", "feed-forward", "norms", "embeddings")


CPU, PORTABLE, CUDA, PACKED = (TARGETS[name] for name in ("cpu", "portable", "cuda", "cuda-packed"))
ROWS = replace(CPU, attention=plain_attention)

CPU_FORMS = (
    Form("plain, batch-first 3-D (portable)", PORTABLE, FP32),
    Form("plain, 2-D rows", ROWS, FP32),
    Form("Attention, 2-D rows (cpu)", CPU, FP32, ("attention",)),
    Form("SkipLayerNormalization", replace(PORTABLE, residual_norm=skip_layer_norm), FP32, ("norms",)),
    Form("MultiHeadAttention, SkipLayerNormalization (cuda)", CUDA, FP32, ("attention", "feed-forward")),
    Form("Attention, batch-first 3-D", replace(PORTABLE, attention=attention_with_projections), FP32, ("attention",)),
    Form("int8, plain, batch-first 3-D", PORTABLE, INT8, ("attention", "feed-forward")),
    Form("int8, plain, 2-D rows", ROWS, INT8, ("attention", "feed-forward")),
    Form("int8, QAttention, 2-D rows (cpu)", CPU, INT8, ("attention",)),
)
CUDA_FORMS = (
    Form("plain, batch-first 3-D (portable)", PORTABLE, FP32),
    *(Form(f"{name}, {precision.name}", target, precision) for precision in (FP32, FP16) for name, target in (
        ("MultiHeadAttention, SkipLayerNormalization (cuda)", CUDA),
        ("plain, batch-first 3-D", PORTABLE),
        ("Attention with its projections", replace(CUDA, attention=attention_with_projections)),
        ("PackedMultiHeadAttention (cuda-packed)", PACKED),
    )),
)  # fmt: skip


def attention(heads: int) -> Attention:
    """Random attention of `heads` heads, without key bias, as the surgeon leaves it."""
    shape = (heads, HEAD_SIZE, HIDDEN)
    return Attention(
        heads=tuple(range(heads)),
        query_weight=torch.randn(shape) * 0.02,
        query_bias=torch.randn(shape[:2]) * 0.02,
        key_weight=torch.randn(shape) * 0.02,
        key_bias=None,
        value_weight=torch.randn(shape) * 0.02,
        value_bias=None,
        output_weight=torch.randn(HIDDEN, heads, HEAD_SIZE) * 0.02,
        output_bias=torch.randn(HIDDEN) * 0.02,
        scores=DotProduct(HEAD_SIZE**-0.5),
    )


def feed_forward(columns: int) -> FeedForward:
    return FeedForward(_linear(columns, HIDDEN), Ungated("gelu"), _linear(HIDDEN, columns))


def _linear(out_features: int, in_features: int) -> Linear:
    return Linear(torch.randn(out_features, in_features) * 0.02, torch.randn(out_features) * 0.02)


def _norm() -> Norm:
    return Norm(torch.ones(HIDDEN), torch.zeros(HIDDEN), 1e-12)


def network(make: Callable[[], Attention | FeedForward] | None, layers: int = LAYERS) -> Encoder:
    """`layers` layers, each with a part of its own from `make`, if any, and constants otherwise."""
    return Encoder("feature-extraction", _embeddings(), tuple(_layer(make) for _ in range(layers)), FeatureHead())


def _layer(make: Callable[[], Attention | FeedForward] | None) -> Layer:
    constant = ConstantBlock(torch.randn(HIDDEN) * 0.02)
    part = constant if make is None else make()
    return Layer(
        constant if isinstance(part, FeedForward) else part,
        _norm(),
        constant if isinstance(part, Attention) else part,
        _norm(),
    )


def _embeddings() -> Embeddings:
    return Embeddings(
        word=torch.randn(VOCABULARY, HIDDEN),
        position=torch.randn(POSITIONS, HIDDEN),
        token_type=torch.randn(2, HIDDEN),
        norm=_norm(),
        projection=None,
        positions="absolute",
        pad_token_id=0,
    )


def blocks() -> Iterator[tuple[str, Encoder, float]]:
    """Name, network and padding of each block."""
    for heads in (2, 6, 12):
        for padding in (0.0, 0.3):
            yield f"attention-{heads}" + ("-padded" if padding else ""), network(partial(attention, heads)), padding
    for columns in (512, 3072):
        yield f"feed-forward-{columns}", network(partial(feed_forward, columns)), 0.0
    yield "norms", network(None), 0.0
    yield "embeddings", network(None, layers=1), 0.0


def main() -> None:
    names = [name for name, _, _ in blocks()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="default: one a physical core")
    parser.add_argument("--shapes", nargs="+", default=["1x128", "1x384", "8x384"], help="batch x length")
    parser.add_argument("--blocks", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="measured time of a row and round")
    options = parser.parse_args()
    forms = CPU_FORMS if options.provider == "cpu" else CUDA_FORMS
    shapes = [Shape(*map(int, shape.split("x"))) for shape in options.shapes]
    found: dict[str, Any] = {}
    torch.manual_seed(0)
    for name, encoder, padding in blocks():
        if name not in options.blocks:
            continue
        with tempfile.TemporaryDirectory() as folder, progress(quiet=False) as listener:
            rows = []
            for index, form in enumerate(form for form in forms if name.startswith(form.blocks)):
                path = Path(folder) / str(index)
                path.mkdir()
                (path / "config.json").write_text(json.dumps({"vocab_size": VOCABULARY, "pad_token_id": 0}))
                save(build(encoder, form.target, form.precision), path / "model.onnx")
                rows.append(onnx_row(path, name=form.name))
            report = run_rows(
                rows,
                shapes,
                RunConditions(
                    provider=options.provider,
                    threads=options.threads,
                    padding=padding,
                    rounds=options.rounds,
                    seconds=options.seconds,
                ),
                progress=listener,
            )
        print(f"## {name}\n\n{markdown(report)}", flush=True)
        kept = report.to_json()
        for row in kept["rows"]:
            del row["model"]
        found[name] = kept
    threads = f"-{options.threads}-threads" if options.threads else ""
    print(write_results(f"blocks-{options.provider}{threads}", {"machine": machine(), "blocks": found}))


if __name__ == "__main__":
    main()
