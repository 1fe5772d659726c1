"""L0 gates as a method: gates on heads and columns, a constraint on what they cost, an exact end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from prune_export.pruning.costs import Costs
from prune_export.pruning.scores import LayerScores
from prune_export.pruning.selection import Kept, select, select_counts
from prune_export.training.l0.config import L0Config
from prune_export.training.l0.gates import Gates, put_on, take_off
from prune_export.training.l0.hard_concrete import at_test_time
from prune_export.training.l0.lagrangian import lagrangian, target_at
from prune_export.training.layers import LayerModules
from prune_export.training.method import ParameterGroup

_MULTIPLIERS = "l0_multipliers"  # the name in the model's state dict
# The constraint's gradient with respect to one column's gate is that column's share of all FLOPs: λ has to grow large, which
# within a run of hundreds of steps only a fast one does.
_MULTIPLIERS_AHEAD = 10
_SEED_STRIDE = 1_000_003  # seeds of neighbouring runs share no step's numbers


@dataclass(frozen=True, slots=True)
class Target:
    """What stays, as fractions: `flops` of both kinds of blocks together, or of `heads` and `columns` each; all None:
    as much as the gates leave."""

    flops: float | None = None
    heads: float | None = None
    columns: float | None = None

    @property
    def separate(self) -> bool:
        return self.heads is not None or self.columns is not None


@dataclass(frozen=True, slots=True)
class _Gated:
    """The gates of one kind in one layer; `cost` is what one unit costs in the whole network."""

    kind: Literal["heads", "columns"]
    layer: int
    gates: Gates
    cost: float


class L0Gates:
    """One gate a head on each attention output projection, one a column on each down projection.

    `costs` are those of the network in `checkpoint`'s layers; `seed` decides the gates' noise, which is that of the
    step alone: every process draws the same, and a run that goes on draws what it would have drawn.
    """

    def __init__(
        self,
        config: L0Config,
        target: Target,
        costs: Costs,
        *,
        learning_rate: float,
        warmup: float,
        cooldown: float,
        seed: int,
    ) -> None:
        self.config, self.target, self.costs = config, target, costs
        self.learning_rate, self.warmup, self.cooldown, self.seed = learning_rate, warmup, cooldown, seed
        self._gated: list[_Gated] = []
        self._progress = 0.0  # how much of the way to the target is asked for
        self._left: dict[str, float] | None = None  # after the end

    # --- the contract -------------------------------------------------------------------------------------------------

    def attach(self, model: nn.Module, layers: Sequence[LayerModules]) -> None:
        if self.config.frozen:
            model.requires_grad_(False)
        self._model, self._layers = model, tuple(layers)
        options = {"initial": self.config.initial_log_alpha, "temperature": self.config.temperature}
        for index, layer in enumerate(layers):
            if self.config.blocks != "feed_forward":
                gates = Gates(layer.heads, layer.head_size, **options)
                put_on(layer.attention_output, gates.to(layer.attention_output.weight.device))
                self._gated.append(_Gated("heads", index, gates, self.costs.heads[index][1]))
            if self.config.blocks != "attention":
                gates = Gates(layer.columns, 1, **options)
                put_on(layer.down, gates.to(layer.down.weight.device))
                self._gated.append(_Gated("columns", index, gates, self.costs.columns[index][1]))
        if self.config.constraint == "lagrangian":
            zeros = torch.zeros(len(self._constraints()), 2, device=layers[0].down.bias.device)
            model.register_parameter(_MULTIPLIERS, nn.Parameter(zeros))

    @torch.no_grad()
    def begin_at(self, units: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Adds to each log α what `units` says for its layer's heads or columns."""
        for part in self._gated:
            heads, columns = units[part.layer]
            part.gates.log_alpha.add_((heads if part.kind == "heads" else columns).to(part.gates.log_alpha.device))

    def parameter_groups(self) -> list[ParameterGroup]:
        gates = tuple(part.gates.log_alpha for part in self._gated)
        groups = [ParameterGroup("gates", gates, self.learning_rate, constant_rate=True)]
        if self.config.constraint == "lagrangian":
            rate = self.config.multiplier_learning_rate
            rate = _MULTIPLIERS_AHEAD * self.learning_rate if rate is None else rate
            groups.append(ParameterGroup("multipliers", (self._multipliers,), rate, maximize=True, constant_rate=True))
        return groups

    def set_step(self, step: int, total: int) -> None:
        self._progress = target_at(step, total, 1.0, warmup=self.warmup, cooldown=self.cooldown)
        generator = torch.Generator().manual_seed(self.seed * _SEED_STRIDE + step)
        for part in self._gated:
            part.gates.draw(generator)

    def penalty(self) -> Tensor:
        if self.config.constraint == "penalty":
            return self.config.attention_penalty * self._open("heads") + self.config.feed_forward_penalty * self._open(
                "columns"
            )
        return torch.stack(
            [
                lagrangian(1 - left, self._progress * (1 - wanted), self._multipliers[row])
                for row, (_, left, wanted) in enumerate(self._constraints())
            ]
        ).sum()

    def statistics(self) -> dict[str, float]:
        if self._left is not None:
            return self._left
        with torch.no_grad():
            found = {
                "heads_left": float(self._expected("heads")),
                "columns_left": float(self._expected("columns")),
                "flops_left": float(self._flops()),
            }
            if self.config.constraint == "lagrangian":
                for row, (name, _, wanted) in enumerate(self._constraints()):
                    found[f"{name}_target"] = 1 - self._progress * (1 - wanted)
                    found[f"{name}_lambda_1"], found[f"{name}_lambda_2"] = self._multipliers[row].tolist()
        return found

    def fold(self) -> None:
        kept = self.kept()
        factors: dict[tuple[str, int], Tensor] = {
            (part.kind, part.layer): self._folded(part, kept) for part in self._gated
        }
        for part in self._gated:
            layer, unit_factors = self._layers[part.layer], factors[part.kind, part.layer]
            module = layer.attention_output if part.kind == "heads" else layer.down
            take_off(module, unit_factors.repeat_interleave(part.gates.size))
            gone = unit_factors.repeat_interleave(part.gates.size).eq(0)
            inputs = (layer.query, layer.key, layer.value) if part.kind == "heads" else (layer.up,)
            with torch.no_grad():
                for linear in inputs:
                    linear.weight[gone] = 0
                    linear.bias[gone] = 0
        if self.config.constraint == "lagrangian":
            delattr(self._model, _MULTIPLIERS)
        self._model.requires_grad_(True)
        self._left = self._counts(factors)

    # --- what is left -------------------------------------------------------------------------------------------------

    def kept(self) -> Kept:
        """The units that stay, for at most the budget: those whose gates are likeliest to be open.

        A unit is worth P(z ≠ 0) times its cost, so that heads and columns are taken in the order of P alone.
        """
        target = self.target
        if target.separate:
            heads = math.floor(self._count("heads") * _or_all(target.heads))
            columns = math.floor(self._count("columns") * _or_all(target.columns))
            return select_counts(self._scores(weighted=False), heads, columns)
        if target.flops is not None:
            return select(self._scores(weighted=True), self.costs, target.flops * self.costs.dense)
        return self._open_at_test_time()

    def _open_at_test_time(self) -> Kept:
        found: dict[tuple[str, int], tuple[int, ...]] = {
            (part.kind, part.layer): tuple(torch.nonzero(self._test_values(part)).flatten().tolist())
            for part in self._gated
        }
        return tuple(
            (
                found.get(("heads", index), tuple(range(layer.heads))),
                found.get(("columns", index), tuple(range(layer.columns))),
            )
            for index, layer in enumerate(self._layers)
        )

    def _scores(self, *, weighted: bool) -> tuple[LayerScores, ...]:
        """Blocks without gates are worth more than any with."""
        found = [
            [torch.full((count,), 2.0, dtype=torch.float64) for count in (layer.heads, layer.columns)]
            for layer in self._layers
        ]
        for part in self._gated:
            with torch.no_grad():
                worth = part.gates.log_alpha.double().sigmoid().cpu()
            found[part.layer][0 if part.kind == "heads" else 1] = worth
        if weighted:
            for index, (heads, columns) in enumerate(found):
                found[index] = [heads * self.costs.heads[index][1], columns * self.costs.columns[index][1]]
        return tuple(LayerScores(heads, columns) for heads, columns in found)

    @staticmethod
    def _test_values(part: _Gated) -> Tensor:
        with torch.no_grad():
            return at_test_time(part.gates.log_alpha)

    def _folded(self, part: _Gated, kept: Kept) -> Tensor:
        """ẑ of what stays, 0 for the rest."""
        values = self._test_values(part)
        stays = torch.zeros_like(values)
        stays[list(kept[part.layer][0 if part.kind == "heads" else 1])] = 1
        return values * stays

    def _counts(self, factors: dict[tuple[str, int], Tensor]) -> dict[str, float]:
        """The figures of the network with these factors."""
        counts = tuple(
            (
                int(factors["heads", index].ne(0).sum()) if ("heads", index) in factors else layer.heads,
                int(factors["columns", index].ne(0).sum()) if ("columns", index) in factors else layer.columns,
            )
            for index, layer in enumerate(self._layers)
        )
        return {
            "heads_left": float(sum(heads for heads, _ in counts)),
            "columns_left": float(sum(columns for _, columns in counts)),
            "flops_left": self.costs.total(counts) / self.costs.dense,
        }

    # --- the constraint -----------------------------------------------------------------------------------------------

    @property
    def _multipliers(self) -> nn.Parameter:
        found = getattr(self._model, _MULTIPLIERS)
        assert isinstance(found, nn.Parameter)
        return found

    def _expected(self, kind: str) -> Tensor:
        """The expected number of open units; all units of blocks without gates."""
        parts = [part.gates.probabilities().sum() for part in self._gated if part.kind == kind]
        return torch.stack(parts).sum() if parts else torch.tensor(float(self._count(kind)))

    def _open(self, kind: str) -> Tensor:
        return self._expected(kind) / self._count(kind)

    def _count(self, kind: str) -> int:
        return sum(getattr(layer, kind) for layer in self._layers)

    def _flops(self) -> Tensor:
        """The expected fraction of FLOPs."""
        gated = torch.stack([part.gates.probabilities().sum() * part.cost for part in self._gated]).sum()
        all_gated = sum(part.gates.log_alpha.numel() * part.cost for part in self._gated)
        return (gated + (self.costs.dense - all_gated)) / self.costs.dense

    def _constraints(self) -> list[tuple[str, Tensor, float]]:
        """A name, what is left at present, and what is wanted of it: both are fractions."""
        target = self.target
        if target.separate:
            wanted = {"heads": _or_all(target.heads), "columns": _or_all(target.columns)}
            kinds = {part.kind for part in self._gated}
            return [(kind, self._open(kind), wanted[kind]) for kind in ("heads", "columns") if kind in kinds]
        return [("flops", self._flops(), _or_all(target.flops))]


def _or_all(fraction: float | None) -> float:
    return 1.0 if fraction is None else fraction
