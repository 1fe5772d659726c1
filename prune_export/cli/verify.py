"""Compares an exported ONNX model with its checkpoint: exit 0 if they answer alike, 3 if not."""

from pathlib import Path
from typing import Annotated, Any

from prune_export.cli.command import Printing
from prune_export.cli.printing import reporting, say
from prune_export.options.option import Option
from prune_export.options.verify import VerifyOptions


class VerifyCommand(Printing):
    junit: Annotated[Path | None, Option("also write the cases as JUnit XML", "FILE", is_path=True)] = None
    overwrite: Annotated[bool, Option("replace FILE, whatever it is")] = False


OPTIONS, COMMAND = VerifyOptions, VerifyCommand


def run(given: dict[str, Any], command: VerifyCommand) -> int:
    from exporters.errors import ParityError
    from prune_export.cli.console import print_parity, progress
    from prune_export.outputs.report import check_report
    from prune_export.parity.junit import write_junit
    from prune_export.verbs.verify import verify

    model, onnx = given["model"], given["onnx"]
    if command.junit is not None:
        check_report(command.junit, overwrite=command.overwrite, read=(model, onnx))
    with progress(quiet=command.quiet) as listener:
        report = verify(**given, progress=listener)
    if command.junit is not None:
        write_junit(report, command.junit, overwrite=command.overwrite)
    with reporting(command, optional=True):
        print_parity(report, command)
    if report.passed:
        return 0
    say(f"prune-export: error: {onnx} does not answer like {model}:\n  {report.explain()}")
    return ParityError.exit_code
