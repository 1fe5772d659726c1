"""Measures what heads and columns cost in time on this machine; `prune` finds the table again."""

from typing import Any

from prune_export.cli.command import Printing
from prune_export.cli.printing import reporting
from prune_export.options.timing import ProfileOptions

OPTIONS, COMMAND = ProfileOptions, Printing


def run(given: dict[str, Any], command: Printing) -> int:
    from prune_export.cli.console import print_profile, progress
    from prune_export.verbs.profile import profile

    with progress(quiet=command.quiet) as listener:
        table = profile(**given, progress=listener)
    with reporting(command, optional=False):
        print_profile(table, command)
    return 0
