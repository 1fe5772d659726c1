"""A recipe as a row of stages: each starts from a checkpoint, trains it, and ends in a masked checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from prune_export.checkpoint.load import Checkpoint
from prune_export.data.features import Feature
from prune_export.progress import Progress
from prune_export.training.method import Method
from prune_export.training.recipe import Recipe


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What a stage can use. `original` is the recipe's model; `features` are the labelled training features."""

    recipe: Recipe
    original: Checkpoint
    features: tuple[Feature, ...]
    tokenizer: Any
    device: str  # "cpu" or "cuda"
    progress: Progress


class Objective(Protocol):
    """What is minimised instead of the task's own loss (distillation)."""

    def attach(self, model: nn.Module) -> None:
        """Called once with the network to be trained, on its device."""

    def loss(self, task_loss: Tensor, outputs: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss of a batch, and its parts (scalars) for the log.

        `outputs` are the network's own, `inputs` what it was given, labels included.
        """

    def detach(self) -> None:
        """Takes off what `attach` put on."""


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One training.

    `prepare(start, folder, context)` writes the checkpoint to start from into `folder`, which does not exist yet, out of
    the one in `start`; None: it starts from `start` itself. `method(context, checkpoint)` makes what puts masks on; None:
    nothing is pruned further. `begin(context, checkpoint, method)` is called once, with the method attached, where a
    training begins (not where it goes on). `objective(context, checkpoint)` makes a loss; None: the task's own.
    `slim`: what is left is trained as a slim network (SlimModel), in which zeros inside what is kept may grow back (None:
    where something is pruned); only without a method. `steps`, `epochs`, `learning_rate`: None for the recipe's own.
    `publish`: the result is put beside `final/` under the stage's name. `share` is about the fraction of the model's FLOPs
    that the trained network has, for estimates. `check(context)` raises what would go wrong in `prepare`, as far as that can
    be known before the first stage.
    """

    name: str
    prepare: Callable[[Path, Path, Context], None] | None = None
    method: Callable[[Context, Checkpoint], Method] | None = None
    begin: Callable[[Context, Checkpoint, Any], None] | None = None
    objective: Callable[[Context, Checkpoint], Objective] | None = None
    slim: bool | None = False
    steps: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    publish: bool = False
    share: float = 1.0
    check: Callable[[Context], None] | None = None
