"""Prunes while training, by a recipe: a masked checkpoint at the end, which prune-export exports."""

from pathlib import Path
from typing import Annotated, Any

from prune_export.cli.command import Printing
from prune_export.cli.printing import reporting
from prune_export.options.option import Option
from prune_export.options.train import TrainOptions

EPILOG = """\
A recipe is a TOML file; examples/recipes has one for each published system, docs/recipes.md lists every key, docs/methods.md
explains the methods.
Several processes: torchrun --nproc-per-node 2 -m prune_export.cli train recipe.toml (or accelerate launch -m …).
"""


class TrainCommand(Printing):
    model: Annotated[str | None, Option("the recipe's model: a checkpoint's folder, or a hub id", "M")] = None
    output: Annotated[Path | None, Option("the recipe's output, the folder of the run", "DIR", is_path=True)] = None
    dry_run: Annotated[
        bool,
        Option("check the recipe, its model, data and teachers, show stages, steps, disk and time, and write nothing"),
    ] = False


OPTIONS, COMMAND = TrainOptions, TrainCommand


def run(given: dict[str, Any], command: TrainCommand) -> int:
    import os

    from prune_export.cli.console import print_dry_run, print_trained, progress
    from prune_export.training.dry_run import dry_run
    from prune_export.training.run import train

    own = {"model": command.model, "output": command.output}
    changes = [f"{key}={_quoted(str(value))}" for key, value in own.items() if value is not None]
    given["changes"] = [*given.get("changes", []), *changes]
    others = int(os.environ.get("RANK", "0")) > 0
    if command.quiet:
        _quieten()
    with progress(quiet=command.quiet or others) as listener:
        planned = dry_run(**given, progress=listener) if command.dry_run else None
        result = None if command.dry_run else train(**given, progress=listener)
    if others:
        return 0
    with reporting(command, optional=planned is None):
        if planned is not None:
            print_dry_run(planned, command)
        if result is not None:
            print_trained(result, command)
    return 0


def _quieten() -> None:
    """Silences other libraries' log lines and warnings."""
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
