"""Who hears how far the work is."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from prune_export.options.option import ApiOnly
from prune_export.progress import SILENT, Progress


@dataclass(frozen=True)
class Listening:
    _: KW_ONLY
    progress: Annotated[
        Progress, ApiOnly("a listener: see `prune_export.progress.Progress`", "the command line shows it on stderr")
    ] = SILENT
