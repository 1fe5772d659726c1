"""Shows what is pruned in a checkpoint, layer by layer, and what exporting would leave. Writes nothing."""

from __future__ import annotations

from typing import Any

from prune_export.cli.command import Printing
from prune_export.cli.printing import reporting
from prune_export.options.inspect import InspectOptions

OPTIONS, COMMAND = InspectOptions, Printing


def run(given: dict[str, Any], command: Printing) -> int:
    from prune_export.cli.console import print_inspection, progress
    from prune_export.verbs.inspect import inspect

    with progress(quiet=command.quiet) as listener:
        inspection = inspect(**given, progress=listener)
    with reporting(command, optional=False):
        print_inspection(inspection, command)
    return 0
