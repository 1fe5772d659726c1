"""Compares an exported ONNX model with its checkpoint: exit 0 if they answer alike, 3 if not."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporters.providers import PROVIDERS
from prune_export.cli.options import (
    add_checkpoint_options,
    add_output_options,
    add_parity_options,
    add_quality_options,
)
from prune_export.cli.printing import reporting, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_options(parser)
    group = parser.add_argument_group("exported model")
    group.add_argument("--onnx", type=Path, required=True, metavar="O", help="the exported folder or .onnx file")
    group.add_argument("--provider", choices=tuple(PROVIDERS), help="execution provider (default: the model's target)")
    add_parity_options(parser, thorough=True)
    add_quality_options(parser)
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write the cases as JUnit XML")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE, whatever it is")
    add_output_options(parser)


def run(options: argparse.Namespace) -> int:
    from exporters.errors import ParityError
    from prune_export.cli.console import print_parity, progress
    from prune_export.outputs.report import check_report
    from prune_export.parity.junit import write_junit
    from prune_export.verbs.verify import verify

    if options.junit is not None:
        check_report(options.junit, overwrite=options.overwrite, read=(options.model, options.onnx))
    with progress(quiet=options.quiet) as listener:
        report = verify(
            options.model,
            options.onnx,
            task=options.task,
            plan=options.plan,
            provider=options.provider,
            thorough=options.thorough,
            samples=options.samples,
            seed=options.seed,
            atol=options.atol,
            data=options.data,
            dataset=options.dataset,
            max_loss=options.max_loss,
            limit=options.limit,
            revision=options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            progress=listener,
        )
    if options.junit is not None:
        write_junit(report, options.junit, overwrite=options.overwrite)
    with reporting(options, optional=True):
        print_parity(report, json_output=options.json, quiet=options.quiet)
    if report.passed:
        return 0
    say(f"prune-export: error: {options.onnx} does not answer like {options.model}:\n  {report.explain()}")
    return ParityError.exit_code
