"""Prunes a dense checkpoint in minutes, without training: a masked checkpoint at a budget of size or of measured time."""

from typing import Any

from prune_export.cli.command import Printing
from prune_export.cli.printing import reporting, say
from prune_export.options.prune import PruneOptions

EPILOG = """\
The masked checkpoint loads in any transformers; prune-export --model makes a slim ONNX model of it.
Exit code 4 if it is slower than --speedup or --latency-ms asks for, by more than --tolerance, or larger
than --max-mib, after writing everything.
"""
OPTIONS, COMMAND = PruneOptions, Printing


def run(given: dict[str, Any], command: Printing) -> int:
    from exporters.errors import QualityError
    from prune_export.cli.allocator import keep_freed_memory
    from prune_export.cli.console import print_pruned, progress
    from prune_export.verbs.prune import prune

    keep_freed_memory()
    with progress(quiet=command.quiet) as listener:
        results = prune(**given, progress=listener)
    with reporting(command, optional=True):
        print_pruned(results, command)
    missed = [result.missed for result in results if result.missed is not None]
    for line in missed:
        say(f"prune-export: error: {line}; the checkpoint was written")
    return QualityError.exit_code if missed else 0
