"""Where a checkpoint is, and how to read it."""

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from exporters.tasks import TASKS
from prune_export.options.option import Option, Options

if TYPE_CHECKING:
    from prune_export.facts.plan import Plan


class HubAccess(Options, title="checkpoint"):
    """How checkpoints are read from the model hub."""

    revision: Annotated[str | None, Option("a branch, tag or commit of the hub's repository", "R")] = None
    cache_dir: Annotated[
        str | Path | None, Option("huggingface_hub's cache", "DIR", default="its own", is_path=True)
    ] = None
    token: Annotated[str | None, Option("access token for the hub", "T", default="huggingface_hub's own")] = field(
        default=None, repr=False
    )


class ModelOption(Options, title="checkpoint"):
    model: Annotated[str | Path, Option("a checkpoint's folder, or a hub id (owner/name)", "M")] = field(kw_only=False)


class TaskOption(Options, title="checkpoint"):
    task: Annotated[str | None, Option(f"one of {', '.join(TASKS)}", "TASK", default="from the checkpoint")] = None


class PlanOption(Options, title="checkpoint"):
    plan: Annotated[
        "str | Path | Plan | None",
        Option("prune by this plan instead of what the checkpoint says", "JSON", is_path=True),
    ] = None
