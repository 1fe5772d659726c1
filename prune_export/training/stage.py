"""The interfaces of training methods: stages, masks on linear maps, objectives, and the registry's entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from exporters.cost import LayerShape
from prune_export.checkpoint.load import Checkpoint
from prune_export.data.features import Feature
from prune_export.progress import Progress
from prune_export.training.recipe import MethodConfig, Recipe


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """The inputs of all stages; `original` is the recipe's model, `features` are the labelled training features."""

    recipe: Recipe
    original: Checkpoint
    features: tuple[Feature, ...]
    tokenizer: Any
    device: str  # "cpu" or "cuda"
    progress: Progress


# --- masks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A linear map of a Hugging Face model: `module`, or those `rows` of it (int64) where several maps are fused in one.

    Its weight is `[out_features, in_features]`. It may have no bias.
    """

    module: nn.Linear
    rows: Tensor | None = None

    @property
    def in_features(self) -> int:
        return int(self.module.in_features)

    @property
    def out_features(self) -> int:
        return int(self.module.out_features) if self.rows is None else len(self.rows)

    @property
    def weight(self) -> Tensor:
        """Returns the weight, masks applied: `[out_features, in_features]`."""
        return self.module.weight if self.rows is None else self.module.weight[self.rows]

    @property
    def bias(self) -> Tensor:
        """Returns the bias, masks applied: `[out_features]`; there has to be one."""
        return self.module.bias if self.rows is None else self.module.bias[self.rows]

    @property
    def has_bias(self) -> bool:
        return self.module.bias is not None

    @torch.no_grad()
    def zero(self, masked: Tensor) -> None:
        """Sets weights and biases of the rows `masked` (bool `[out_features]`) to zero."""
        chosen = torch.nonzero(masked).flatten()
        places = chosen if self.rows is None else self.rows.to(chosen.device)[chosen]
        for tensor in (self.module.weight, *([self.module.bias] if self.has_bias else [])):
            tensor[places] = 0


@dataclass(frozen=True, slots=True, eq=False)
class LayerModules:
    """The linear maps of one distinct layer of a Hugging Face model (layers that share weights are one).

    `query`, `key`, `value` are `[heads * head_size, hidden]`, `attention_output` `[hidden, heads * head_size]`, `up`, and
    `gate` where there is one, `[columns, hidden]`, `down` `[hidden, columns]`. `module` is the layer itself; it is applied
    `times` times. `shape` is its unpruned shape.
    """

    path: str
    module: nn.Module
    query: Projection
    key: Projection
    value: Projection
    attention_output: nn.Linear
    gate: Projection | None
    up: Projection
    down: nn.Linear
    heads: int
    head_size: int
    columns: int
    times: int
    shape: LayerShape

    @property
    def hidden(self) -> int:
        """Returns the hidden size."""
        return self.query.in_features


def layer_modules(checkpoint: Checkpoint, model: nn.Module) -> tuple[LayerModules, ...]:
    """Returns the distinct layers of `checkpoint`'s Hugging Face model, in the order in which they first run."""
    family, config = checkpoint.family, checkpoint.config
    sizes, paths = family.dimensions(config), family.layer_paths(config, task=checkpoint.task)

    def linear(path: str, field: str) -> nn.Linear:
        module = model.get_submodule(f"{path}.{family.module(field)}")
        assert isinstance(module, nn.Linear)
        return module

    def projection(path: str, field: str) -> Projection:
        module, row = linear(path, field), family.layers[field]
        if row.parts == 1:
            return Projection(module)
        groups = sizes.heads if row.per_head else 1
        rows = torch.arange(module.out_features).view(groups, row.parts, -1)[:, row.part].flatten()
        return Projection(module, rows)

    return tuple(
        LayerModules(
            path=path,
            module=model.get_submodule(path),
            query=projection(path, "attention.query_weight"),
            key=projection(path, "attention.key_weight"),
            value=projection(path, "attention.value_weight"),
            attention_output=linear(path, "attention.output_weight"),
            gate=projection(path, "feed_forward.gating.gate.weight") if family.is_gated else None,
            up=projection(path, "feed_forward.up.weight"),
            down=linear(path, "feed_forward.down.weight"),
            heads=sizes.heads,
            head_size=sizes.head_size,
            columns=sizes.intermediate,
            times=paths.count(path),
            shape=family.layer_shape(config),
        )
        for path in dict.fromkeys(paths)
    )


@dataclass(frozen=True, slots=True, eq=False)
class ParameterGroup:
    """Parameters of a method (scores, gates, multipliers) with settings of their own.

    They are registered in the model, each under one name, so that the Trainer's checkpoints hold them. `learning_rate` is
    the peak of the model's schedule, or holds throughout with `constant_rate`. With `maximize` the gradient is ascended
    (multipliers).
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    weight_decay: float = 0.0
    maximize: bool = False
    constant_rate: bool = False


class MaskingMethod(Protocol):
    """Puts masks on an untouched transformers model as parametrizations, and removes them again.

    `attach` is called once; then for each optimiser step `set_step`, forward passes, `penalty` and the backward pass; at the
    end `apply_masks`. For exact resuming, the effect of `set_step` depends only on the step and the model's state dict, and
    random numbers come from torch's default generators, which the Trainer's checkpoints hold.
    """

    def attach(self, model: nn.Module, layers: Sequence[LayerModules]) -> None:
        """Registers the parametrizations, and freezes (`requires_grad_(False)`) the weights that are not trained."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """Returns the method's own parameters; all other parameters with gradients are the model's."""

    def set_step(self, step: int, total: int) -> None:
        """Moves to optimiser step `step` (from 0) of `total`; called with `step == total` before `apply_masks`."""

    def penalty(self) -> Tensor:
        """Returns the term that is added to the loss of a batch: a scalar, 0 where there is none."""

    def statistics(self) -> dict[str, float]:
        """Returns numbers for the log: `heads_left`, `columns_left`, `flops_left` (a fraction), and the method's own."""

    def apply_masks(self) -> None:
        """Removes the parametrizations; masked weights and biases become zeros."""


# --- stages -----------------------------------------------------------------------------------------------------------


class Objective(Protocol):
    """Replaces the task's own loss (distillation)."""

    def attach(self, model: nn.Module) -> None:
        """Prepares for `model`, the network that is trained; called once, with the network on its device."""

    def loss(self, task_loss: Tensor, outputs: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the whole loss of a batch, and its parts (scalars) for the log.

        `outputs` are those of the network, `inputs` its inputs, labels included.
        """

    def detach(self) -> None:
        """Reverts `attach`."""


MakeObjective = Callable[[Context, Checkpoint], Objective]


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One training, from a checkpoint to a masked one.

    - `prepare(start, folder, context)` writes the checkpoint to start from, made of the one in `start`, into `folder`, which
      does not exist yet. None: the stage starts from `start` itself.
    - `method(context, checkpoint)` makes the method that masks the network. None: nothing is pruned further.
    - `initialize(context, checkpoint, method)` is called once where a training begins (not where it is resumed), with the
      method attached.
    - `objective(context, checkpoint)` makes the loss. None: the task's own.
    - `slim`, for stages without a method: the network is trained as a slim one (SlimModel), in which zeros within kept units
      may grow back. None: if anything is pruned.
    - `steps`, `epochs`, `learning_rate`. None: those of the recipe.
    - `publish`: the result is put beside `final/` under the stage's name.
    - `flops_fraction` is the approximate fraction of the model's FLOPs that the trained network has, `added_weights` the
      number of parameters that the method adds per weight of the encoder's layers; both are for estimates.
    - `check(context)` raises the errors of `prepare` that can be known before the first stage.
    """

    name: str
    prepare: Callable[[Path, Path, Context], None] | None = None
    method: Callable[[Context, Checkpoint], MaskingMethod] | None = None
    initialize: Callable[[Context, Checkpoint, Any], None] | None = None
    objective: MakeObjective | None = None
    slim: bool | None = False
    steps: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    publish: bool = False
    flops_fraction: float = 1.0
    added_weights: float = 0.0
    check: Callable[[Context], None] | None = None


# --- the registry -----------------------------------------------------------------------------------------------------


def _all_layers(_config: Any, layers: int) -> int:
    return layers


@dataclass(frozen=True, slots=True)
class TrainingMethod:
    """A method's entry in the registry (`methods.METHODS`).

    - `kind` is its name in `[method]`, `config` the dataclass of its keys, `stages(recipe, config)` returns its trainings.
    - `prunes`: it takes a budget.
    - `trains_slim`: it trains a slim checkpoint as it is.
    - `distils`: it learns from the recipe's teacher even without `[distillation]`.
    - `lengths` are the trainings with keys `<length>_steps` and `<length>_epochs`, which exclude each other like the pairs
      of `exclusive` keys. Without `uses_schedule` it has no other lengths.
    - `teacher_keys` are the keys that name further teachers.
    - `layers(config, count)` returns the number of layers of the trained network, of the model's `count`.
    """

    kind: str
    config: type[MethodConfig]
    stages: Callable[[Recipe, Any], tuple[Stage, ...]]
    prunes: bool = True
    trains_slim: bool = False
    distils: bool = False
    uses_schedule: bool = True
    lengths: tuple[str, ...] = ()
    exclusive: tuple[tuple[str, str], ...] = ()
    teacher_keys: tuple[str, ...] = ()
    layers: Callable[[Any, int], int] = _all_layers

    @property
    def alternatives(self) -> tuple[tuple[str, str], ...]:
        """Returns the pairs of keys that exclude each other."""
        return (*((f"{length}_steps", f"{length}_epochs") for length in self.lengths), *self.exclusive)
