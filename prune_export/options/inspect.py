"""The options of `inspect` and `slim`."""

from dataclasses import dataclass

from prune_export.options.checkpoint import HubAccess, PlannedCheckpoint
from prune_export.options.listening import Listening


@dataclass(frozen=True)
class SlimOptions(HubAccess, PlannedCheckpoint):
    """All that `slim` takes."""


@dataclass(frozen=True)
class InspectOptions(Listening, SlimOptions):
    """All that `inspect` takes."""
