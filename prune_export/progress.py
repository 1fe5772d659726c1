"""How long work reports where it is."""

from __future__ import annotations

import logging
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """A listener. Stages follow one another; `total` counts the steps of a stage, None where they are not known."""

    def stage(self, description: str, total: int | None = None) -> None:
        """A new stage begins, and the one before is done."""

    def advance(self, steps: int = 1) -> None:
        """So many more steps of the stage are done."""

    def note(self, text: str) -> None:
        """How the stage stands at present, in a few words."""

    def pause(self) -> None:
        """Until the next stage, a library reports by itself (huggingface_hub has bars of its own for downloads)."""


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
    """A time as people say it: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
