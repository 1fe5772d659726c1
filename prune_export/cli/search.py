"""Searches the subarchitectures of a checkpoint for those that no other one beats in error, latency and file size."""

from typing import Any

from prune_export.cli.command import Printing
from prune_export.cli.printing import reporting
from prune_export.options.search import SearchOptions

EPILOG = """\
The folder holds front.json, front.svg and the journal: a search that was killed goes on when it is started again. With
--max-loss, --latency-ms, --max-mib, --best-w or --point one point becomes checkpoint/, for prune-export --model and train.
"""
OPTIONS, COMMAND = SearchOptions, Printing


def run(given: dict[str, Any], command: Printing) -> int:
    from prune_export.cli.console import print_searched, progress
    from prune_export.verbs.search import search

    with progress(quiet=command.quiet) as listener:
        result = search(**given, progress=listener)
    with reporting(command, optional=True):
        print_searched(result, command)
    return 0
