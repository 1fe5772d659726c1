"""Prints lines and results, and reports in one line where a result cannot be printed."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from exporters.errors import OutputError
from exporters.secrets import redacted
from prune_export.cli.command import Printing


def say(line: str) -> None:
    """Writes a line to stderr, without secrets; where that is closed or full, there is nobody to tell."""
    if sys.stderr is not None:  # print would take stdout
        with suppress(OSError, ValueError):
            print(redacted(line), file=sys.stderr, flush=True)


@contextmanager
def reporting(options: Printing, *, optional: bool) -> Iterator[None]:
    """Reports errors of printing a verb's result in the block.

    With `optional` they are a warning, because the work is in files or the exit code gives the verdict.

    Raises:
        OutputError: stdout is closed or full, and the printed result is the only one.
        BrokenPipeError: the reader of stdout is gone, and the printed result is the only one.
    """
    if options.quiet and not options.json:
        yield
        return
    try:
        yield
        if sys.stdout is None:  # print and rich say nothing then
            raise OSError(errno.EBADF, "stdout is closed")
        sys.stdout.flush()
    except BrokenPipeError:
        if not optional:
            raise
    except (OSError, UnicodeError) as error:
        message = f"the report could not be printed: {getattr(error, 'strerror', None) or error}"
        if not optional:
            raise OutputError(message) from error
        say(f"prune-export: warning: {message}; the work is done")
