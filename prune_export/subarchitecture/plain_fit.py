"""Fits a plain network, narrower and shallower than its parent, to the parent's states, layer by layer.

The narrower network has the parent's norms and nothing on its skip connections, so that it cannot say exactly what the
parent does in another basis. With x the parent's states, y the narrower network's, V one basis for all layers
(`hidden_basis`), y is to be near xV everywhere:

1. *Inputs.* Readers W become W P, with P = argmin E |P y - x|², at first V. Where a norm stands before the block (pre-norm),
   x and y are what it gives, and its own weights are fitted first, to xV.
2. *Output.* W_O (or W_down) is fitted to T z - y, with z the parent's residual sum and T the map of writers
   (`writer_map`): what has to be added to the narrower stream. That includes what layers that were left out added.
3. *Norm.* Weight and bias of each unit of a norm after the sum are fitted to xV.

Where the parent has no bias, nothing has one. Everything is weighted least squares on moments with penalties towards the
start; held-out batches refuse what does not help, as in `prune_export.pruning.reconstruction.layerwise`. At full width, with
all units and layers, nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from exporters.axes import take, to_device
from exporters.distances import Distances
from exporters.encoder import Attention, Embeddings, Encoder, FeedForward, Gated, Layer, Linear, Norm
from prune_export.facts.plan import Indices
from prune_export.progress import SILENT, Progress
from prune_export.pruning.reconstruction.forward import (
    activations,
    attention_sum,
    attention_update,
    contexts,
    feed_forward_sum,
    feed_forward_update,
    normalized,
)
from prune_export.pruning.reconstruction.layerwise import BlockFit
from prune_export.pruning.reconstruction.least_squares import (
    Moments,
    composed,
    fit,
    is_held_out,
    ridge_regression,
    ridge_without_constant,
    token_weights,
)
from prune_export.slim_model.blocks import SlimEmbeddings
from prune_export.subarchitecture.common_scores import CommonScores
from prune_export.subarchitecture.head_sizes import resize_heads
from prune_export.subarchitecture.hidden_basis import narrow_norm, norm_scales, writer_map
from prune_export.subarchitecture.line_fit import fit_lines

Batch = Mapping[str, Tensor]
Features = Callable[[Tensor, Tensor], Tensor]
N = TypeVar("N", Norm, Norm | None)


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What a block reads, per batch: of the parent, of the narrower network, and the norm of the latter that gives it."""

    parent: Sequence[Tensor]
    plain: Sequence[Tensor]
    norm: Norm | None


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
        self._common = CommonScores(self.basis)

    def body(
        self,
        layers: Sequence[int],
        kept: Mapping[int, tuple[Indices, Indices]],
        head_size: int,
        progress: Progress = SILENT,
    ) -> tuple[Embeddings, tuple[Layer, ...], Norm | None]:
        """Returns embeddings, layers and final norm of the narrower network, which then has run.

        `layers` are the parent's layers that stay, in order; `kept` holds the heads and columns of each.
        """
        embeddings = self._embeddings(self.encoder.embeddings)
        fitted = []
        for index, layer in enumerate(self.encoder.layers):
            reference = to_device(layer, self.device)
            if index in layers:
                narrower = to_device(self._layer(index, reference, *kept[index], head_size), "cpu")
                fitted.append(replace(narrower, attention=self._common.joined(narrower.attention)))
            else:
                self._skip(reference)
            progress.advance()
        last = self._inputs(len(self.encoder.layers), "final", self.encoder.final_norm)
        self.parent, self.plain = list(last.parent), list(last.plain)
        final_norm = None if last.norm is None else to_device(last.norm, "cpu")
        return to_device(embeddings, "cpu"), tuple(fitted), final_norm

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
        norm = embeddings.norm
        writer = writer_map(norm, self.basis)
        changed = replace(
            embeddings,
            word=embeddings.word @ writer.T,
            position=None if embeddings.position is None else embeddings.position @ writer.T,
            token_type=None if embeddings.token_type is None else embeddings.token_type @ writer.T,
            norm=None if norm is None else narrow_norm(norm, len(writer)),
        )
        self.plain = self._embedded(changed)
        if norm is None:
            return changed
        fitted, self.plain = self._fit_norm(-1, "embedding norm", norm, self.plain, self.parent)
        return replace(changed, norm=fitted)

    # --- layers
    # ---------------------------------------------------------------------------------------------------------------

    def _skip(self, layer: Layer) -> None:
        """Takes the parent's states through a layer that the narrower network does not have."""
        for index, (x, mask) in enumerate(zip(self.parent, self.attended, strict=True)):
            x = normalized(layer.attention_norm, attention_sum(layer, x, mask))
            self.parent[index] = normalized(layer.feed_forward_norm, feed_forward_sum(layer, x))

    def _layer(self, index: int, reference: Layer, heads: Indices, columns: Indices, head_size: int) -> Layer:
        assert isinstance(reference.attention, Attention)
        assert isinstance(reference.feed_forward, FeedForward)
        inputs = self._inputs(index, "attention", reference.attention_input_norm)
        attention = take(reference.attention, "head", heads)
        attention = resize_heads(attention, head_size, inputs.parent, self.attended)
        # Embeddings of distances that go through the same maps have other means than the states.
        has_constant = attention.query_bias is not None and not isinstance(attention.scores, Distances)
        input_map = self._input_map(index, "attention inputs", inputs, has_constant=has_constant)
        query_weight, query_bias = composed(input_map, attention.query_weight, attention.query_bias)
        key_weight, key_bias = composed(input_map, attention.key_weight, attention.key_bias)
        value_weight, value_bias = composed(input_map, attention.value_weight, attention.value_bias)
        read = replace(
            attention,
            heads=tuple(range(len(heads))),
            query_weight=query_weight,
            query_bias=query_bias,
            key_weight=key_weight,
            key_bias=key_bias,
            value_weight=value_weight,
            value_bias=value_bias,
            scores=self._common.narrowed(attention.scores, heads),
        )
        output, attention_norm = self._output(
            index,
            "attention output",
            attention.output,
            lambda y, mask: contexts(read, y, mask),
            lambda x, mask: attention_update(reference.attention, x, mask),
            reference.attention_norm,
            inputs,
        )
        weight = output.weight.unflatten(1, attention.output_weight.shape[1:])
        attention = replace(read, output_weight=weight, output_bias=output.bias)

        between = self._inputs(index, "up", reference.feed_forward_input_norm)
        feed_forward = self._feed_forward(index, take(reference.feed_forward, "intermediate", columns), between)
        down, feed_forward_norm = self._output(
            index,
            "down",
            feed_forward.down,
            lambda y, _: activations(feed_forward, y),
            lambda x, _: feed_forward_update(reference.feed_forward, x),
            reference.feed_forward_norm,
            between,
        )
        return replace(
            reference,
            attention=attention,
            attention_norm=attention_norm,
            attention_input_norm=inputs.norm,
            feed_forward=replace(feed_forward, down=down),
            feed_forward_norm=feed_forward_norm,
            feed_forward_input_norm=between.norm,
        )

    def _feed_forward(self, index: int, block: FeedForward, inputs: Inputs) -> FeedForward:
        """Returns the block with readers of the narrower network's inputs."""
        input_map = self._input_map(index, "up inputs", inputs, has_constant=block.up.bias is not None)
        gating = block.gating
        if isinstance(gating, Gated):
            gating = replace(gating, gate=Linear(*composed(input_map, gating.gate.weight, gating.gate.bias)))
        return replace(block, up=Linear(*composed(input_map, block.up.weight, block.up.bias)), gating=gating)

    def _inputs(self, index: int, part: str, norm: Norm | None) -> Inputs:
        """Returns what a block reads, through the norm that stands before it, whose weights are fitted."""
        if norm is None:
            return Inputs(self.parent, self.plain, None)
        norm = to_device(norm, self.device)
        parent = [normalized(norm, x) for x in self.parent]
        bare = narrow_norm(norm, self.basis.shape[1])
        fitted, plain = self._fit_norm(
            index, f"{part} input norm", norm, [normalized(bare, y) for y in self.plain], parent
        )
        return Inputs(parent, plain, fitted)

    def _output(
        self,
        index: int,
        part: str,
        linear: Linear,
        features: Features,
        update: Features,
        norm: N,
        inputs: Inputs,
    ) -> tuple[Linear, N]:
        """Fits a block's output projection and the norm after it, and takes both networks' states through them.

        `features(y, mask)` are the inputs of the narrower network's projection, `update(x, mask)` is what the parent's
        block adds; x and y are the block's `inputs`.
        """
        writer = writer_map(norm, self.basis)
        start = torch.cat([writer @ linear.weight, (writer @ linear.constant)[:, None]], dim=1).double()
        sums = [x + update(read, mask) for x, read, mask in zip(self.parent, inputs.parent, self.attended, strict=True)]
        moments = self._moments(start)
        for batch, (total, y, read, mask) in enumerate(zip(sums, self.plain, inputs.plain, self.attended, strict=True)):
            weights = token_weights(total[mask], is_centered=self.encoder.norms[0].centered)
            moments[is_held_out(batch)].add(features(read, mask)[mask], (total @ writer.T - y)[mask], weights)
        has_bias = linear.bias is not None
        weight = self.solve(index, part, moments, start, has_constant=has_bias)
        fitted = Linear(weight[:, :-1].float(), weight[:, -1].float() if has_bias else None)
        self.plain = [
            y + functional.linear(features(read, mask), fitted.weight, fitted.bias)
            for y, read, mask in zip(self.plain, inputs.plain, self.attended, strict=True)
        ]
        self.parent = [normalized(norm, total) for total in sums]
        if norm is None:
            return fitted, norm
        bare = narrow_norm(norm, len(writer))
        units = [normalized(bare, y) for y in self.plain]
        fitted_norm, self.plain = self._fit_norm(index, f"{part} norm", norm, units, self.parent)
        return fitted, fitted_norm

    def _input_map(self, index: int, part: str, inputs: Inputs, *, has_constant: bool) -> Tensor:
        """Returns P and its constant, `[hidden, size + 1]`, float64; the constant is zero unless it `has_constant`."""
        start = torch.cat([self.basis, torch.zeros_like(self.basis[:, :1])], dim=1).double()
        if all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(inputs.parent, inputs.plain, strict=True)):
            return start
        moments = self._moments(start)
        for batch, (x, y, mask) in enumerate(zip(inputs.parent, inputs.plain, self.attended, strict=True)):
            moments[is_held_out(batch)].add(y[mask], x[mask], torch.ones_like(x[mask][:, 0]))
        return self.solve(index, part, moments, start, has_constant=has_constant)

    # --- least squares
    # --------------------------------------------------------------------------------------------------------

    def _moments(self, start: Tensor) -> tuple[Moments, Moments]:
        """Returns empty moments for a fit that begins with `start`: those to train with, and those that are held out."""
        targets, features = start.shape
        return Moments(features - 1, targets, self.device), Moments(features - 1, targets, self.device)

    def solve(
        self, index: int, part: str, moments: tuple[Moments, Moments], start: Tensor, *, has_constant: bool
    ) -> Tensor:
        """Returns the fit, `[targets, features + 1]`, float64: `start` where nothing lowers the held-out error."""
        result = fit(*moments, start, ridge_regression if has_constant else ridge_without_constant)
        self.fits.append(BlockFit(index, part, result.before, result.after, result.accepted))
        return result.weight

    def fit_linear(
        self, index: int, part: str, features: Sequence[Tensor], targets: Sequence[Tensor], start: Linear
    ) -> Linear:
        """Fits a linear map of rows of `features` to those of `targets`, both per batch.

        It has a bias if `start` has one.
        """
        first = torch.cat([start.weight, start.constant[:, None]], dim=1).double()
        moments = self._moments(first)
        for batch, (rows, values) in enumerate(zip(features, targets, strict=True)):
            moments[is_held_out(batch)].add(rows, values, torch.ones_like(rows[:, 0]))
        has_bias = start.bias is not None
        weight = self.solve(index, part, moments, first, has_constant=has_bias)
        return Linear(weight[:, :-1].float(), weight[:, -1].float() if has_bias else None)

    def _fit_norm(
        self, index: int, part: str, norm: Norm, units: list[Tensor], states: Sequence[Tensor]
    ) -> tuple[Norm, list[Tensor]]:
        """Fits weight and bias of each unit to the parent's `states` in the basis; `units` are normalized.

        Returns the narrower norm, and what it gives.
        """
        weight, bias = norm.weight, norm.bias
        if self.basis.shape[1] < len(weight):
            targets = [x[mask] @ self.basis for x, mask in zip(states, self.attended, strict=True)]
            rows = [unit[mask] for unit, mask in zip(units, self.attended, strict=True)]
            start = norm_scales(norm, self.basis), None if bias is None else self.basis.T @ bias
            weight, bias, before, after = fit_lines(rows, targets, *start)
            self.fits.append(BlockFit(index, part, before, after, after < before))
        scaled = [unit * weight if bias is None else unit * weight + bias for unit in units]
        return replace(norm, weight=weight, bias=bias), scaled
