"""Fits a plain network, narrower and shallower than its parent, to the parent's states, layer by layer.

The narrower network has LayerNorms and nothing on its skip connections, so that it cannot say exactly what the parent does
in another basis. With x the parent's states, y the narrower network's, V one basis for all layers (`hidden_basis`), y is to
be near xV after every norm:

1. *Inputs.* Readers W become W P, with P = argmin E |P y - x|², at first V.
2. *Output.* W_O (or W_down) is fitted to T z - y, with z the parent's residual sum and T the map of writers
   (`writer_map`): what has to be added to the narrower stream. That includes what layers that were left out added.
3. *Norm.* Weight and bias of each unit are fitted to xV.

Everything is weighted least squares on moments with penalties towards the start; held-out batches refuse what does not help,
as in `prune_export.pruning.reconstruction.layerwise`. At full width, with all units and layers, nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from exporters.axes import take, to_device
from exporters.encoder import Attention, Embeddings, Encoder, FeedForward, Layer, Linear, Norm
from prune_export.facts.plan import Indices
from prune_export.progress import SILENT, Progress
from prune_export.pruning.reconstruction.forward import (
    activations,
    attention_update,
    contexts,
    feed_forward_update,
    normalized,
)
from prune_export.pruning.reconstruction.layerwise import BlockFit
from prune_export.pruning.reconstruction.least_squares import Moments, fit, ridge_regression
from prune_export.slim_model.blocks import SlimEmbeddings
from prune_export.subarchitecture.head_sizes import resize_heads
from prune_export.subarchitecture.hidden_basis import norm_scales, writer_map
from prune_export.subarchitecture.line_fit import fit_lines, is_held_out

Batch = Mapping[str, Tensor]
Features = Callable[[Tensor, Tensor], Tensor]


class PlainFit:
    """Goes through the parent and the narrower network; `parent` and `plain` are their current states, per batch.

    `batches` hold int64 `input_ids` and `attention_mask`, and `token_type_ids` where the network takes them.
    """

    def __init__(self, encoder: Encoder, basis: Tensor, batches: Sequence[Batch], device: str = "cpu") -> None:
        self.encoder, self.basis, self.device = encoder, basis.to(device), device
        self.batches = [{name: value.to(device) for name, value in batch.items()} for batch in batches]
        self.attended = [batch["attention_mask"].bool() for batch in self.batches]
        self.parent = self._embedded(encoder.embeddings)
        self.plain: list[Tensor] = []
        self.fits: list[BlockFit] = []

    def body(
        self,
        layers: Sequence[int],
        kept: Mapping[int, tuple[Indices, Indices]],
        head_size: int,
        progress: Progress = SILENT,
    ) -> tuple[Embeddings, tuple[Layer, ...]]:
        """Returns embeddings and layers of the narrower network, which then has run.

        `layers` are the parent's layers that stay, in order; `kept` holds the heads and columns of each.
        """
        embeddings = self._embeddings(self.encoder.embeddings)
        fitted = []
        for index, layer in enumerate(self.encoder.layers):
            reference = to_device(layer, self.device)
            if index in layers:
                fitted.append(to_device(self._layer(index, reference, *kept[index], head_size), "cpu"))
            else:
                self._skip(reference)
            progress.advance()
        return to_device(embeddings, "cpu"), tuple(fitted)

    # --- embeddings
    # -----------------------------------------------------------------------------------------------------------

    def _embedded(self, embeddings: Embeddings) -> list[Tensor]:
        module = SlimEmbeddings(embeddings, dropout=0.0).to(self.device)
        return [module(batch["input_ids"], batch.get("token_type_ids")) for batch in self.batches]

    def _embeddings(self, embeddings: Embeddings) -> Embeddings:
        embeddings = to_device(embeddings, self.device)
        projection = embeddings.projection
        if projection is not None:
            narrower = Linear(self.basis.T @ projection.weight, self.basis.T @ projection.constant)
            self.plain = [x @ self.basis for x in self.parent]
            return replace(embeddings, projection=narrower)
        assert embeddings.norm is not None
        writer = writer_map(embeddings.norm, self.basis)
        changed = replace(
            embeddings,
            word=embeddings.word @ writer.T,
            position=None if embeddings.position is None else embeddings.position @ writer.T,
            token_type=None if embeddings.token_type is None else embeddings.token_type @ writer.T,
            norm=_bare(embeddings.norm, writer),
        )
        norm = self._fit_norm(-1, "embedding norm", embeddings.norm, self._embedded(changed), self.parent)
        return replace(changed, norm=norm)

    # --- layers
    # ---------------------------------------------------------------------------------------------------------------

    def _skip(self, layer: Layer) -> None:
        """Takes the parent's states through a layer that the narrower network does not have."""
        for index, (x, mask) in enumerate(zip(self.parent, self.attended, strict=True)):
            x = normalized(layer.attention_norm, x + attention_update(layer.attention, x, mask))
            self.parent[index] = normalized(layer.feed_forward_norm, x + feed_forward_update(layer.feed_forward, x))

    def _layer(self, index: int, reference: Layer, heads: Indices, columns: Indices, head_size: int) -> Layer:
        assert isinstance(reference.attention, Attention)
        assert isinstance(reference.feed_forward, FeedForward)
        attention = take(reference.attention, "head", heads)
        attention = resize_heads(attention, head_size, self.parent, self.attended)
        input_map = self._input_map(index, "attention inputs")
        query_weight, query_bias = _composed(input_map, attention.query_weight, attention.query_bias)
        key_weight, key_bias = _composed(input_map, attention.key_weight, attention.key_bias)
        value_weight, value_bias = _composed(input_map, attention.value_weight, attention.value_bias)
        read = replace(
            attention,
            heads=tuple(range(len(heads))),
            query_weight=query_weight,
            query_bias=query_bias,
            key_weight=key_weight,
            key_bias=key_bias,
            value_weight=value_weight,
            value_bias=value_bias,
        )
        output, attention_norm = self._output(
            index,
            "attention output",
            attention.output,
            lambda y, mask: contexts(read, y, mask),
            lambda x, mask: attention_update(reference.attention, x, mask),
            reference.sum_norms[0],
        )
        weight = output.weight.unflatten(1, attention.output_weight.shape[1:])
        attention = replace(read, output_weight=weight, output_bias=output.bias)

        feed_forward = take(reference.feed_forward, "intermediate", columns)
        up = Linear(*_composed(self._input_map(index, "up inputs"), feed_forward.up.weight, feed_forward.up.bias))
        feed_forward = replace(feed_forward, up=up)
        down, feed_forward_norm = self._output(
            index,
            "down",
            feed_forward.down,
            lambda y, _: activations(feed_forward, y),
            lambda x, _: feed_forward_update(reference.feed_forward, x),
            reference.sum_norms[1],
        )
        return replace(
            reference,
            attention=attention,
            attention_norm=attention_norm,
            feed_forward=replace(feed_forward, down=down),
            feed_forward_norm=feed_forward_norm,
        )

    def _output(
        self, index: int, part: str, linear: Linear, features: Features, update: Features, norm: Norm
    ) -> tuple[Linear, Norm]:
        """Fits a block's output projection and the norm after it, and takes both networks' states through them.

        `features(y, mask)` are the inputs of the narrower network's projection, `update(x, mask)` is what the parent's
        block adds.
        """
        writer = writer_map(norm, self.basis)
        start = torch.cat([writer @ linear.weight, (writer @ linear.constant)[:, None]], dim=1).double()
        sums = [x + update(x, mask) for x, mask in zip(self.parent, self.attended, strict=True)]
        moments = self._moments(start)
        for batch, (total, y, mask) in enumerate(zip(sums, self.plain, self.attended, strict=True)):
            weights = 1 / total[mask].var(dim=-1).clamp(min=1e-12)  # the norm divides by the deviation
            moments[is_held_out(batch)].add(features(y, mask)[mask], (total @ writer.T - y)[mask], weights)
        weight = self.solve(index, part, moments, start)
        fitted = Linear(weight[:, :-1].float(), weight[:, -1].float())
        bare = _bare(norm, writer)
        units = [
            normalized(bare, y + features(y, mask) @ fitted.weight.T + fitted.constant)
            for y, mask in zip(self.plain, self.attended, strict=True)
        ]
        self.parent = [normalized(norm, total) for total in sums]
        return fitted, self._fit_norm(index, f"{part} norm", norm, units, self.parent)

    def _input_map(self, index: int, part: str) -> Tensor:
        """Returns P and its constant, `[hidden, size + 1]`, float64."""
        start = torch.cat([self.basis, torch.zeros_like(self.basis[:, :1])], dim=1).double()
        if all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(self.parent, self.plain, strict=True)):
            return start
        moments = self._moments(start)
        for batch, (x, y, mask) in enumerate(zip(self.parent, self.plain, self.attended, strict=True)):
            moments[is_held_out(batch)].add(y[mask], x[mask], torch.ones_like(x[mask][:, 0]))
        return self.solve(index, part, moments, start)

    # --- least squares
    # --------------------------------------------------------------------------------------------------------

    def _moments(self, start: Tensor) -> tuple[Moments, Moments]:
        """Returns empty moments for a fit that begins with `start`: those to train with, and those that are held out."""
        targets, features = start.shape
        return Moments(features - 1, targets, self.device), Moments(features - 1, targets, self.device)

    def solve(self, index: int, part: str, moments: tuple[Moments, Moments], start: Tensor) -> Tensor:
        """Returns the fit, `[targets, features + 1]`, float64: `start` where nothing lowers the held-out error."""
        result = fit(*moments, start, ridge_regression)
        self.fits.append(BlockFit(index, part, result.before, result.after, result.accepted))
        return result.weight

    def fit_linear(
        self, index: int, part: str, features: Sequence[Tensor], targets: Sequence[Tensor], start: Linear
    ) -> Linear:
        """Fits a linear map of rows of `features` to those of `targets`, both per batch."""
        first = torch.cat([start.weight, start.constant[:, None]], dim=1).double()
        moments = self._moments(first)
        for batch, (rows, values) in enumerate(zip(features, targets, strict=True)):
            moments[is_held_out(batch)].add(rows, values, torch.ones_like(rows[:, 0]))
        weight = self.solve(index, part, moments, first)
        return Linear(weight[:, :-1].float(), weight[:, -1].float())

    def _fit_norm(self, index: int, part: str, norm: Norm, units: list[Tensor], states: list[Tensor]) -> Norm:
        """Fits weight and bias of each unit to the parent's `states` in the basis; `units` are normalized.

        The narrower network's states are then what that norm gives.
        """
        assert norm.bias is not None
        weight, bias = norm_scales(norm, self.basis), self.basis.T @ norm.bias
        if len(weight) < len(norm.weight):
            targets = [x[mask] @ self.basis for x, mask in zip(states, self.attended, strict=True)]
            rows = [unit[mask] for unit, mask in zip(units, self.attended, strict=True)]
            weight, bias, before, after = fit_lines(rows, targets, weight, bias)
            self.fits.append(BlockFit(index, part, before, after, after < before))
        self.plain = [unit * weight + bias for unit in units]
        return Norm(weight, bias, norm.epsilon)


def _bare(norm: Norm, writer: Tensor) -> Norm:
    """Returns the norm without weight and bias, as wide as `writer` has rows."""
    ones: Any = torch.ones_like(writer[:, 0])
    return Norm(ones, torch.zeros_like(ones), norm.epsilon)


def _composed(input_map: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns weight `[…, size]` and bias `[…]` of a linear map after the input map, as one linear map."""
    exact = weight.double()
    shift = exact @ input_map[:, -1]
    return (exact @ input_map[:, :-1]).float(), (shift if bias is None else bias.double() + shift).float()
