"""Movement pruning: scores that are learnt with the weights decide which blocks, heads and columns are kept.

Sanh et al. 2020, "Movement Pruning"; Lagunas et al. 2021, "Block Pruning For Faster Transformers".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from exporters.cost import LayerShape, flops_per_token, layer_shape
from exporters.errors import UsageError
from prune_export.checkpoint.load import Checkpoint
from prune_export.options.option import Option
from prune_export.pruning.costs import Costs, flops_costs
from prune_export.pruning.scores import LayerScores
from prune_export.pruning.selection import Kept, select
from prune_export.training.distillation import distiller_of
from prune_export.training.importance import budget_length, initial_scores
from prune_export.training.keys import Count, Epochs, Fraction, NotNegative, Positive, SomeExamples
from prune_export.training.methods.movement_masks import (
    BlockScores,
    Level,
    MaskedLayer,
    Selection,
    Shape,
    apply_masks,
    attach_masks,
    cubic,
)
from prune_export.training.recipe import MethodConfig, Recipe, ScheduleSection
from prune_export.training.stage import Context, LayerModules, MaskingMethod, ParameterGroup, Stage, TrainingMethod

Penalty = Literal["l1", "l0", "none"]
Initial = Literal["constant", "fisher"]

# (initial, final): the fraction that is kept, or the threshold.
_THRESHOLDS: dict[Selection, tuple[float, float]] = {
    "topk": (1.0, 0.5),
    "threshold": (-3.0, 0.0),
    "sigmoid_threshold": (0.0, 0.1),
}


@dataclass(frozen=True, slots=True)
class MovementConfig(MethodConfig):
    """`[method]` with `kind = "movement"`: each unit of a weight has a score, and what scores low is masked.

    With a budget of FLOPs, which needs `hybrid` or `struct`, scores only rank: `selection` and thresholds mean nothing, and
    what stays is chosen anew every `refresh` steps.
    """

    shape: Annotated[
        Shape,
        Option(
            "units: blocks in attention and columns in the feed-forward network (`hybrid`), heads and columns (`struct`), "
            "blocks (`block`), single weights (`unstructured`)"
        ),
    ] = "hybrid"
    block: Annotated[
        tuple[Count, Count],
        Option("rows and columns of a block of query, key and value (transposed in the output projection)"),
    ] = (32, 32)
    selection: Annotated[Selection, Option("the highest scores stay, or those above a threshold")] = "sigmoid_threshold"
    initial_threshold: Annotated[
        float | None,
        Option("fraction kept (`topk`) or threshold at first; none: 1, -3 (`threshold`) or 0 (its sigmoid)"),
    ] = None
    final_threshold: Annotated[
        float | None, Option("the same at the end; none: 0.5, 0 (`threshold`) or 0.1 (its sigmoid)")
    ] = None
    initial: Annotated[Initial, Option("scores begin alike, or in the order of the Fisher information per FLOP")] = (
        "constant"
    )
    initial_score: Annotated[float, Option("where scores begin")] = 0.0
    initial_spread: Annotated[NotNegative, Option("how far from it, up and down, with `fisher`")] = 1.0
    initial_samples: Annotated[SomeExamples, Option("training examples for the Fisher information")] = 512
    least: Annotated[Fraction, Option("the fraction of each score tensor that stays whatever the threshold")] = 0.005
    penalty: Annotated[
        Penalty | None, Option("pushes scores down; none: `l1` with a threshold and no budget, otherwise `none`")
    ] = None
    penalty_weight: Annotated[NotNegative, Option("how much; with a threshold it decides the size")] = 10.0
    attention_penalty: Annotated[NotNegative, Option("times `penalty_weight`, in attention")] = 1.0
    feed_forward_penalty: Annotated[NotNegative, Option("times `penalty_weight`, in the feed-forward network")] = 1.0
    refresh: Annotated[Count, Option("steps between choices of what stays (budget of FLOPs)")] = 4
    fill: Annotated[
        bool, Option("trains what is left once more, as a slim network; zeros in kept heads may grow back")
    ] = False
    fill_steps: Annotated[
        Count | None, Option("length of that; instead of `fill_epochs`; none: as long as the first training")
    ] = None
    fill_epochs: Annotated[Epochs | None, Option("the same in epochs; instead of `fill_steps`")] = None
    fill_learning_rate: Annotated[Positive | None, Option("the highest learning rate of that; none: the recipe's")] = (
        None
    )


def stages(recipe: Recipe, config: MovementConfig) -> tuple[Stage, ...]:
    """Returns one stage, or two with `fill`.

    Raises:
        UsageError: the budget is of the wrong kind, or a setting is out of range.
    """
    _check(recipe, config)
    objective = distiller_of(recipe)
    pruning = Stage(
        "movement",
        method=partial(_movement_pruning, config=config),
        initialize=partial(_initialize, config=config) if config.initial == "fisher" else None,
        objective=objective,
        added_weights=1.0 if config.shape == "unstructured" else 0.0,
    )
    if not config.fill:
        return (pruning,)
    filling = Stage(
        "fill",
        objective=objective,
        slim=True,
        steps=config.fill_steps,
        epochs=config.fill_epochs,
        learning_rate=config.fill_learning_rate,
        flops_fraction=recipe.budget.flops[0] if recipe.budget.flops else 1.0,
    )
    return (pruning, filling)


METHOD = TrainingMethod("movement", MovementConfig, stages, lengths=("fill",))


def _check(recipe: Recipe, config: MovementConfig) -> None:
    budget = recipe.budget
    if len(budget.flops) > 1 or budget.heads is not None or budget.columns is not None:
        raise UsageError("budget: movement pruning takes one fraction of FLOPs, or none (a threshold decides then)")
    if budget.flops and config.shape not in ("hybrid", "struct"):
        raise UsageError(
            f"budget.flops with method.shape = '{config.shape}': expected 'hybrid' or 'struct', whose units are heads and "
            "columns; otherwise a threshold decides what stays"
        )
    if config.initial == "fisher" and config.shape not in ("hybrid", "struct"):
        raise UsageError(
            "method.initial = 'fisher': expected shape 'hybrid' or 'struct', whose units are heads and columns"
        )
    if config.selection == "topk":
        for name, fraction in (("initial", config.initial_threshold), ("final", config.final_threshold)):
            if fraction is not None and not 0 <= fraction <= 1:
                raise UsageError(f"method.{name}_threshold = {fraction:g}: topk needs a fraction from 0 to 1")


def _initialize(context: Context, checkpoint: Checkpoint, method: MovementPruning, *, config: MovementConfig) -> None:
    scores = initial_scores(context, checkpoint, samples=config.initial_samples, spread=config.initial_spread)
    method.add_to_scores(scores)


def _movement_pruning(context: Context, checkpoint: Checkpoint, *, config: MovementConfig) -> MaskingMethod:
    recipe = context.recipe
    length = budget_length(recipe, checkpoint)
    if config.shape == "hybrid" and (recipe.budget.flops or config.initial == "fisher"):
        head_size = max(layer_shape(layer).query_key_size for layer in checkpoint.encoder.layers)
        if head_size % config.block[0]:
            raise UsageError(
                f"method.block = {list(config.block)}: with a budget of FLOPs, or initial = 'fisher', a block's rows "
                f"have to lie within one head, whose size is {head_size} here"
            )
    budget = None
    if recipe.budget.flops:
        budget = FlopsBudget(recipe.budget.flops[0], flops_costs(checkpoint.encoder, sequence_length=length))
    return MovementPruning(
        config,
        recipe.schedule,
        score_learning_rate=recipe.optimiser.score_learning_rate,
        sequence_length=length,
        budget=budget,
    )


# --- the method -------------------------------------------------------------------------------------------------------

# Louizos et al. 2018: with beta = 2/3, gamma = -0.1, zeta = 1.1 the chance that a hard concrete gate is not 0 is the
# sigmoid of its score minus this.
_L0_SHIFT = 2 / 3 * log(0.1 / 1.1)


@dataclass(frozen=True, slots=True)
class FlopsBudget:
    """A `fraction` of the unpruned encoder's FLOPs, by `costs`."""

    fraction: float
    costs: Costs


class MovementPruning:
    """Scores on each linear map, a schedule of their threshold or of the budget, and a penalty that lowers them."""

    def __init__(
        self,
        config: MovementConfig,
        schedule: ScheduleSection,
        *,
        score_learning_rate: float,
        sequence_length: int,
        budget: FlopsBudget | None = None,
    ) -> None:
        if budget is not None and config.shape not in ("hybrid", "struct"):
            raise UsageError(
                f"budget.flops with method.shape = '{config.shape}': expected 'hybrid' or 'struct', whose units are heads "
                "and columns; otherwise give a threshold instead of a budget"
            )
        self.config, self.schedule, self.budget = config, schedule, budget
        self.score_learning_rate, self.sequence_length = score_learning_rate, sequence_length
        initial, final = _THRESHOLDS[config.selection]
        self._initial = initial if config.initial_threshold is None else config.initial_threshold
        self._final = final if config.final_threshold is None else config.final_threshold
        self._level = Level(config.selection, self._initial, config.least)
        self._layers: tuple[MaskedLayer, ...] = ()
        self._ramp = 0.0
        self._kept_fraction = 1.0

    def attach(self, model: nn.Module, layers: Sequence[LayerModules]) -> None:  # noqa: ARG002
        def make(rows: int, columns: int) -> BlockScores:
            initial = self.config.initial_score
            return BlockScores(rows, columns, self._level, initial=initial, chosen=self.budget is not None)

        self._layers = tuple(attach_masks(layer, self.config.shape, self.config.block, make) for layer in layers)

    def add_to_scores(self, scores: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Adds `scores`, `[heads]` and `[columns]` per layer, to those of the layer's heads and columns."""
        for layer, (heads, columns) in zip(self._layers, scores, strict=True):
            layer.add(heads, columns)

    def parameter_groups(self) -> list[ParameterGroup]:
        values = tuple(scores.values for layer in self._layers for scores in (*layer.attention, *layer.feed_forward))
        return [ParameterGroup("scores", values, self.score_learning_rate)]

    def set_step(self, step: int, total: int) -> None:
        warmup, cooldown = self.schedule.warmup, self.schedule.cooldown
        self._ramp = cubic(step, total, initial=0.0, final=1.0, warmup=warmup, cooldown=cooldown)
        if self.budget is None:
            self._level.value = self._initial + (self._final - self._initial) * self._ramp
        elif step % self.config.refresh == 0 or step >= total:
            self._kept_fraction = 1.0 + (self.budget.fraction - 1.0) * self._ramp
            self._choose(self.budget.costs, self._kept_fraction)

    @torch.no_grad()
    def _choose(self, costs: Costs, fraction: float) -> None:
        """Fills the masks with the units that `select` keeps for `fraction` of the unpruned cost.

        The importance of a unit is sigmoid(its score) times its FLOPs, so that the kept units are, up to the last one, those
        above one threshold of scores in the whole network.
        """
        heads = [layer.head_scores() for layer in self._layers]
        columns = [layer.column_scores() for layer in self._layers]
        if fraction >= 1.0:
            kept: Kept = tuple(
                (tuple(range(len(h))), tuple(range(len(c)))) for h, c in zip(heads, columns, strict=True)
            )
        else:
            importance = [
                LayerScores(h.sigmoid() * costs.heads[index][1], c.sigmoid() * costs.columns[index][1])
                for index, (h, c) in enumerate(zip(heads, columns, strict=True))
            ]
            kept = select(importance, costs, fraction * costs.dense)
        chosen = [
            *(h[list(keep)] for h, (keep, _) in zip(heads, kept, strict=True)),
            *(c[list(keep)] for c, (_, keep) in zip(columns, kept, strict=True)),
        ]
        lowest = float(torch.cat(chosen).min()) if fraction < 1.0 and any(map(len, chosen)) else float("-inf")
        for layer, (kept_heads, kept_columns) in zip(self._layers, kept, strict=True):
            layer.fill_masks(kept_heads, kept_columns, lowest)

    def penalty(self) -> Tensor:
        """Returns `weight * ramp * 1/2 * sum over (attention, feed-forward) of its weight * mean over tensors of R(S)`.

        R is the mean of sigmoid(S) ("l1") or of sigmoid(S - 2/3 log(0.1/1.1)) ("l0", Louizos et al. 2018): the penalty of
        Lagunas et al. 2021, as nn_pruning's `regularization_loss` has it.
        """
        kind = self.config.penalty
        if kind is None:
            kind = "none" if self.budget is not None or self.config.selection == "topk" else "l1"
        device = self._layers[0].query.values.device
        if kind == "none":
            return torch.zeros((), device=device)
        shift = _L0_SHIFT if kind == "l0" else 0.0
        attention = [scores.values for layer in self._layers for scores in layer.attention]
        feed_forward = [scores.values for layer in self._layers for scores in layer.feed_forward]
        total = torch.zeros((), device=device)
        for weight, tensors in (
            (self.config.attention_penalty, attention),
            (self.config.feed_forward_penalty, feed_forward),
        ):
            total = total + 0.5 * weight * torch.stack([(values - shift).sigmoid().mean() for values in tensors]).mean()
        return self.config.penalty_weight * self._ramp * total

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        weights = [weight for layer in self._layers for weight in layer.fractions_kept()]
        kept, size = sum(fraction * size for fraction, size in weights), sum(size for _, size in weights)
        level = {"budget": self._kept_fraction} if self.budget is not None else {"threshold": self._level.value}
        return {"sparsity": 1 - kept / size} | self._remaining() | level

    def _remaining(self) -> dict[str, float]:
        """Returns `heads_left`, `columns_left` and `flops_left` (a fraction)."""
        shapes = [layer.shape() for layer in self._layers]
        modules = [layer.modules for layer in self._layers]
        dense = [layer.shape for layer in modules]

        def flops(shapes: Sequence[LayerShape]) -> int:
            return sum(
                layer.times * flops_per_token((shape,), hidden_size=layer.hidden, sequence_length=self.sequence_length)
                for layer, shape in zip(modules, shapes, strict=True)
            )

        return {
            "heads_left": float(sum(shape.heads for shape in shapes)),
            "columns_left": float(sum(shape.columns for shape in shapes)),
            "flops_left": flops(shapes) / flops(dense),
        }

    def apply_masks(self) -> None:
        for layer in self._layers:
            apply_masks(layer.modules)
