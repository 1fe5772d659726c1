"""The options of `train` and `dry_run`; all others are keys of the recipe."""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prune_export.options.listening import Listening
from prune_export.options.option import Option, Options

if TYPE_CHECKING:
    from prune_export.training.recipe import Recipe


class RunOptions(Options):
    recipe: Annotated[
        "Recipe | str | Path", Option("the recipe (.toml)", "RECIPE", is_path=True, is_positional=True)
    ] = field(kw_only=False)
    changes: Annotated[
        Sequence[str],
        Option(
            "change a value of the recipe, as in --set optimiser.learning_rate=1e-4 (repeatable); it takes the place of "
            "one that it excludes, as schedule.steps that of schedule.epochs",
            "KEY=VALUE",
            flag="--set",
            action="append",
        ),
    ] = ()
    resume: Annotated[bool, Option("go on from the last complete checkpoint in the output")] = False
    overwrite: Annotated[bool, Option("begin a run that is there already anew")] = False
    keep_checkpoints: Annotated[bool, Option("keep the checkpoints of stages that are finished")] = False


class TrainOptions(Listening, RunOptions):
    """All that `train` and `dry_run` take."""
