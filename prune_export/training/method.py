"""What a method of pruning while training has to do: one contract for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from prune_export.training.layers import LayerModules


@dataclass(frozen=True, slots=True, eq=False)
class ParameterGroup:
    """Parameters of a method (scores, gates, multipliers) with settings of their own.

    They are registered in the model, each under one name, so that the Trainer's checkpoints hold them. `learning_rate` is
    the peak; it follows the schedule of the model's own unless `constant_rate`. `maximize`: gradient ascent (multipliers).
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    weight_decay: float = 0.0
    maximize: bool = False
    constant_rate: bool = False


class Method(Protocol):
    """Puts masks on an untouched transformers model as parametrizations, and takes them off again.

    The order: `attach` once, then for each optimiser step `set_step`, forward passes, `penalty`, backward; then `fold`.
    What `set_step` does must follow from the step and from what the model's state dict holds, and random numbers come from
    torch's default generators, which the Trainer's checkpoints hold: resuming is exact then.
    """

    def attach(self, model: nn.Module, layers: Sequence[LayerModules]) -> None:
        """Puts the parametrizations on; freezes (`requires_grad_(False)`) what is not to be trained."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """The method's own parameters; all others that ask for gradients are the model's."""

    def set_step(self, step: int, total: int) -> None:
        """Called before optimiser step `step` (from 0) of `total`, and with `step == total` before `fold`."""

    def penalty(self) -> Tensor:
        """What is added to the loss of a batch; a scalar, 0 where there is none."""

    def statistics(self) -> dict[str, float]:
        """Figures for the log: `heads_left`, `columns_left`, `flops_left` (a fraction), and the method's own."""

    def fold(self) -> None:
        """Takes the parametrizations off; what is masked is left as zeros in weights and biases."""
