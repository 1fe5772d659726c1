"""Shows the package's log on stderr: all of it with `--verbose`, nothing with `--quiet`, otherwise its warnings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prune_export.cli.command import Printing
from prune_export.cli.printing import say


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


class _Brief(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"prune-export: {record.levelname.lower()}: {record.getMessage()}"


@contextmanager
def logs(options: Printing) -> Iterator[None]:
    """Shows the log by `options` while the block runs; with `--quiet` other libraries are silenced as well."""
    handler = _Handler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s") if options.verbose else _Brief()
    )
    level = logging.INFO if options.verbose else logging.CRITICAL if options.quiet else logging.WARNING
    with ExitStack() as stack:
        stack.enter_context(_shown("prune_export", handler, level))
        if options.verbose:
            stack.enter_context(_shown("py.warnings", handler, logging.WARNING))
            logging.captureWarnings(True)
            stack.callback(logging.captureWarnings, False)
        if options.quiet:
            stack.enter_context(_others_silent())
        yield


@contextmanager
def _shown(name: str, handler: logging.Handler, level: int) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


@contextmanager
def _others_silent() -> Iterator[None]:
    """Hides other libraries' log lines and Python's warnings while the block runs; warnings that are errors stay errors."""
    from transformers.utils import logging as transformers_logging

    show, verbosity, disabled = warnings.showwarning, transformers_logging.get_verbosity(), logging.root.manager.disable
    warnings.showwarning = lambda *_, **__: None
    transformers_logging.set_verbosity(logging.CRITICAL)
    logging.disable(max(disabled, logging.WARNING))
    try:
        yield
    finally:
        warnings.showwarning = show
        transformers_logging.set_verbosity(verbosity)
        logging.disable(disabled)
