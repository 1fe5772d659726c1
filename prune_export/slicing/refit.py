"""Fits what reads and writes a sliced residual stream to the dense network's states, layer by layer.

With p the state that a block or head of the sliced network really reads, x that of the dense network, z the next residual
sum there, s what the sliced network has in its stream (p itself in a post-norm network), and E the matrix by which all
that is added to that sum is multiplied:

1. *Reading.* A, c = argmin E |A p + c - x|². Everything that reads x takes it in.
2. *Writing.* Output projection W, skip matrix S and bias together: argmin E |W f + S s + b - E z|² / var(z), with f the
   inputs of the block's output projection in the sliced network.

Ridge penalties hold the weights near those of the formulas, held-out batches choose the penalty, and a fit that does not
lower the held-out error is refused, as in `prune_export.pruning.reconstruction`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from exporters.axes import to_device
from exporters.encoder import Attention, ConstantBlock, Embeddings, Encoder, FeedForward, Linear, Norm
from prune_export.pruning.reconstruction.forward import (
    Block,
    activations,
    attention_update,
    contexts,
    feed_forward_update,
    normalized,
    output_of,
    with_output,
)
from prune_export.pruning.reconstruction.least_squares import Moments, fit, is_held_out, ridge_regression, token_weights
from prune_export.slicing.bases import Batch
from prune_export.slicing.formulas import (
    Point,
    Reading,
    Readings,
    reading_of,
    sliced_norm,
    sum_reading_of,
    writing_of,
    written,
)
from prune_export.slim_model.blocks import SlimEmbeddings


class Closed:
    """The formulas as they are, fitted to nothing."""

    def __init__(self, dense: Encoder) -> None:
        self.encoder = dense

    def start(self, embeddings: Embeddings, closed: Readings, point: Point) -> Readings:
        """Returns the readings of the first hidden states, which `embeddings` make for the norm of `point`."""
        del embeddings, point
        return closed

    def block(self, block: Block, past: Reading, point: Point) -> tuple[Block, Tensor]:
        """Returns the block that writes for the norm of `point`, and the skip matrix beside it."""
        return written(block, past, writing_of(*point))

    def readings(self, point: Point) -> Readings:
        """Returns the readings of the states after the last block."""
        inner = reading_of(*point)
        return Readings(inner, inner if self.encoder.is_post_norm else sum_reading_of(*point[1:]))


class Refit(Closed):
    """Goes through both networks: `dense` and `sliced` are the states that they hold at one place, per batch.

    `dense_norm` and `sliced_norm` are the norms by which a block or head reads them, in pre-norm networks. Without `reads`,
    what reads the stream keeps the formulas.
    """

    def __init__(self, dense: Encoder, batches: Sequence[Batch], device: str, *, reads: bool = True) -> None:
        super().__init__(dense)
        self.device, self.step, self.reads = device, 0, reads
        self.batches = [{name: value.to(device) for name, value in batch.items()} for batch in batches]
        self.attended = [batch["attention_mask"].bool() for batch in self.batches]
        self.dense = self._embedded(dense.embeddings)
        self.sliced: list[Tensor] = []
        self.dense_norm: Norm | None = None
        self.sliced_norm: Norm | None = None

    def _embedded(self, embeddings: Embeddings) -> list[Tensor]:
        module = SlimEmbeddings(embeddings, dropout=0.0).to(self.device)
        return [module(batch["input_ids"], batch.get("token_type_ids")) for batch in self.batches]

    def start(self, embeddings: Embeddings, closed: Readings, point: Point) -> Readings:
        self.sliced = self._embedded(embeddings)
        if embeddings.norm is None:
            self.dense_norm, self.sliced_norm = (
                to_device(norm, self.device) for norm in (point[0], sliced_norm(*point))
            )
        inner = self._fitted(closed.inner)
        return Readings(inner, closed.past if embeddings.norm is None else inner)

    def readings(self, point: Point) -> Readings:
        closed = super().readings(point)
        inner = self._fitted(closed.inner)
        return Readings(inner, inner if self.encoder.is_post_norm else closed.past)

    def _fitted(self, reading: Reading) -> Reading:
        if not self.reads:
            return reading
        targets, width = reading.weight.shape
        train, held_out = (Moments(width, targets, self.device) for _ in range(2))
        for batch, (state, original, mask) in enumerate(zip(self.sliced, self.dense, self.attended, strict=True)):
            p, x = normalized(self.sliced_norm, state[mask]), normalized(self.dense_norm, original[mask])
            moments = held_out if is_held_out(batch) else train
            moments.add(p, x, torch.ones_like(p[:, 0]))
        start = torch.cat([reading.weight, reading.constant[:, None]], dim=1).to(self.device)
        weight = fit(train, held_out, start, ridge_regression).weight.cpu()
        return Reading(weight[:, :-1], weight[:, -1])

    def block(self, block: Block, past: Reading, point: Point) -> tuple[Block, Tensor]:
        layer = to_device(self.encoder.layers[self.step // 2], self.device)
        is_attention = self.step % 2 == 0
        self.step += 1
        sums = []
        for state, mask in zip(self.dense, self.attended, strict=True):
            x = normalized(self.dense_norm, state)
            update = (
                attention_update(layer.attention, x, mask)
                if is_attention
                else feed_forward_update(layer.feed_forward, x)
            )
            sums.append(state + update)
        fitted, skip = self._fit(block, past, point, sums)
        if self.encoder.is_post_norm:
            norm = layer.attention_norm if is_attention else layer.feed_forward_norm
            self.dense = [normalized(norm, z) for z in sums]
        else:
            self.dense, self.dense_norm = sums, to_device(self.encoder.norms[self.step], self.device)
        return fitted, skip

    def _fit(self, block: Block, past: Reading, point: Point, sums: list[Tensor]) -> tuple[Block, Tensor]:
        """Fits the writing to `sums`, the dense residual sums, and takes the sliced states there."""
        writing = writing_of(*point)
        start, skip = written(block, past, writing)
        output = output_of(start)
        joined = torch.cat([output.weight, skip, output.constant[:, None]], dim=1).double().to(self.device)
        to_sum = writing.float().to(self.device)
        on_device = to_device(block, self.device)
        targets, features = joined.shape
        train, held_out = (Moments(features - 1, targets, self.device) for _ in range(2))
        for batch, (z, mask) in enumerate(zip(sums, self.attended, strict=True)):
            moments = held_out if is_held_out(batch) else train
            weights = token_weights(z[mask], is_centered=self.encoder.norms[0].centered)
            moments.add(self._inputs(on_device, batch)[mask], (z @ to_sum.T)[mask], weights)
        weight = fit(train, held_out, joined, ridge_regression).weight.float()
        written_sums = [self._inputs(on_device, batch) @ weight[:, :-1].T + weight[:, -1] for batch in range(len(sums))]
        norm = to_device(sliced_norm(*point), self.device)
        if self.encoder.is_post_norm:
            self.sliced = [normalized(norm, z) for z in written_sums]
        else:
            self.sliced, self.sliced_norm = written_sums, norm
        weight = weight.cpu()
        inner = output.weight.shape[1]
        return with_output(start, Linear(weight[:, :inner].contiguous(), weight[:, -1].contiguous())), weight[
            :, inner:-1
        ].contiguous()

    def _inputs(self, block: Attention | FeedForward | ConstantBlock, batch: int) -> Tensor:
        """Returns the inputs of the output projection and of the skip matrix, side by side."""
        p = self.sliced[batch]
        match block:
            case Attention():
                return torch.cat([contexts(block, normalized(self.sliced_norm, p), self.attended[batch]), p], dim=-1)
            case FeedForward():
                return torch.cat([activations(block, normalized(self.sliced_norm, p)), p], dim=-1)
            case _:
                return p
