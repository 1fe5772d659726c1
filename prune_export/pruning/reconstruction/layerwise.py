"""Refits every linear map of a pruned network, layer by layer, on the inputs that the pruned network gives it.

For each block of the pruned network, with x̂ its input and x the dense network's input to the same block:

1. *Inputs.* P = argmin E |P x̂ - x|² maps the pruned network's states to the dense network's as well as a linear map can.
   Query, key, value and up projections take it in: W := W P.
2. *Output.* W_O (or W_down) is fitted to `(x + block(x)) - x̂`: what has to be added to the *pruned* residual stream to reach
   the dense one. A fit to block(x) instead, as in plain sequential least squares, leaves the drift of x̂ uncorrected.

Tokens are weighted by 1 / variance of the dense residual sum, by which the norm divides; padding has no weight. Penalties
hold the weights near their old values, held-out batches choose the penalty, and a fit that does not lower the held-out error
is refused. Neither gradients nor labels are needed. The nearest published relatives are Kwon et al. 2022 (scales) and ZipLM
(Kurtic et al. 2023; least squares on the block's own output).

Where the original applies one layer several times (ALBERT), its output projections are fitted once, on the dense network's
inputs to all applications together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from exporters.axes import to_device
from exporters.distances import Distances
from exporters.encoder import Attention, ConstantBlock, Encoder, FeedForward, Gated, Layer, Linear, Norm
from exporters.kinds import check_kinds
from prune_export.options.prune import Reconstruction
from prune_export.progress import SILENT, Progress
from prune_export.pruning.reconstruction.forward import (
    activations,
    attention_update,
    contexts,
    feed_forward_update,
    normalized,
    output_of,
    with_output,
)
from prune_export.pruning.reconstruction.least_squares import (
    Fit,
    Moments,
    composed,
    fit,
    is_held_out,
    ridge_regression,
    ridge_without_constant,
    token_weights,
    unit_scales,
)
from prune_export.slim_model.blocks import SlimEmbeddings

Block = Attention | FeedForward | ConstantBlock


@dataclass(frozen=True, slots=True)
class BlockFit:
    """One fit: held-out errors before and after, relative to the targets' size, and whether it was `accepted`."""

    layer: int
    part: str
    before: float
    after: float
    accepted: bool


def reconstruct(
    dense: Encoder,
    pruned: Encoder,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    method: Reconstruction = "full",
    device: str = "cpu",
    progress: Progress = SILENT,
) -> tuple[Encoder, tuple[BlockFit, ...]]:
    """Returns `pruned` with refitted weights, and all fits.

    `dense` is the reference; `pruned` has as many layers of the same hidden size. `batches` hold int64 `input_ids` and
    `attention_mask`, and `token_type_ids` where the network takes them. With less than two of them nothing is fitted.
    The hidden states of both networks are in memory for one layer at a time (4 bytes · tokens · hidden size, a few times
    over), activations for one batch at a time.
    """
    if method == "none" or len(batches) < 2:
        return pruned, ()
    check_kinds(dense.layers, "the reconstruction")
    with torch.no_grad():
        refit = _Refit(dense, batches, method, device, progress)
        if len(dense.distinct_layers) < len(dense.layers):
            encoder = refit.shared_layers(dense, pruned)
        else:
            encoder = refit.separate_layers(dense, pruned)
    return encoder, tuple(refit.fits)


class _Refit:
    """Goes through both networks, layer by layer; `dense` and `pruned` are their hidden states, per batch."""

    def __init__(
        self,
        dense: Encoder,
        batches: Sequence[Mapping[str, Tensor]],
        method: Reconstruction,
        device: str,
        progress: Progress,
    ) -> None:
        self.method, self.device, self.progress = method, device, progress
        self.is_centered = dense.norms[0].centered
        self.attended = [batch["attention_mask"].bool().to(device) for batch in batches]
        embeddings = SlimEmbeddings(dense.embeddings, dropout=0.0).to(device)
        self.dense = [
            embeddings(
                batch["input_ids"].to(device),
                batch["token_type_ids"].to(device) if "token_type_ids" in batch else None,
            )
            for batch in batches
        ]
        self.pruned = list(self.dense)
        self.fits: list[BlockFit] = []

    # --- layers with weights of their own -----------------------------------------------------------------------------

    def separate_layers(self, dense: Encoder, pruned: Encoder) -> Encoder:
        layers = []
        for index, (reference, layer) in enumerate(zip(dense.layers, pruned.layers, strict=True)):
            fitted = self._layer(index, to_device(reference, self.device), to_device(layer, self.device))
            layers.append(to_device(fitted, "cpu"))
            self.progress.advance()
        return replace(pruned, layers=tuple(layers))

    def _layer(self, index: int, reference: Layer, layer: Layer) -> Layer:
        attention, feed_forward = layer.attention, layer.feed_forward
        features: Sequence[Tensor] = [x[..., :0] for x in self.pruned]
        inputs = self._inputs(reference.attention_input_norm, layer.attention_input_norm)
        if isinstance(attention, Attention):
            attention = self._fit_attention_inputs(index, attention, inputs)
            features = [contexts(attention, x, mask) for x, mask in zip(inputs.pruned, self.attended, strict=True)]
        sums = [
            x + attention_update(reference.attention, read, mask)
            for x, read, mask in zip(self.dense, inputs.dense, self.attended, strict=True)
        ]
        attention = self._fit_output(index, "attention output", attention, reference.attention, features, sums)
        updates = _updates(attention, features)
        self.dense = [normalized(reference.attention_norm, x) for x in sums]
        self.pruned = [
            normalized(layer.attention_norm, x + update) for x, update in zip(self.pruned, updates, strict=True)
        ]

        features = [x[..., :0] for x in self.pruned]
        inputs = self._inputs(reference.feed_forward_input_norm, layer.feed_forward_input_norm)
        if isinstance(feed_forward, FeedForward):
            feed_forward = self._fit_feed_forward_inputs(index, feed_forward, inputs)
            features = _Activations(feed_forward, inputs.pruned)
        sums = [
            x + feed_forward_update(reference.feed_forward, read)
            for x, read in zip(self.dense, inputs.dense, strict=True)
        ]
        feed_forward = self._fit_output(index, "down", feed_forward, reference.feed_forward, features, sums)
        updates = _updates(feed_forward, features)
        self.dense = [normalized(reference.feed_forward_norm, x) for x in sums]
        self.pruned = [
            normalized(layer.feed_forward_norm, x + update) for x, update in zip(self.pruned, updates, strict=True)
        ]
        return replace(layer, attention=attention, feed_forward=feed_forward)

    def _inputs(self, of_dense: Norm | None, of_pruned: Norm | None) -> _Inputs:
        """Returns what a block reads in both networks: the hidden states after its input norm, where there is one."""
        return _Inputs([normalized(of_dense, x) for x in self.dense], [normalized(of_pruned, x) for x in self.pruned])

    def _fit_output(
        self, index: int, part: str, block: Any, reference: Any, features: Sequence[Tensor], sums: list[Tensor]
    ) -> Any:
        """Fits the output projection to the difference of `sums`, the dense residual sums, and the pruned states."""
        moments = self._moments(output_of(block))
        for batch, (dense_sum, x, mask) in enumerate(zip(sums, self.pruned, self.attended, strict=True)):
            moments[is_held_out(batch)].add(
                features[batch][mask],
                (dense_sum - x)[mask],
                token_weights(dense_sum[mask], is_centered=self.is_centered),
            )
        return self._solve_output(index, part, block, reference, moments)

    def _fit_attention_inputs(self, index: int, block: Attention, inputs: _Inputs) -> Attention:
        has_constant = block.query_bias is not None
        input_map = self._fit_input_map(index, "attention inputs", inputs, has_constant=has_constant)
        if input_map is None:
            return block
        query_weight, query_bias = composed(input_map, block.query_weight, block.query_bias)
        key_weight, key_bias = composed(input_map, block.key_weight, block.key_bias)
        value_weight, value_bias = composed(input_map, block.value_weight, block.value_bias)
        if isinstance(block.scores, Distances):
            # These projections may be those of distances as well, or have no bias that could take the constant.
            return replace(block, value_weight=value_weight, value_bias=value_bias)
        return replace(
            block,
            query_weight=query_weight,
            query_bias=query_bias,
            key_weight=key_weight,
            key_bias=key_bias,
            value_weight=value_weight,
            value_bias=value_bias,
        )

    def _fit_feed_forward_inputs(self, index: int, block: FeedForward, inputs: _Inputs) -> FeedForward:
        has_constant = block.up.bias is not None
        input_map = self._fit_input_map(index, "up inputs", inputs, has_constant=has_constant)
        if input_map is None:
            return block
        gating = block.gating
        if isinstance(gating, Gated):
            gating = replace(gating, gate=Linear(*composed(input_map, gating.gate.weight, gating.gate.bias)))
        return replace(block, up=Linear(*composed(input_map, block.up.weight, block.up.bias)), gating=gating)

    def _fit_input_map(self, index: int, part: str, inputs: _Inputs, *, has_constant: bool) -> Tensor | None:
        """Returns P and its constant, `[hidden, hidden + 1]`, float64; the constant is zero unless the block has biases.

        Returns None where both networks have the same states still, or the map does not lower the held-out error.
        """
        if self.method != "full" or all(x is y for x, y in zip(self.dense, self.pruned, strict=True)):
            return None
        hidden = self.dense[0].shape[-1]
        train, held_out = (Moments(hidden, hidden, self.device) for _ in range(2))
        for batch, (dense, x, mask) in enumerate(zip(inputs.dense, inputs.pruned, self.attended, strict=True)):
            moments = held_out if is_held_out(batch) else train
            moments.add(x[mask], dense[mask], torch.ones_like(x[mask][:, 0]))
        start = torch.eye(hidden, hidden + 1, dtype=torch.float64, device=self.device)
        result = fit(train, held_out, start, ridge_regression if has_constant else ridge_without_constant)
        self._note(index, part, result)
        return result.weight if result.accepted else None

    # --- shared layers ------------------------------------------------------------------------------------------------

    def shared_layers(self, dense: Encoder, pruned: Encoder) -> Encoder:
        """Fits the output projections of layers that are applied several times, on the dense network's inputs to them."""
        layers = [to_device(layer, self.device) for layer in pruned.distinct_layers]
        moments = [
            (self._moments(output_of(layer.attention)), self._moments(output_of(layer.feed_forward)))
            for layer in layers
        ]
        for reference, index in zip(dense.layers, pruned.layer_indices, strict=True):
            of_attention, of_feed_forward = moments[index]
            self._add_moments(layers[index], to_device(reference, self.device), of_attention, of_feed_forward)
            self.progress.advance()
        fitted = []
        for index, (layer, (of_attention, of_feed_forward)) in enumerate(zip(layers, moments, strict=True)):
            reference = dense.distinct_layers[index]
            attention = self._solve_output(
                index, "attention output", layer.attention, reference.attention, of_attention
            )
            feed_forward = self._solve_output(
                index, "down", layer.feed_forward, reference.feed_forward, of_feed_forward
            )
            fitted.append(to_device(replace(layer, attention=attention, feed_forward=feed_forward), "cpu"))
        return replace(pruned, layers=tuple(fitted[index] for index in pruned.layer_indices))

    def _add_moments(
        self,
        layer: Layer,
        reference: Layer,
        of_attention: tuple[Moments, Moments],
        of_feed_forward: tuple[Moments, Moments],
    ) -> None:
        """Adds one application of `layer` to the moments, and takes the dense network's states through `reference`."""
        after = []
        for batch, (x, mask) in enumerate(zip(self.dense, self.attended, strict=True)):
            held_out = is_held_out(batch)
            read = normalized(reference.attention_input_norm, x)
            update = attention_update(reference.attention, read, mask)
            features = contexts(layer.attention, read, mask) if isinstance(layer.attention, Attention) else x[..., :0]
            of_attention[held_out].add(
                features[mask], update[mask], token_weights((x + update)[mask], is_centered=self.is_centered)
            )
            x = normalized(reference.attention_norm, x + update)
            read = normalized(reference.feed_forward_input_norm, x)
            update = feed_forward_update(reference.feed_forward, read)
            block = layer.feed_forward
            features = activations(block, read) if isinstance(block, FeedForward) else x[..., :0]
            of_feed_forward[held_out].add(
                features[mask], update[mask], token_weights((x + update)[mask], is_centered=self.is_centered)
            )
            after.append(normalized(reference.feed_forward_norm, x + update))
        self.dense = after

    # --- output projections -------------------------------------------------------------------------------------------

    def _moments(self, linear: Linear) -> tuple[Moments, Moments]:
        """Returns empty moments for the fit of a linear map: those to train with, and those that are held out."""
        targets, features = linear.weight.shape
        return Moments(features, targets, self.device), Moments(features, targets, self.device)

    def _solve_output(self, index: int, part: str, block: Any, reference: Any, moments: tuple[Moments, Moments]) -> Any:
        """Returns `block` with the output projection that fits the moments best; a removed block has a bias alone.

        It gets no bias where that of the dense network, in the block `reference`, has none.
        """
        linear, has_constant = output_of(block), _has_constant(reference)
        if linear.weight.shape[1] == 0 and (self.method != "full" or not has_constant):
            return block
        unit_size = block.value_size if isinstance(block, Attention) else 1
        regression = ridge_regression if has_constant else ridge_without_constant
        start = torch.cat([linear.weight, linear.constant[:, None]], dim=1).double()
        train, held_out = moments
        result = fit(train, held_out, start, regression if self.method == "full" else unit_scales(unit_size))
        self._note(index, part, result)
        if not result.accepted:
            return block
        bias = result.weight[:, -1].float() if has_constant else linear.bias
        return with_output(block, Linear(result.weight[:, :-1].float(), bias))

    def _note(self, index: int, part: str, result: Fit) -> None:
        self.fits.append(BlockFit(index, part, result.before, result.after, result.accepted))


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What a block of both networks reads, per batch `[batch, sequence, hidden]`."""

    dense: list[Tensor]
    pruned: list[Tensor]


class _Activations(Sequence[Tensor]):
    """A block's activations on each batch, computed when they are read: they are four times as wide as the states."""

    def __init__(self, block: FeedForward, states: list[Tensor]) -> None:
        self._block, self._states = block, states

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, index: Any) -> Any:
        return activations(self._block, self._states[index])


def _has_constant(block: Attention | FeedForward | ConstantBlock) -> bool:
    """Says whether the block's output has a bias."""
    return bool(block.bias.any()) if isinstance(block, ConstantBlock) else output_of(block).bias is not None


def _updates(block: Block, features: Sequence[Tensor]) -> list[Tensor]:
    """Returns what the block adds to the residual stream per batch; `features` are the inputs of its output projection."""
    linear = output_of(block)
    return [functional.linear(x, linear.weight, linear.bias) for x in features]
