"""Layer by layer, in order: every linear map of a pruned layer is refitted on what the pruned network really gives it.

For each block of the pruned network, with x̂ its input and x the dense network's at the same place:

1. *Inputs.* P = argmin E |P x̂ - x|² maps what arrives to what the dense network would have had, as well as a linear map
   can. Query, key, value and up projections take it in: W := W P.
2. *Output.* W_O (or W_down) is fitted to `(x + block(x)) - x̂`: what has to be added to the *pruned* residual stream to reach
   the dense one. Fitting block(x) instead, as plain sequential least squares does, leaves the drift of x̂ where it is.

Tokens are weighted by 1 / variance of the dense residual sum, which the norm divides by; padding counts nothing. Penalties
hold the weights near what they were, held-out batches choose the penalty, and a fit that does not lower the held-out error
is refused. No gradient, no labels. The closest published relatives: Kwon et al. 2022 (scales) and ZipLM (Kurtic et al.
2023; least squares on the block's own output).

Layers that the original shares run at several places with the same weights: their output projections are fitted once, on all
places together, with the dense network's inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from exporters.axes import to_device
from exporters.encoder import Attention, ConstantBlock, Encoder, FeedForward, Layer, Linear, Norm
from exporters.kinds import check_kinds
from prune_export.options.prune import Reconstruction
from prune_export.progress import SILENT, Progress
from prune_export.pruning.reconstruction.forward import (
    attention_update,
    contexts,
    feed_forward_update,
    inner,
    normalized,
)
from prune_export.pruning.reconstruction.least_squares import Fit, Sums, fit, ridge_regression, unit_scales
from prune_export.slim_model.blocks import SlimEmbeddings

_HELD_OUT = 8  # every so many-th batch only checks


@dataclass(frozen=True, slots=True)
class BlockFit:
    """One fit: held-out errors before and after, relative to the targets' size; `accepted` if it was taken."""

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
    """`pruned` with refitted weights, and what each fit did.

    `dense` is the network to stay close to; `pruned` has as many layers of the same hidden size. `batches` hold int64
    `input_ids` and `attention_mask`, and `token_type_ids` where the network takes them; two or more. Hidden states of
    both networks at one place are held (4 bytes · tokens · hidden size, a few times over), activations of one batch at a
    time.
    """
    if method == "none" or len(batches) < 2:
        return pruned, ()
    check_kinds(dense.layers, "the reconstruction")
    with torch.no_grad():
        walk = _Walk(dense, batches, method, device, progress)
        if len(dense.distinct_layers) < len(dense.layers):
            found = walk.shared(dense, pruned)
        else:
            found = walk.sequential(dense, pruned)
    return found, tuple(walk.fits)


class _Walk:
    """Both networks' hidden states at the place that the walk has come to."""

    def __init__(
        self,
        dense: Encoder,
        batches: Sequence[Mapping[str, Tensor]],
        method: Reconstruction,
        device: str,
        progress: Progress,
    ) -> None:
        self.method, self.device, self.progress = method, device, progress
        self.attended = [batch["attention_mask"].bool().to(device) for batch in batches]
        embeddings = SlimEmbeddings(dense.embeddings, dropout=0.0).to(device)
        self.dense = [
            embeddings(
                batch["input_ids"].to(device),
                batch["token_type_ids"].to(device) if "token_type_ids" in batch else None,
            )
            for batch in batches
        ]
        self.fits: list[BlockFit] = []

    # --- layers of their own ------------------------------------------------------------------------------------------

    def sequential(self, dense: Encoder, pruned: Encoder) -> Encoder:
        self.pruned = list(self.dense)
        layers = []
        for index, (reference, layer) in enumerate(zip(dense.layers, pruned.layers, strict=True)):
            fitted = self._layer(index, to_device(reference, self.device), to_device(layer, self.device))
            layers.append(to_device(fitted, "cpu"))
            self.progress.advance()
        return replace(pruned, layers=tuple(layers))

    def _layer(self, index: int, reference: Layer, layer: Layer) -> Layer:
        attention, feed_forward = layer.attention, layer.feed_forward
        if isinstance(attention, Attention):
            attention = self._inputs_of_attention(index, attention)
            reached = [contexts(attention, x, mask) for x, mask in zip(self.pruned, self.attended, strict=True)]
        targets = [
            x + attention_update(reference.attention, x, mask)
            for x, mask in zip(self.dense, self.attended, strict=True)
        ]
        if isinstance(attention, Attention):
            weight = attention.output_weight
            sizes = attention.value_size
            linear = Linear(weight.flatten(1), attention.output_bias)
            linear = self._fit(index, "attention output", linear, reached, targets, sizes)
            attention = replace(
                attention, output_weight=linear.weight.unflatten(1, weight.shape[1:]), output_bias=linear.bias
            )
            updates = [features @ linear.weight.T + linear.bias for features in reached]
        else:
            attention = self._fit_constant(index, "attention output", attention, targets)
            updates = [attention.bias.expand_as(x) for x in self.pruned]
        self._advance(targets, updates, reference.attention_norm, layer.attention_norm)
        if isinstance(feed_forward, FeedForward):
            feed_forward = self._inputs_of_feed_forward(index, feed_forward)
        targets = [x + feed_forward_update(reference.feed_forward, x) for x in self.dense]
        if isinstance(feed_forward, FeedForward):
            block = feed_forward
            down = self._fit(index, "down", block.down, _Lazily(block, self.pruned), targets, 1)
            feed_forward = replace(block, down=down)
            updates = [inner(block, x) @ down.weight.T + down.bias for x in self.pruned]
        else:
            feed_forward = self._fit_constant(index, "down", feed_forward, targets)
            updates = [feed_forward.bias.expand_as(x) for x in self.pruned]
        self._advance(targets, updates, reference.feed_forward_norm, layer.feed_forward_norm)
        return replace(layer, attention=attention, feed_forward=feed_forward)

    def _advance(self, targets: list[Tensor], updates: list[Tensor], dense_norm: Norm, norm: Norm) -> None:
        self.dense = [normalized(dense_norm, sums) for sums in targets]
        self.pruned = [normalized(norm, x + update) for x, update in zip(self.pruned, updates, strict=True)]

    # --- the fits -----------------------------------------------------------------------------------------------------

    def _fit(
        self,
        index: int,
        part: str,
        linear: Linear,
        features: Sequence[Tensor],
        targets: list[Tensor],
        unit: int,
    ) -> Linear:
        """The output projection that brings the pruned residual stream nearest to `targets`, the dense sums."""
        count = linear.weight.shape[1]
        train, check = (Sums(count, linear.weight.shape[0], self.device) for _ in range(2))
        for place, (sums, x, mask) in enumerate(zip(targets, self.pruned, self.attended, strict=True)):
            there = check if _is_held_out(place) else train
            there.add(features[place][mask], (sums - x)[mask], _token_weights(sums[mask]))
        start = torch.cat([linear.weight, linear.bias[:, None]], dim=1).double()
        solve = ridge_regression if self.method == "full" else unit_scales(unit)
        found = fit(train, check, start, solve)
        self._note(index, part, found)
        return Linear(found.weight[:, :-1].float(), found.weight[:, -1].float()) if found.accepted else linear

    def _fit_constant(self, index: int, part: str, block: ConstantBlock, targets: list[Tensor]) -> ConstantBlock:
        """A block that is gone still has a bias."""
        if self.method != "full":
            return block
        hidden = block.bias.shape[0]
        linear = self._fit(
            index,
            part,
            Linear(block.bias.new_zeros(hidden, 0), block.bias),
            [x[..., :0] for x in self.pruned],
            targets,
            1,
        )
        return ConstantBlock(linear.bias)

    def _inputs_of_attention(self, index: int, block: Attention) -> Attention:
        found = self._input_map(index, "attention inputs")
        if found is None:
            return block
        query, query_bias = _through(found, block.query_weight, block.query_bias)
        key, key_bias = _through(found, block.key_weight, block.key_bias)
        value, value_bias = _through(found, block.value_weight, block.value_bias)
        return replace(
            block,
            query_weight=query,
            query_bias=query_bias,
            key_weight=key,
            key_bias=key_bias,
            value_weight=value,
            value_bias=value_bias,
        )

    def _inputs_of_feed_forward(self, index: int, block: FeedForward) -> FeedForward:
        found = self._input_map(index, "up inputs")
        if found is None:
            return block
        return replace(block, up=Linear(*_through(found, block.up.weight, block.up.bias)))

    def _input_map(self, index: int, part: str) -> Tensor | None:
        """P and its constant `[hidden, hidden + 1]`, float64; None where nothing has changed yet, or it does not help."""
        if self.method != "full" or all(x is y for x, y in zip(self.dense, self.pruned, strict=True)):
            return None
        hidden = self.dense[0].shape[-1]
        train, check = (Sums(hidden, hidden, self.device) for _ in range(2))
        for place, (wanted, x, mask) in enumerate(zip(self.dense, self.pruned, self.attended, strict=True)):
            there = check if _is_held_out(place) else train
            there.add(x[mask], wanted[mask], torch.ones_like(x[mask][:, 0]))
        start = torch.eye(hidden, hidden + 1, dtype=torch.float64, device=self.device)
        found = fit(train, check, start, ridge_regression)
        self._note(index, part, found)
        return found.weight if found.accepted else None

    def _note(self, index: int, part: str, found: Fit) -> None:
        self.fits.append(BlockFit(index, part, found.before, found.after, found.accepted))

    # --- shared layers ------------------------------------------------------------------------------------------------

    def shared(self, dense: Encoder, pruned: Encoder) -> Encoder:
        """Output projections of layers that run at several places, on the dense network's inputs at all of them."""
        distinct = [to_device(layer, self.device) for layer in pruned.distinct_layers]
        sums = [
            (_both_sums(_output(layer.attention), self.device), _both_sums(_output(layer.feed_forward), self.device))
            for layer in distinct
        ]
        for reference, place in zip(dense.layers, pruned.order, strict=True):
            layer, there = distinct[place], to_device(reference, self.device)
            after = []
            for batch, (x, mask) in enumerate(zip(self.dense, self.attended, strict=True)):
                added = attention_update(there.attention, x, mask)
                features = contexts(layer.attention, x, mask) if isinstance(layer.attention, Attention) else x[..., :0]
                sums[place][0][_is_held_out(batch)].add(features[mask], added[mask], _token_weights((x + added)[mask]))
                middle = normalized(there.attention_norm, x + added)
                added = feed_forward_update(there.feed_forward, middle)
                features = (
                    inner(layer.feed_forward, middle) if isinstance(layer.feed_forward, FeedForward) else x[..., :0]
                )
                weights = _token_weights((middle + added)[mask])
                sums[place][1][_is_held_out(batch)].add(features[mask], added[mask], weights)
                after.append(normalized(there.feed_forward_norm, middle + added))
            self.dense = after
            self.progress.advance()
        fitted = []
        for place, layer in enumerate(distinct):
            first, second = sums[place]
            attention = self._solve_shared(place, "attention output", layer.attention, first)
            feed_forward = self._solve_shared(place, "down", layer.feed_forward, second)
            fitted.append(to_device(replace(layer, attention=attention, feed_forward=feed_forward), "cpu"))
        return replace(pruned, layers=tuple(fitted[place] for place in pruned.order))

    def _solve_shared(self, index: int, part: str, block: Any, sums: tuple[Sums, Sums]) -> Any:
        linear = _output(block)
        unit = block.value_size if isinstance(block, Attention) else 1
        if linear.weight.shape[1] == 0 and self.method != "full":
            return block
        start = torch.cat([linear.weight, linear.bias[:, None]], dim=1).double()
        found = fit(sums[0], sums[1], start, ridge_regression if self.method == "full" else unit_scales(unit))
        self._note(index, part, found)
        if not found.accepted:
            return block
        weight, bias = found.weight[:, :-1].float(), found.weight[:, -1].float()
        match block:
            case Attention():
                return replace(
                    block, output_weight=weight.unflatten(1, block.output_weight.shape[1:]), output_bias=bias
                )
            case FeedForward():
                return replace(block, down=Linear(weight, bias))
            case _:
                return ConstantBlock(bias)


class _Lazily(Sequence[Tensor]):
    """A block's activations on each batch, made when they are asked for: they are four times as wide as the states."""

    def __init__(self, block: FeedForward, states: list[Tensor]) -> None:
        self._block, self._states = block, states

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, index: Any) -> Any:
        return inner(self._block, self._states[index])


def _is_held_out(batch: int) -> bool:
    return batch % _HELD_OUT == 1


def _token_weights(sums: Tensor) -> Tensor:
    """What an error weighs after the norm has divided by the deviation. `sums` `[tokens, hidden]`."""
    return 1 / sums.var(dim=-1).clamp(min=1e-12)


def _through(found: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """`weight` `[…, hidden]` and `bias` `[…]` of a map that now takes the input map's result."""
    exact = weight.double()
    moved = exact @ found[:, -1]
    return (exact @ found[:, :-1]).float(), (moved if bias is None else bias.double() + moved).float()


def _output(block: Attention | FeedForward | ConstantBlock) -> Linear:
    """The map with which a block ends; one without inputs where only its bias is left."""
    match block:
        case Attention():
            return Linear(block.output_weight.flatten(1), block.output_bias)
        case FeedForward():
            return block.down
        case ConstantBlock():
            return Linear(block.bias.new_zeros(block.bias.shape[0], 0), block.bias)


def _both_sums(linear: Linear, device: str) -> tuple[Sums, Sums]:
    targets, features = linear.weight.shape
    return Sums(features, targets, device), Sums(features, targets, device)
