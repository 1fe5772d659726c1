"""Measures what heads and columns cost in time on this machine; `prune` finds the table again."""

from __future__ import annotations

import argparse

from prune_export.cli.options import add_checkpoint_options, add_output_options, add_shape_options
from prune_export.cli.printing import reporting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_options(parser, with_plan=False)
    add_shape_options(parser)
    parser.add_argument("--fresh", action="store_true", help="measure anew, whatever the cache holds")
    add_output_options(parser)


def run(options: argparse.Namespace) -> int:
    from prune_export.cli.console import print_profile, progress
    from prune_export.verbs.profile import profile

    with progress(quiet=options.quiet) as listener:
        table = profile(
            options.model,
            target=options.target,
            dtype=options.dtype,
            batch_size=options.batch_size,
            sequence_length=options.sequence_length,
            threads=options.threads,
            fresh=options.fresh,
            task=options.task,
            revision=options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            progress=listener,
        )
    with reporting(options, optional=False):
        print_profile(table, json_output=options.json, quiet=options.quiet)
    return 0
