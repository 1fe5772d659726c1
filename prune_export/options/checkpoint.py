"""Where a checkpoint is, and how to read it."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from prune_export.options.option import Option

if TYPE_CHECKING:
    from prune_export.facts.plan import Plan

TASK_NAMES = "question-answering, text-classification, token-classification, feature-extraction, fill-mask"


@dataclass(frozen=True)
class HubAccess:
    """How checkpoints are read from the model hub."""

    TITLE: ClassVar[str] = "checkpoint"
    _: KW_ONLY
    revision: Annotated[str | None, Option("a branch, tag or commit of the hub's repository", "R")] = None
    cache_dir: Annotated[
        str | Path | None, Option("huggingface_hub's cache", "DIR", default="its own", is_path=True)
    ] = None
    token: Annotated[str | None, Option("access token for the hub", "T", default="huggingface_hub's own")] = None


@dataclass(frozen=True)
class TaskOption:
    TITLE: ClassVar[str] = "checkpoint"
    _: KW_ONLY
    task: Annotated[str | None, Option(f"one of {TASK_NAMES}", "TASK", default="from the checkpoint")] = None


@dataclass(frozen=True)
class CheckpointRef(TaskOption):
    """A checkpoint and its task."""

    TITLE: ClassVar[str] = "checkpoint"
    model: Annotated[str | Path, Option("a checkpoint's folder, or a hub id (owner/name)", "M")]


@dataclass(frozen=True)
class PlannedCheckpoint(CheckpointRef):
    """A checkpoint, and the plan that it is pruned by."""

    TITLE: ClassVar[str] = "checkpoint"
    _: KW_ONLY
    plan: Annotated[
        "str | Path | Plan | None",
        Option("prune by this plan instead of what the checkpoint says", "JSON", is_path=True),
    ] = None
