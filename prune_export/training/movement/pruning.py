"""Movement pruning as a method: scores are put on, follow the schedule, and are folded into the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from exporters.cost import LayerShape
from exporters.errors import UsageError
from prune_export.pruning.costs import Costs
from prune_export.pruning.scores import LayerScores
from prune_export.pruning.selection import Kept, select
from prune_export.training.figures import figures
from prune_export.training.layers import LayerModules
from prune_export.training.method import ParameterGroup
from prune_export.training.movement.config import THRESHOLDS, MovementConfig
from prune_export.training.movement.masks import BlockMask, Level, RowMask, Scores
from prune_export.training.movement.schedule import cubic
from prune_export.training.recipe import ScheduleSection

# Louizos et al. 2018: with beta = 2/3, gamma = -0.1, zeta = 1.1 the chance that a hard concrete gate is not 0 is the
# sigmoid of its score minus this.
_L0_SHIFT = 2 / 3 * log(0.1 / 1.1)


@dataclass(frozen=True, slots=True)
class FlopsBudget:
    """`fraction` of the unpruned encoder's FLOPs, by `costs`."""

    fraction: float
    costs: Costs


@dataclass(frozen=True, slots=True, eq=False)
class _LayerScores:
    """The scores of a layer. With whole heads the four projections use one tensor, with columns `up` and `down` do."""

    query: Scores
    key: Scores
    value: Scores
    attention_output: Scores
    up: Scores
    down: Scores

    @property
    def attention(self) -> tuple[Scores, ...]:
        return tuple(dict.fromkeys((self.query, self.key, self.value, self.attention_output)))

    @property
    def feed_forward(self) -> tuple[Scores, ...]:
        return tuple(dict.fromkeys((self.up, self.down)))


class MovementPruning:
    """Sanh et al. 2020, "Movement Pruning"; Lagunas et al. 2021, "Block Pruning For Faster Transformers"."""

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
        initial, final = THRESHOLDS[config.selection]
        self._initial = initial if config.initial_threshold is None else config.initial_threshold
        self._final = final if config.final_threshold is None else config.final_threshold
        self._level = Level(config.selection, self._initial, config.least)
        self._layers: tuple[LayerModules, ...] = ()
        self._scores: tuple[_LayerScores, ...] = ()
        self._ramp = 0.0
        self._kept_fraction = 1.0

    def attach(self, model: nn.Module, layers: Sequence[LayerModules]) -> None:  # noqa: ARG002
        self._layers = tuple(layers)
        self._scores = tuple(self._attach_layer(layer) for layer in layers)

    def _attach_layer(self, layer: LayerModules) -> _LayerScores:
        projections = [("query", layer.query), ("key", layer.key), ("value", layer.value)]
        if self.config.shape == "struct":
            shared = self._make(layer.heads, 1)
            found = dict.fromkeys(("query", "key", "value", "attention_output"), shared)
            for name, module in projections:
                _mask_rows(module, shared, owner=name == "query")
            _mask(layer.attention_output, shared, owner=False, transposed=True)
        else:
            block = (1, 1) if self.config.shape == "unstructured" else self.config.block
            found = {}
            for name, module in projections:
                found[name] = self._blocks(module, block, f"{layer.path}, {name}")
                _mask_rows(module, found[name], owner=True)
            turned = (block[1], block[0])
            found["attention_output"] = self._blocks(layer.attention_output, turned, f"{layer.path}, attention output")
            _mask(layer.attention_output, found["attention_output"], owner=True)
        if self.config.shape in ("hybrid", "struct"):
            found["up"] = found["down"] = self._make(layer.columns, 1)
            _mask_rows(layer.up, found["up"], owner=True)
            _mask(layer.down, found["down"], owner=False, transposed=True)
        else:
            for name, module in (("up", layer.up), ("down", layer.down)):
                found[name] = self._blocks(module, block, f"{layer.path}, {name}")
            _mask_rows(layer.up, found["up"], owner=True)
            _mask(layer.down, found["down"], owner=True)
        return _LayerScores(**found)

    def _blocks(self, module: nn.Linear, block: tuple[int, int], where: str) -> Scores:
        rows, columns = module.weight.shape
        if min(block) < 1 or rows % block[0] or columns % block[1]:
            raise UsageError(
                f"method.block: {where}: a weight of {rows} × {columns} cannot be cut into blocks of {block[0]} × {block[1]}"
            )
        return self._make(rows // block[0], columns // block[1])

    def _make(self, rows: int, columns: int) -> Scores:
        initial = self.config.initial_score
        return Scores(rows, columns, self._level, initial=initial, chosen=self.budget is not None)

    @torch.no_grad()
    def begin_at(self, units: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Adds to the scores of each layer what `units` says for its heads and columns; blocks get that of their head."""
        for layer, scores, (heads, columns) in zip(self._layers, self._scores, units, strict=True):
            for part in scores.attention:
                turned = part is scores.attention_output and len(scores.attention) > 1
                values = part.values.T if turned else part.values
                values.add_(heads.to(values.device).repeat_interleave(values.shape[0] // layer.heads)[:, None])
            scores.up.values.add_(columns.to(scores.up.values.device)[:, None])

    def parameter_groups(self) -> list[ParameterGroup]:
        values = tuple(part.values for layer in self._scores for part in (*layer.attention, *layer.feed_forward))
        return [ParameterGroup("scores", values, self.score_learning_rate)]

    def set_step(self, step: int, total: int) -> None:
        warmup, cooldown = self.schedule.warmup, self.schedule.cooldown
        self._ramp = cubic(step, total, initial=0.0, final=1.0, warmup=warmup, cooldown=cooldown)
        if self.budget is None:
            self._level.value = self._initial + (self._final - self._initial) * self._ramp
        elif step % self.config.refresh == 0 or step >= total:
            self._kept_fraction = 1.0 + (self.budget.fraction - 1.0) * self._ramp
            self._choose(self.budget.costs, self._kept_fraction)

    # --- an exact budget ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _choose(self, costs: Costs, fraction: float) -> None:
        """Fills the masks with the units that `select` keeps for `fraction` of the unpruned cost.

        A unit is worth sigmoid(its score) for each FLOP that it costs, so that what stays is, up to the last unit, what lies
        above one level of scores in the whole network. The score of a head is the mean over its blocks.
        """
        heads = [self._head_scores(layer, scores) for layer, scores in zip(self._layers, self._scores, strict=True)]
        columns = [scores.up.values[:, 0].double().cpu() for scores in self._scores]
        if fraction >= 1.0:
            kept: Kept = tuple(
                (tuple(range(len(h))), tuple(range(len(c)))) for h, c in zip(heads, columns, strict=True)
            )
        else:
            worth = [
                LayerScores(h.sigmoid() * costs.heads[place][1], c.sigmoid() * costs.columns[place][1])
                for place, (h, c) in enumerate(zip(heads, columns, strict=True))
            ]
            kept = select(worth, costs, fraction * costs.dense)
        chosen = [
            *(h[list(keep)] for h, (keep, _) in zip(heads, kept, strict=True)),
            *(c[list(keep)] for c, (_, keep) in zip(columns, kept, strict=True)),
        ]
        lowest = float(torch.cat(chosen).min()) if fraction < 1.0 and any(map(len, chosen)) else float("-inf")
        for layer, scores, (kept_heads, kept_columns) in zip(self._layers, self._scores, kept, strict=True):
            for part in scores.attention:
                assert part.keep is not None
                turned = part is scores.attention_output and len(scores.attention) > 1
                part.keep.copy_(_attention_mask(part, layer, kept_heads, lowest, turned=turned))
            assert scores.up.keep is not None
            scores.up.keep.zero_()
            scores.up.keep[list(kept_columns)] = 1

    def _head_scores(self, layer: LayerModules, scores: _LayerScores) -> Tensor:
        parts = [part.values.T if part is scores.attention_output else part.values for part in scores.attention]
        if len(parts) == 1:  # one score a head, shared by all four projections
            return scores.query.values[:, 0].double().cpu()
        by_head = [part.double().cpu().reshape(layer.heads, -1).mean(dim=1) for part in parts]
        return torch.stack(by_head).mean(dim=0)

    # --- penalty, log, end --------------------------------------------------------------------------------------------

    def penalty(self) -> Tensor:
        """`weight * ramp * 1/2 * sum over (attention, feed-forward) of its weight * mean over score tensors of R(S)`.

        R is the mean of sigmoid(S) ("l1") or of sigmoid(S - 2/3 log(0.1/1.1)) ("l0", Louizos et al. 2018): the penalty of
        Lagunas et al. 2021, as nn_pruning's `regularization_loss` has it.
        """
        kind = self.config.penalty
        if kind is None:
            kind = "none" if self.budget is not None or self.config.selection == "topk" else "l1"
        device = self._scores[0].query.values.device
        if kind == "none":
            return torch.zeros((), device=device)
        shift = _L0_SHIFT if kind == "l0" else 0.0
        attention = [part.values for layer in self._scores for part in layer.attention]
        feed_forward = [part.values for layer in self._scores for part in layer.feed_forward]
        total = torch.zeros((), device=device)
        for weight, parts in (
            (self.config.attention_penalty, attention),
            (self.config.feed_forward_penalty, feed_forward),
        ):
            total = total + 0.5 * weight * torch.stack([(part - shift).sigmoid().mean() for part in parts]).mean()
        return self.config.penalty_weight * self._ramp * total

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        shapes, kept, all_ = [], 0.0, 0
        for layer, scores in zip(self._layers, self._scores, strict=True):
            shapes.append(_shape(layer, scores))
            for part, module in (
                (scores.query, layer.query),
                (scores.key, layer.key),
                (scores.value, layer.value),
                (scores.attention_output, layer.attention_output),
                (scores.up, layer.up),
                (scores.down, layer.down),
            ):
                size = module.in_features * module.out_features
                kept, all_ = kept + float(part.hard().mean()) * size, all_ + size
        found = figures(self._layers, shapes, sequence_length=self.sequence_length)
        level = {"budget": self._kept_fraction} if self.budget is not None else {"threshold": self._level.value}
        return {"sparsity": 1 - kept / all_} | found | level

    def fold(self) -> None:
        for layer in self._layers:
            for module in (layer.query, layer.key, layer.value, layer.attention_output, layer.up, layer.down):
                for name in ("weight", "bias"):
                    if parametrize.is_parametrized(module, name):
                        parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def _mask_rows(module: nn.Linear, scores: Scores, *, owner: bool) -> None:
    """Masks a weight, and its bias where a whole row goes."""
    _mask(module, scores, owner=owner)
    parametrize.register_parametrization(module, "bias", RowMask(scores))


def _mask(module: nn.Linear, scores: Scores, *, owner: bool, transposed: bool = False) -> None:
    parametrize.register_parametrization(module, "weight", BlockMask(scores, owner=owner, transposed=transposed))


def _attention_mask(part: Scores, layer: LayerModules, kept: tuple[int, ...], lowest: float, *, turned: bool) -> Tensor:
    """Blocks of kept heads whose score is not below `lowest`.

    Each row of blocks of a kept head (`turned`: column, as in the output projection) keeps at least its best block, so that
    a head costs what the budget counts for it.
    """
    values = part.values.T if turned else part.values
    heads = torch.zeros(layer.heads, device=values.device)
    heads[list(kept)] = 1
    blocks = (values >= lowest) | (values == values.amax(dim=1, keepdim=True))
    mask = blocks * heads.repeat_interleave(values.shape[0] // layer.heads)[:, None]
    return mask.T if turned else mask


def _shape(layer: LayerModules, scores: _LayerScores) -> LayerShape:
    """What surgery would leave of a layer; all its heads have one query/key and one value size, the largest needed."""

    def rows(part: Scores) -> Tensor:  # [heads, head_size]
        mask = part.hard()
        mask = mask.T if part is scores.attention_output and len(scores.attention) > 1 else mask
        alive = mask.amax(dim=1) > 0
        return alive.repeat_interleave(layer.heads * layer.head_size // len(alive)).view(layer.heads, layer.head_size)

    value = rows(scores.value) & rows(scores.attention_output)
    heads = value.any(dim=1)
    query_key = (rows(scores.query) & rows(scores.key))[heads]
    up, down = scores.up.hard(), scores.down.hard()
    down = down.T if scores.down is not scores.up else down
    columns = _expand(up.amax(dim=1), layer.columns) & _expand(down.amax(dim=1), layer.columns)
    return LayerShape(
        heads=int(heads.sum()),
        query_key_size=int(query_key.sum(dim=1).max()) if len(query_key) else 0,
        value_size=int(value.sum(dim=1).max()) if heads.any() else 0,
        columns=int(columns.sum()),
    )


def _expand(mask: Tensor, size: int) -> Tensor:
    return (mask > 0).repeat_interleave(size // len(mask))
