"""Measures models on real data with the official metrics: SQuAD 1.1 and 2.0, MRQA, GLUE."""

from pathlib import Path
from typing import Annotated, Any

from prune_export.cli.command import Printing
from prune_export.cli.printing import reporting, say
from prune_export.options.evaluate import EvaluateOptions
from prune_export.options.option import Option


class EvaluateCommand(Printing, title="results"):
    predictions: Annotated[
        Path | None, Option("also write the answers, as the official scripts", "FILE", is_path=True)
    ] = None
    overwrite: Annotated[bool, Option("replace predictions that are there already")] = False


EPILOG = """\
Exit code 4 if a model scores below --fail-below, after printing and writing everything.
"""
OPTIONS, COMMAND = EvaluateOptions, EvaluateCommand


def run(given: dict[str, Any], command: EvaluateCommand) -> int:
    from exporters.errors import QualityError
    from prune_export.cli.console import print_evaluation, progress
    from prune_export.evaluation.prediction_files import check_predictions, write_predictions
    from prune_export.verbs.evaluate import evaluate

    given["fail_below"] = limits = parse_limits(given.get("fail_below", []))
    if command.predictions is not None:
        check_predictions(given["models"], given["data"], command.predictions, overwrite=command.overwrite)
    with progress(quiet=command.quiet) as listener:
        evaluation = evaluate(**given, progress=listener)
    written: tuple[Path, ...] = ()
    if command.predictions is not None:
        written = write_predictions(evaluation, command.predictions, overwrite=command.overwrite)
    failures = evaluation.below(limits)
    with reporting(command, optional=bool(written or limits)):
        print_evaluation(evaluation, written, failures, command)
    if not failures:
        return 0
    say(f"prune-export: error: {'; '.join(failures)}")
    return QualityError.exit_code


def parse_limits(words: list[str]) -> dict[str, float]:
    """Returns the limits in words of the form `METRIC=X`, by metric.

    Raises:
        UsageError: a word has another form, or X is not a finite number.
    """
    from math import isfinite

    from exporters.errors import UsageError

    limits: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            limits[name.strip()] = float(value)
        except ValueError:
            limits[name.strip()] = float("nan")
        if not isfinite(limits[name.strip()]):
            raise UsageError(f"--fail-below {word}: expected METRIC=X with a number, such as f1=69.5")
    return limits
