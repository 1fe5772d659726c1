"""The options of `inspect` and `slim`."""

from prune_export.options.checkpoint import HubAccess, ModelOption, PlanOption, TaskOption
from prune_export.options.listening import Listening


class SlimOptions(HubAccess, PlanOption, TaskOption, ModelOption):
    """All that `slim` takes."""


class InspectOptions(Listening, SlimOptions):
    """All that `inspect` takes."""
