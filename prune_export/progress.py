"""Progress reports of long work."""

from __future__ import annotations

import logging
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """A listener to stages that follow one another."""

    def stage(self, description: str, total: int | None = None) -> None:
        """Begins a stage of `total` steps (None: unknown), and ends the one before."""

    def advance(self, steps: int = 1) -> None:
        """Counts `steps` more steps of the stage as done."""

    def note(self, text: str) -> None:
        """Reports the state of the stage, in a few words."""

    def pause(self) -> None:
        """Lets a library report by itself until the next stage (huggingface_hub has its own bars for downloads)."""


_log = logging.getLogger("prune_export")


class Silent:
    """Shows nothing; stages and notes go to the logger "prune_export", at the level INFO."""

    def stage(self, description: str, total: int | None = None) -> None:  # noqa: ARG002
        _log.info("%s", description)

    def advance(self, steps: int = 1) -> None: ...

    def note(self, text: str) -> None:
        _log.info("%s", text)

    def pause(self) -> None: ...


SILENT: Progress = Silent()


def time_words(seconds: float) -> str:
    """Returns a time in a readable unit: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
