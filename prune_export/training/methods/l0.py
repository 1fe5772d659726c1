"""L0 regularization: hard concrete gates on heads and columns, a constraint on their cost, then retraining."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from exporters.errors import UsageError
from prune_export.checkpoint.load import Checkpoint
from prune_export.options.option import Option
from prune_export.pruning.costs import Costs, flops_costs
from prune_export.pruning.scores import LayerScores
from prune_export.pruning.selection import Kept, select, select_counts
from prune_export.training.distillation import distiller_of
from prune_export.training.importance import budget_length, initial_scores
from prune_export.training.keys import CountOrZero, EpochsOrZero, NotNegative, Positive, SomeExamples
from prune_export.training.methods.l0_gates import HardConcreteGates, LayerGates, add_gates, lagrangian, target_at
from prune_export.training.recipe import MethodConfig, Recipe
from prune_export.training.stage import Context, LayerModules, MaskingMethod, ParameterGroup, Stage, TrainingMethod

Blocks = Literal["both", "attention", "feed_forward"]
Constraint = Literal["lagrangian", "penalty"]
Initial = Literal["constant", "fisher"]


@dataclass(frozen=True, slots=True)
class L0Config(MethodConfig):
    """`[method]` with `kind = "l0"`: hard concrete gates on heads and feed-forward columns, then retraining.

    Whatever the constraint, no more than the budget is left at the end; with "penalty" and no budget, gates that are 0 at
    test time go. Gates learn at the constant rate `optimiser.score_learning_rate`.
    """

    frozen: Annotated[bool, Option("gates are trained alone; otherwise together with the weights")] = True
    blocks: Annotated[Blocks, Option("what has gates")] = "both"
    constraint: Annotated[
        Constraint,
        Option(
            "a Lagrangian holds what is expected to be left at a target that moves to the budget; a penalty adds to the loss"
        ),
    ] = "lagrangian"
    attention_penalty: Annotated[NotNegative, Option("times the expected fraction of open heads (penalty)")] = 1.0
    feed_forward_penalty: Annotated[NotNegative, Option("times the expected fraction of open columns (penalty)")] = 1.0
    multiplier_learning_rate: Annotated[
        Positive | None, Option("that of the Lagrangian's multipliers; none: ten times that of the gates")
    ] = None
    initial: Annotated[Initial, Option("gates begin alike, or in the order of the Fisher information per FLOP")] = (
        "constant"
    )
    initial_log_alpha: Annotated[float, Option("where log α begins")] = 2.5
    initial_spread: Annotated[NotNegative, Option("how far from it, up and down, with `fisher`")] = 1.0
    initial_samples: Annotated[SomeExamples, Option("training examples for the Fisher information")] = 512
    temperature: Annotated[Positive, Option("β of the hard concrete distribution")] = 2 / 3
    distil_gates: Annotated[bool, Option("the recipe's distillation also while gates are trained")] = False
    retrain_steps: Annotated[
        CountOrZero | None,
        Option("trains what is left, as a slim network; instead of `retrain_epochs`; none: no retraining"),
    ] = None
    retrain_epochs: Annotated[EpochsOrZero | None, Option("the same in epochs; instead of `retrain_steps`")] = None
    retrain_learning_rate: Annotated[
        Positive | None, Option("the highest learning rate of that; none: the recipe's")
    ] = None


@dataclass(frozen=True, slots=True)
class L0Target:
    """The fractions to keep: of the `flops` of all blocks together, or of `heads` and `columns` each.

    If all are None, the gates alone decide.
    """

    flops: float | None = None
    heads: float | None = None
    columns: float | None = None

    @property
    def separate(self) -> bool:
        """Says whether heads and columns have targets of their own."""
        return self.heads is not None or self.columns is not None


def stages(recipe: Recipe, config: L0Config) -> tuple[Stage, ...]:
    """Returns one stage, or two with retraining.

    Raises:
        UsageError: the budget is of the wrong kind, or a setting is out of range.
    """
    budget = recipe.budget
    if len(budget.flops) > 1:
        raise UsageError(f"budget.flops: l0 gates lead to one budget; found {list(budget.flops)}")
    target = L0Target(budget.flops[0] if budget.flops else None, budget.heads, budget.columns)
    if target.flops is None and not target.separate and config.constraint == "lagrangian":
        raise UsageError('budget: a Lagrangian needs a target: flops, or heads and columns; or constraint = "penalty"')
    for name, without in (("heads", "feed_forward"), ("columns", "attention")):
        if getattr(target, name) is not None and config.blocks == without:
            raise UsageError(f"budget.{name} with method.blocks = '{without}': {name} have no gates then")
    objective = distiller_of(recipe)
    gates = Stage(
        name="gates",
        method=partial(_l0_gates, config=config, target=target),
        initialize=partial(_initialize, config=config) if config.initial == "fisher" else None,
        objective=objective if config.distil_gates else None,
    )
    if not (config.retrain_steps or config.retrain_epochs):
        return (gates,)
    retraining = Stage(
        name="retraining",
        objective=objective,
        slim=True,
        steps=config.retrain_steps,
        epochs=config.retrain_epochs,
        learning_rate=config.retrain_learning_rate,
        flops_fraction=recipe.budget.flops[0] if recipe.budget.flops else 1.0,
    )
    return (gates, retraining)


METHOD = TrainingMethod("l0", L0Config, stages, lengths=("retrain",))


def _initialize(context: Context, checkpoint: Checkpoint, method: L0Gates, *, config: L0Config) -> None:
    scores = initial_scores(context, checkpoint, samples=config.initial_samples, spread=config.initial_spread)
    method.add_to_log_alpha(scores)


def _l0_gates(context: Context, checkpoint: Checkpoint, *, config: L0Config, target: L0Target) -> MaskingMethod:
    recipe = context.recipe
    costs = flops_costs(checkpoint.encoder, sequence_length=budget_length(recipe, checkpoint))
    without = {"both": (), "attention": costs.columns, "feed_forward": costs.heads}[config.blocks]
    least = (costs.fixed + sum(by_count[-1] for by_count in without)) / costs.dense
    if target.flops is not None and target.flops < least:
        raise UsageError(
            f"budget.flops = {target.flops:g} cannot be met with method.blocks = '{config.blocks}': the blocks without "
            f"gates take {least:.3g} of the FLOPs; ask for more, or put gates on both"
        )
    return L0Gates(
        config,
        target,
        costs,
        learning_rate=recipe.optimiser.score_learning_rate,
        warmup=recipe.schedule.warmup,
        cooldown=recipe.schedule.cooldown,
        seed=recipe.seed,
    )


# --- the method -------------------------------------------------------------------------------------------------------

_MULTIPLIERS = "l0_multipliers"  # the name in the model's state dict
# The constraint's gradient by one column's gate is that column's share of all FLOPs: λ has to grow large, and needs a high
# learning rate to do so within a run of hundreds of steps.
_MULTIPLIERS_AHEAD = 10
_SEED_STRIDE = 1_000_003  # seeds of neighbouring runs share no step's numbers


class L0Gates:
    """One gate per head on each attention output projection, and one per column on each down projection.

    `costs` are those of the unpruned network. The gates' noise follows from `seed` and the step alone: every process draws
    the same, and so does a resumed run.
    """

    def __init__(
        self,
        config: L0Config,
        target: L0Target,
        costs: Costs,
        *,
        learning_rate: float,
        warmup: float,
        cooldown: float,
        seed: int,
    ) -> None:
        self.config, self.target, self.costs = config, target, costs
        self.learning_rate, self.warmup, self.cooldown, self.seed = learning_rate, warmup, cooldown, seed
        self._gated: list[LayerGates] = []
        self._ramp = 0.0  # rises from 0 to 1 as the target moves to the budget
        self._left: dict[str, float] | None = None  # after the end

    def attach(self, model: nn.Module, layers: Sequence[LayerModules]) -> None:
        if self.config.frozen:
            model.requires_grad_(False)
        self._model, self._layers = model, tuple(layers)
        options = {"initial": self.config.initial_log_alpha, "temperature": self.config.temperature}
        for index, layer in enumerate(layers):
            if self.config.blocks != "feed_forward":
                gates = HardConcreteGates(layer.heads, layer.head_size, **options)
                add_gates(layer.attention_output, gates.to(layer.attention_output.weight.device))
                self._gated.append(LayerGates("heads", index, layer, gates, self.costs.heads[index][1]))
            if self.config.blocks != "attention":
                gates = HardConcreteGates(layer.columns, 1, **options)
                add_gates(layer.down, gates.to(layer.down.weight.device))
                self._gated.append(LayerGates("columns", index, layer, gates, self.costs.columns[index][1]))
        if self.config.constraint == "lagrangian":
            zeros = torch.zeros(len(self._constraints()), 2, device=layers[0].down.weight.device)
            model.register_parameter(_MULTIPLIERS, nn.Parameter(zeros))

    @torch.no_grad()
    def add_to_log_alpha(self, scores: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Adds `scores`, `[heads]` and `[columns]` per layer, to the log α of the layer's heads and columns."""
        for block in self._gated:
            block.gates.log_alpha.add_(scores[block.layer][block.index].to(block.gates.log_alpha.device))

    def parameter_groups(self) -> list[ParameterGroup]:
        gates = tuple(block.gates.log_alpha for block in self._gated)
        groups = [ParameterGroup("gates", gates, self.learning_rate, constant_rate=True)]
        if self.config.constraint == "lagrangian":
            rate = self.config.multiplier_learning_rate
            rate = _MULTIPLIERS_AHEAD * self.learning_rate if rate is None else rate
            groups.append(ParameterGroup("multipliers", (self._multipliers,), rate, maximize=True, constant_rate=True))
        return groups

    def set_step(self, step: int, total: int) -> None:
        self._ramp = target_at(step, total, 1.0, warmup=self.warmup, cooldown=self.cooldown)
        generator = torch.Generator().manual_seed(self.seed * _SEED_STRIDE + step)
        for block in self._gated:
            block.gates.draw(generator)

    def penalty(self) -> Tensor:
        if self.config.constraint == "penalty":
            attention, feed_forward = self.config.attention_penalty, self.config.feed_forward_penalty
            return attention * self._open("heads") + feed_forward * self._open("columns")
        return torch.stack(
            [
                lagrangian(1 - left, self._ramp * (1 - target), self._multipliers[row])
                for row, (_, left, target) in enumerate(self._constraints())
            ]
        ).sum()

    def statistics(self) -> dict[str, float]:
        if self._left is not None:
            return self._left
        with torch.no_grad():
            statistics = {
                "heads_left": float(self._expected("heads")),
                "columns_left": float(self._expected("columns")),
                "flops_left": float(self._flops()),
            }
            if self.config.constraint == "lagrangian":
                for row, (name, _, target) in enumerate(self._constraints()):
                    statistics[f"{name}_target"] = 1 - self._ramp * (1 - target)
                    lambda_1, lambda_2 = self._multipliers[row].tolist()
                    statistics[f"{name}_lambda_1"], statistics[f"{name}_lambda_2"] = lambda_1, lambda_2
        return statistics

    def apply_masks(self) -> None:
        kept, counts = self.kept(), [[layer.heads, layer.columns] for layer in self._layers]
        for block in self._gated:
            counts[block.layer][block.index] = block.apply(kept[block.layer][block.index])
        if self.config.constraint == "lagrangian":
            delattr(self._model, _MULTIPLIERS)
        self._model.requires_grad_(True)
        self._left = {
            "heads_left": float(sum(heads for heads, _ in counts)),
            "columns_left": float(sum(columns for _, columns in counts)),
            "flops_left": self.costs.total(tuple((heads, columns) for heads, columns in counts)) / self.costs.dense,
        }

    # --- what is left -------------------------------------------------------------------------------------------------

    def kept(self) -> Kept:
        """Returns the units to keep within the budget: those whose gates are most likely to be open.

        The importance of a unit is P(z ≠ 0) times its cost, so that heads and columns are taken in the order of P alone.
        """
        target = self.target
        if target.separate:
            heads = math.floor(self._count("heads") * _or_all(target.heads))
            columns = math.floor(self._count("columns") * _or_all(target.columns))
            return select_counts(self._scores(weighted=False), heads, columns)
        if target.flops is not None:
            return select(self._scores(weighted=True), self.costs, target.flops * self.costs.dense)
        open_units = [[tuple(range(layer.heads)), tuple(range(layer.columns))] for layer in self._layers]
        for block in self._gated:
            open_units[block.layer][block.index] = tuple(torch.nonzero(block.at_test_time()).flatten().tolist())
        return tuple((heads, columns) for heads, columns in open_units)

    def _scores(self, *, weighted: bool) -> tuple[LayerScores, ...]:
        """Returns the importance of all units; that of units without gates is higher than that of any gated one."""
        importance = [
            [torch.full((count,), 2.0, dtype=torch.float64) for count in (layer.heads, layer.columns)]
            for layer in self._layers
        ]
        for block in self._gated:
            importance[block.layer][block.index] = block.gates.log_alpha.detach().double().sigmoid().cpu()
        if weighted:
            for index, (heads, columns) in enumerate(importance):
                importance[index] = [heads * self.costs.heads[index][1], columns * self.costs.columns[index][1]]
        return tuple(LayerScores(heads, columns) for heads, columns in importance)

    # --- the constraint -----------------------------------------------------------------------------------------------

    @property
    def _multipliers(self) -> nn.Parameter:
        multipliers = getattr(self._model, _MULTIPLIERS)
        assert isinstance(multipliers, nn.Parameter)
        return multipliers

    def _expected(self, kind: str) -> Tensor:
        """Returns the expected number of open units; units without gates are always open."""
        open_units = [block.gates.probabilities().sum() for block in self._gated if block.kind == kind]
        return torch.stack(open_units).sum() if open_units else torch.tensor(float(self._count(kind)))

    def _open(self, kind: str) -> Tensor:
        return self._expected(kind) / self._count(kind)

    def _count(self, kind: str) -> int:
        return sum(getattr(layer, kind) for layer in self._layers)

    def _flops(self) -> Tensor:
        """Returns the expected fraction of FLOPs."""
        gated = torch.stack([block.gates.probabilities().sum() * block.cost for block in self._gated]).sum()
        all_gated = sum(block.gates.log_alpha.numel() * block.cost for block in self._gated)
        return (gated + (self.costs.dense - all_gated)) / self.costs.dense

    def _constraints(self) -> list[tuple[str, Tensor, float]]:
        """Returns for each constraint its name, the expected fraction that is kept, and the target fraction."""
        target = self.target
        if target.separate:
            targets = {"heads": _or_all(target.heads), "columns": _or_all(target.columns)}
            kinds = {block.kind for block in self._gated}
            return [(kind, self._open(kind), targets[kind]) for kind in ("heads", "columns") if kind in kinds]
        return [("flops", self._flops(), _or_all(target.flops))]


def _or_all(fraction: float | None) -> float:
    return 1.0 if fraction is None else fraction
