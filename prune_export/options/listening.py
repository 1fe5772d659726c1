"""Who hears how far the work is."""

from typing import Annotated

from prune_export.options.option import ApiOnly, Options
from prune_export.progress import SILENT, Progress


class Listening(Options):
    progress: Annotated[
        Progress, ApiOnly("a listener: see `prune_export.progress.Progress`", "the command line shows it on stderr")
    ] = SILENT
