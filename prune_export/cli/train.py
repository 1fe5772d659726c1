"""Prunes while training, by a recipe: a masked checkpoint at the end, which prune-export exports."""

from __future__ import annotations

import argparse
from pathlib import Path

from prune_export.cli.options import add_output_options
from prune_export.cli.printing import reporting

_EPILOG = """\
A recipe is a TOML file; examples/recipes has one for each published system, docs/recipes.md lists every key, docs/methods.md
explains the methods.
Several processes: torchrun --nproc-per-node 2 -m prune_export.cli train recipe.toml (or accelerate launch -m …).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="the recipe (.toml)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value of the recipe, as in --set optimiser.learning_rate=1e-4 (repeatable); it takes the place of "
        "one that it excludes, as schedule.steps that of schedule.epochs",
    )
    parser.add_argument("--model", metavar="M", help="the recipe's model: a checkpoint's folder, or a hub id")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the recipe's output, the folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the last complete checkpoint in the output")
    parser.add_argument("--overwrite", action="store_true", help="begin a run that is there already anew")
    parser.add_argument(
        "--keep-checkpoints", action="store_true", help="keep the checkpoints of stages that are finished"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the recipe, its model, data and teachers, show stages, steps, disk and time, and write nothing",
    )
    add_output_options(parser)


def run(options: argparse.Namespace) -> int:
    import os

    from prune_export.cli.console import print_dry_run, print_trained, progress
    from prune_export.training.dry_run import dry_run
    from prune_export.training.run import train

    changes = list(options.set)
    for name in ("model", "output"):
        if getattr(options, name) is not None:
            changes.append(f"{name}={_quoted(str(getattr(options, name)))}")
    others = int(os.environ.get("RANK", "0")) > 0
    if options.quiet:
        _quieten()
    with progress(quiet=options.quiet or others) as listener:
        common = {
            "changes": changes,
            "resume": options.resume,
            "overwrite": options.overwrite,
            "keep_checkpoints": options.keep_checkpoints,
            "progress": listener,
        }
        planned = dry_run(options.recipe, **common) if options.dry_run else None
        result = None if options.dry_run else train(options.recipe, **common)
    if others:
        return 0
    with reporting(options, optional=planned is None):
        if planned is not None:
            print_dry_run(planned, json_output=options.json, quiet=options.quiet)
        if result is not None:
            print_trained(result, json_output=options.json, quiet=options.quiet)
    return 0


def _quieten() -> None:
    """Leaves out what other libraries have to say."""
    import logging
    import warnings

    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    for name in ("accelerate", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)  # a TOML string, too
