"""Writes a pruned Hugging Face checkpoint as a slim ONNX model, after proving that both answer alike."""

from __future__ import annotations

import argparse

from prune_export import numbers
from prune_export.cli import inspect
from prune_export.cli.options import (
    add_checkpoint_options,
    add_output_options,
    add_parity_options,
    add_quality_options,
    number,
)
from prune_export.cli.printing import reporting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_options(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--output", metavar="O", help="a file (out/model.onnx) or a folder")
    group.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    group.add_argument("--dry-run", action="store_true", help="show what would be removed, write nothing")
    group = parser.add_argument_group("model")
    group.add_argument(
        "--target",
        default="auto",
        choices=("auto", "portable", "cpu", "cuda", "cuda-packed"),
        help="auto: cuda where its provider starts, else cpu; portable: ai.onnx operations only; cuda-packed: computes "
        "nothing for padding (default: auto)",
    )
    group.add_argument("--dtype", default="fp32", choices=("fp32", "fp16", "int8"), help="default: fp32")
    group.add_argument("--opset", type=number(numbers.COUNT), metavar="N", help="ai.onnx opset (default: the target's)")
    group = parser.add_argument_group("int8")
    group.add_argument(
        "--calibration",
        metavar="DATA",
        help="quantize activations by the ranges that they take on this data (default: by each input's own)",
    )
    group.add_argument(
        "--keep-float",
        nargs="+",
        default=[],
        metavar="NAME",
        help="layers, blocks or linear maps that stay in fp32: layer_3, layer_3/feed_forward, layer_3/feed_forward/down",
    )
    group.add_argument("--quantize-embeddings", action="store_true", help="store word embeddings in 8 bits")
    add_parity_options(parser, thorough=False)
    add_quality_options(parser)
    parser.add_argument("--no-verify", action="store_true", help="skip parity; the record says so")
    add_output_options(parser)


def run(options: argparse.Namespace) -> int:
    from exporters.errors import UsageError

    if options.dry_run:
        return inspect.run(options)
    if options.output is None:
        raise UsageError("--output is needed: a file (out/model.onnx) or a folder (or --dry-run, to only look)")
    return _export(options)


def _export(options: argparse.Namespace) -> int:
    from prune_export.cli.console import print_export, progress
    from prune_export.verbs.export import export

    with progress(quiet=options.quiet) as listener:
        result = export(
            options.model,
            options.output,
            task=options.task,
            target=options.target,
            dtype=options.dtype,
            opset=options.opset,
            plan=options.plan,
            atol=options.atol,
            verify=not options.no_verify,
            thorough=options.thorough,
            samples=options.samples,
            seed=options.seed,
            data=options.data,
            dataset=options.dataset,
            max_loss=options.max_loss,
            limit=options.limit,
            calibration=options.calibration,
            keep_float=options.keep_float,
            quantize_embeddings=options.quantize_embeddings,
            overwrite=options.overwrite,
            revision=options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            progress=listener,
        )
    with reporting(options, optional=True):
        print_export(result, json_output=options.json, quiet=options.quiet)
    return 0
