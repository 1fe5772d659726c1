"""Writes a pruned Hugging Face checkpoint as a slim ONNX model, after proving that both answer alike."""

from dataclasses import fields
from typing import Annotated, Any

from prune_export.cli import inspect
from prune_export.cli.command import Printing
from prune_export.cli.printing import reporting
from prune_export.options.export import ExportOptions
from prune_export.options.option import Option


class ExportCommand(Printing):
    dry_run: Annotated[bool, Option("show what would be removed, write nothing", group="output")] = False


OPTIONS, COMMAND = ExportOptions, ExportCommand


def run(given: dict[str, Any], command: ExportCommand) -> int:
    from exporters.errors import UsageError

    if command.dry_run:
        known = {field.name for field in fields(inspect.OPTIONS)}
        return inspect.run({name: value for name, value in given.items() if name in known}, command)
    if "output" not in given:
        raise UsageError("--output is needed: a file (out/model.onnx) or a folder (or --dry-run, to only look)")
    return _export(given, command)


def _export(given: dict[str, Any], command: ExportCommand) -> int:
    from prune_export.cli.console import print_export, progress
    from prune_export.verbs.export import export

    with progress(quiet=command.quiet) as listener:
        result = export(**given, progress=listener)
    with reporting(command, optional=True):
        print_export(result, command)
    return 0
