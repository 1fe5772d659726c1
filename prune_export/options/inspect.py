"""The options of `inspect` and `slim`."""

from prune_export.options.checkpoint import HubAccess, PlannedCheckpoint
from prune_export.options.listening import Listening


class SlimOptions(HubAccess, PlannedCheckpoint):
    """All that `slim` takes."""


class InspectOptions(Listening, SlimOptions):
    """All that `inspect` takes."""
