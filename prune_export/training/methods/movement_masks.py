"""The scores of movement pruning and the masks made from them: schedule, binarization, parametrizations, layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from exporters.cost import LayerShape
from exporters.errors import UsageError
from prune_export.training.stage import LayerModules, Projection

Shape = Literal["hybrid", "struct", "block", "unstructured"]
Selection = Literal["topk", "threshold", "sigmoid_threshold"]


def cubic(step: int, total: int, *, initial: float, final: float, warmup: float, cooldown: float) -> float:
    """Returns the value of the cubic schedule before step `step` (from 0) of `total`.

    `initial` for the first `warmup` (a fraction) of the steps, `final` for the last `cooldown`, and between them
    `final + (initial - final) * (1 - x)^3`, x from 0 to 1 (Zhu and Gupta 2017; Sanh et al. 2020; nn_pruning's
    `schedule_threshold`).
    """
    start, end = warmup * total, total - cooldown * total
    if step >= end:
        return final
    if step <= start:
        return initial
    left = 1 - (step - start) / (end - start)
    return final + (initial - final) * left**3


def top_k(scores: Tensor, fraction: float) -> Tensor:
    """Returns 1 for the `int(fraction * n)` highest of the n scores ("hard" movement pruning, Sanh et al. 2020)."""
    count = int(fraction * scores.numel() + 1e-6)
    mask = torch.zeros(scores.numel(), dtype=scores.dtype, device=scores.device)
    mask[scores.flatten().argsort(descending=True, stable=True)[:count]] = 1
    return mask.view_as(scores)


def above(scores: Tensor, threshold: float, *, sigmoid: bool, least: float = 0.0) -> Tensor:
    """Returns 1 where the score, or its sigmoid, is above `threshold` ("soft" movement pruning, Sanh et al. 2020).

    For `least` > 0 the highest scores give 1 in any case: that fraction of them, and at least one (as in nn_pruning's
    ThresholdBinarizer).
    """
    values = scores.sigmoid() if sigmoid else scores
    mask = (values > threshold).to(scores.dtype)
    if mask.sum() < max(1, int(least * scores.numel()) + 1) and least > 0:
        return top_k(scores, (int(least * scores.numel()) + 1) / scores.numel())
    return mask


def straight_through(mask: Tensor, scores: Tensor) -> Tensor:
    """Returns `mask`, whose gradient goes to `scores` as it is (Bengio et al. 2013).

    dL/dS = dL/dM, which for a masked weight W * M is the sum of dL/d(W*M) * W over the block (Sanh et al. 2020)."""
    return (scores - scores.detach()) + mask


@dataclass(slots=True)
class Level:
    """The threshold, or the fraction to keep, that holds for all scores; the method sets it before each step."""

    selection: Selection
    value: float
    least: float


class BlockScores(nn.Module):
    """One score for each block of a matrix, `[rows, columns]` of blocks.

    With `chosen` the mask is a buffer of the same shape, which the method fills; otherwise it is made from the scores and
    the level.
    """

    def __init__(self, rows: int, columns: int, level: Level, *, initial: float, chosen: bool) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.full((rows, columns), initial))
        self.level = level
        self.register_buffer("keep", torch.ones(rows, columns) if chosen else None)
        self.keep: Tensor | None

    def mask(self) -> Tensor:
        """Returns the mask `[rows, columns]` of 0 and 1, whose gradients go straight through to the scores."""
        return straight_through(self.hard(), self.values)

    @torch.no_grad()
    def hard(self) -> Tensor:
        """Returns the mask without gradients."""
        if self.keep is not None:
            return self.keep
        level = self.level
        if level.selection == "topk":
            return top_k(self.values, level.value)
        return above(self.values, level.value, sigmoid=level.selection == "sigmoid_threshold", least=level.least)


class _Masked(nn.Module):
    """A parametrization by scores.

    Several may use the same scores. The owner registers them, so that they are among the model's parameters once.
    """

    def __init__(self, scores: BlockScores, *, owner: bool) -> None:
        super().__init__()
        if owner:
            self.scores = scores
        self._uses = (scores,)  # in a tuple, so that torch does not register it

    @property
    def used(self) -> BlockScores:
        return self._uses[0]


class _MaskedRows(_Masked):
    """A parametrization of all of a tensor's first dimension, or of `rows` of it alone (int64)."""

    def __init__(self, scores: BlockScores, rows: Tensor | None, *, owner: bool) -> None:
        super().__init__(scores, owner=owner)
        self.register_buffer("rows", rows, persistent=False)
        self.rows: Tensor | None

    def masked(self, values: Tensor) -> Tensor:
        """Returns the masked values of the parametrization's own rows."""
        raise NotImplementedError

    def forward(self, tensor: Tensor) -> Tensor:
        if self.rows is None:
            return self.masked(tensor)
        return tensor.index_copy(0, self.rows, self.masked(tensor[self.rows]))


class BlockMask(_MaskedRows):
    """Masks a weight `[out_features, in_features]` in blocks of one size, by the transposed scores with `transposed`."""

    def __init__(
        self, scores: BlockScores, *, owner: bool, rows: Tensor | None = None, transposed: bool = False
    ) -> None:
        super().__init__(scores, rows, owner=owner)
        self.transposed = transposed

    def masked(self, values: Tensor) -> Tensor:
        mask = self.used.mask()
        mask = mask.T if self.transposed else mask
        rows, columns = mask.shape
        blocks = values.view(rows, values.shape[0] // rows, columns, values.shape[1] // columns)
        return (blocks * mask[:, None, :, None]).view_as(values)


class RowMask(_MaskedRows):
    """Masks a bias `[out_features]` where all blocks of its row of the weight are masked; scores get no gradient from it."""

    def __init__(self, scores: BlockScores, rows: Tensor | None = None) -> None:
        super().__init__(scores, rows, owner=False)

    def masked(self, values: Tensor) -> Tensor:
        rows = self.used.hard().amax(dim=1)
        return values * rows.repeat_interleave(values.shape[0] // rows.shape[0])


# --- layers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class MaskedLayer:
    """The scores of a layer. For whole heads the four projections share one tensor, for columns `up`, `gate` and `down` do.

    `gate` are the scores of `up` where there is no gate.
    """

    modules: LayerModules
    query: BlockScores
    key: BlockScores
    value: BlockScores
    attention_output: BlockScores
    gate: BlockScores
    up: BlockScores
    down: BlockScores

    @property
    def attention(self) -> tuple[BlockScores, ...]:
        """Returns the distinct score tensors of the attention."""
        return tuple(dict.fromkeys((self.query, self.key, self.value, self.attention_output)))

    @property
    def feed_forward(self) -> tuple[BlockScores, ...]:
        """Returns the distinct score tensors of the feed-forward network."""
        return tuple(dict.fromkeys((self.gate, self.up, self.down)))

    def by_head(self, scores: BlockScores, values: Tensor) -> Tensor:
        """Returns `values`, which have the shape of `scores`, with the blocks of each head in rows of their own."""
        return values.T if scores is self.attention_output and len(self.attention) > 1 else values

    def head_scores(self) -> Tensor:
        """Returns one score per head, `[heads]` in float64 on the CPU: the mean over its blocks."""
        if len(self.attention) == 1:  # one score per head, shared by all four projections
            return self.query.values[:, 0].double().cpu()
        tensors = [self.by_head(scores, scores.values).double().cpu() for scores in self.attention]
        return torch.stack([values.reshape(self.modules.heads, -1).mean(dim=1) for values in tensors]).mean(dim=0)

    def column_scores(self) -> Tensor:
        """Returns one score per column, `[columns]` in float64 on the CPU."""
        return self.up.values[:, 0].double().cpu()

    @torch.no_grad()
    def add(self, heads: Tensor, columns: Tensor) -> None:
        """Adds `heads` `[heads]` to the scores of each head's blocks, and `columns` `[columns]` to those of the columns."""
        for scores in self.attention:
            values = self.by_head(scores, scores.values)
            values.add_(heads.to(values.device).repeat_interleave(values.shape[0] // self.modules.heads)[:, None])
        self.up.values.add_(columns.to(self.up.values.device)[:, None])

    def fill_masks(self, heads: tuple[int, ...], columns: tuple[int, ...], lowest: float) -> None:
        """Fills the masks with `columns`, and with the blocks of `heads` whose score is not below `lowest`.

        Each row of blocks of a kept head keeps at least its best block, so that a head costs as much as the budget counts
        for it.
        """
        for scores in self.attention:
            values = self.by_head(scores, scores.values)
            kept = torch.zeros(self.modules.heads, device=values.device)
            kept[list(heads)] = 1
            blocks = (values >= lowest) | (values == values.amax(dim=1, keepdim=True))
            mask = blocks * kept.repeat_interleave(values.shape[0] // self.modules.heads)[:, None]
            assert scores.keep is not None
            scores.keep.copy_(self.by_head(scores, mask))
        assert self.up.keep is not None
        self.up.keep.zero_()
        self.up.keep[list(columns)] = 1

    def fractions_kept(self) -> list[tuple[float, int]]:
        """Returns for each weight the fraction that is not masked, and the number of its elements."""
        modules = self.modules
        pairs: list[tuple[BlockScores, Projection | nn.Linear]] = [
            (self.query, modules.query),
            (self.key, modules.key),
            (self.value, modules.value),
            (self.attention_output, modules.attention_output),
            (self.up, modules.up),
            (self.down, modules.down),
        ]
        if modules.gate is not None:
            pairs.append((self.gate, modules.gate))
        return [(float(scores.hard().mean()), module.in_features * module.out_features) for scores, module in pairs]

    def shape(self) -> LayerShape:
        """Returns the layer's shape after surgery; its head sizes are the largest that any head needs."""
        heads, head_size, columns = self.modules.heads, self.modules.head_size, self.modules.columns

        def rows(scores: BlockScores) -> Tensor:  # [heads, head_size]
            alive = self.by_head(scores, scores.hard()).amax(dim=1) > 0
            return alive.repeat_interleave(heads * head_size // len(alive)).view(heads, head_size)

        value = rows(self.value) & rows(self.attention_output)
        kept = value.any(dim=1)
        query_key = (rows(self.query) & rows(self.key))[kept]
        down = self.down.hard()
        down = down.T if self.down is not self.up else down
        read = _expand(self.up.hard().amax(dim=1), columns) & _expand(self.gate.hard().amax(dim=1), columns)
        kept_columns = read & _expand(down.amax(dim=1), columns)
        return replace(
            self.modules.shape,
            heads=int(kept.sum()),
            query_key_size=int(query_key.sum(dim=1).max()) if len(query_key) else 0,
            value_size=int(value.sum(dim=1).max()) if kept.any() else 0,
            columns=int(kept_columns.sum()),
        )


def _expand(mask: Tensor, size: int) -> Tensor:
    return (mask > 0).repeat_interleave(size // len(mask))


def attach_masks(
    layer: LayerModules, shape: Shape, block: tuple[int, int], make: Callable[[int, int], BlockScores]
) -> MaskedLayer:
    """Masks the linear maps of a layer by scores; `make(rows, columns)` makes the scores of a matrix.

    Raises:
        UsageError: a weight cannot be cut into blocks of that size.
    """

    def blocks(module: nn.Linear | Projection, block: tuple[int, int], name: str) -> BlockScores:
        rows, columns = module.out_features, module.in_features
        if min(block) < 1 or rows % block[0] or columns % block[1]:
            raise UsageError(
                f"method.block: {layer.path}, {name}: a weight of {rows} × {columns} cannot be cut into blocks of "
                f"{block[0]} × {block[1]}"
            )
        return make(rows // block[0], columns // block[1])

    block = (1, 1) if shape == "unstructured" else block
    projections = {"query": layer.query, "key": layer.key, "value": layer.value}
    if shape == "struct":
        scores = dict.fromkeys((*projections, "attention_output"), make(layer.heads, 1))
        for name, module in projections.items():
            _mask_rows(module, scores[name], owner=name == "query")
        _mask(layer.attention_output, scores["attention_output"], owner=False, transposed=True)
    else:
        scores = {}
        for name, module in projections.items():
            scores[name] = blocks(module, block, name)
            _mask_rows(module, scores[name], owner=True)
        scores["attention_output"] = blocks(layer.attention_output, (block[1], block[0]), "attention output")
        _mask(layer.attention_output, scores["attention_output"], owner=True)
    if shape in ("hybrid", "struct"):
        scores["gate"] = scores["up"] = scores["down"] = make(layer.columns, 1)
        if layer.gate is not None:
            _mask_rows(layer.gate, scores["gate"], owner=False)
        _mask_rows(layer.up, scores["up"], owner=True)
        _mask(layer.down, scores["down"], owner=False, transposed=True)
    else:
        scores["gate"] = scores["up"] = blocks(layer.up, block, "up")
        scores["down"] = blocks(layer.down, block, "down")
        if layer.gate is not None:
            scores["gate"] = blocks(layer.gate, block, "gate")
            _mask_rows(layer.gate, scores["gate"], owner=True)
        _mask_rows(layer.up, scores["up"], owner=True)
        _mask(layer.down, scores["down"], owner=True)
    return MaskedLayer(layer, **scores)


def apply_masks(layer: LayerModules) -> None:
    """Removes the parametrizations of a layer; masked weights and biases become zeros."""
    projections = (layer.query, layer.key, layer.value, layer.gate, layer.up)
    modules = dict.fromkeys(projection.module for projection in projections if projection is not None)
    for module in (*modules, layer.attention_output, layer.down):
        for name in ("weight", "bias"):
            if parametrize.is_parametrized(module, name):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def _mask_rows(projection: Projection, scores: BlockScores, *, owner: bool) -> None:
    """Masks a weight, and its bias where a whole row is masked."""
    module, rows = projection.module, projection.rows
    parametrize.register_parametrization(module, "weight", BlockMask(scores, owner=owner, rows=rows))
    if projection.has_bias:
        parametrize.register_parametrization(module, "bias", RowMask(scores, rows))


def _mask(module: nn.Linear, scores: BlockScores, *, owner: bool, transposed: bool = False) -> None:
    parametrize.register_parametrization(module, "weight", BlockMask(scores, owner=owner, transposed=transposed))
