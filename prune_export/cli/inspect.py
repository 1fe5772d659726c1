"""Shows what is pruned in a checkpoint, layer by layer, and what exporting would leave. Writes nothing."""

from __future__ import annotations

import argparse

from prune_export.cli.options import add_checkpoint_options, add_output_options
from prune_export.cli.printing import reporting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_options(parser)
    add_output_options(parser)


def run(options: argparse.Namespace) -> int:
    from prune_export.cli.console import print_inspection, progress
    from prune_export.verbs.inspect import inspect

    with progress(quiet=options.quiet) as listener:
        found = inspect(
            options.model,
            task=options.task,
            plan=options.plan,
            revision=options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            progress=listener,
        )
    with reporting(options, optional=False):
        print_inspection(found, json_output=options.json, quiet=options.quiet)
    return 0
