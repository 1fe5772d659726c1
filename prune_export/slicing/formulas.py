"""The parts of a network in the bases of its norms (formulas: `prune_export.slicing`). Products are summed in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from exporters.distances import with_own_projections
from exporters.encoder import (
    Attention,
    ConstantBlock,
    ContentScores,
    Embeddings,
    FeatureHead,
    FeedForward,
    Gated,
    Linear,
    MaskedLanguageHead,
    Norm,
    SequenceHead,
    SpanHead,
    TaskHead,
    TokenHead,
)
from prune_export.pruning.reconstruction.forward import Block, output_of, with_output
from prune_export.slicing.bases import Basis
from prune_export.surgeon.biases import drop_key_bias, fold_value_bias

Point = tuple[Norm, Basis, int]
"""A place of the residual stream: the norm, its basis and the width there."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """The original state as a linear map of the sliced one, x ≈ A p + c.

    `weight` is A `[hidden, width]`, `constant` is c `[hidden]`, both float64.
    """

    weight: Tensor
    constant: Tensor

    def through(self, linear: Linear) -> Linear:
        """Returns the linear map of the original state as one of the sliced state."""
        return Linear(self.matrix(linear.weight), self.shift(linear.weight, linear.bias))

    def matrix(self, weight: Tensor) -> Tensor:
        return (weight.double() @ self.weight).float()

    def shift(self, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        if bias is None and not self.constant.any():
            return None
        constant = weight.double() @ self.constant
        return (constant if bias is None else bias.double() + constant).float()


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """What is read at one place of the stream: `inner` by blocks and heads, `past` by what goes past the next block.

    They are the same in a post-norm network. In a pre-norm one `inner` is that of the norm before the block, and `past` that
    of the sum itself.
    """

    inner: Reading
    past: Reading


def sum_reading_of(basis: Basis, width: int) -> Reading:
    """Returns how a residual sum, but for a mean that no norm after it sees, follows from the sum in the basis."""
    return Reading(basis.restoring(width), torch.zeros(basis.width, dtype=torch.float64))


def reading_of(norm: Norm, basis: Basis, width: int) -> Reading:
    """Returns how the output of `norm` follows from its state in the basis of width `width`."""
    constant = torch.zeros(basis.width, dtype=torch.float64) if norm.bias is None else norm.bias.double()
    return Reading(norm.weight.double()[:, None] * basis.restoring(width), constant)


def writing_of(norm: Norm, basis: Basis, width: int) -> Tensor:
    """Returns E `[width, width of the norm]`, float64, by which all that is added to the sum before `norm` is multiplied."""
    rows = basis.vectors[:, :width].T
    return rows - rows.mean(dim=1, keepdim=True) if norm.centered else rows


def sliced_norm(norm: Norm, basis: Basis, width: int) -> Norm:
    """Returns the RMSNorm of width `width` whose output has the mean square of the states in the basis."""
    assert norm.epsilon is not None
    ratio = basis.width / width
    weight = torch.full((width,), math.sqrt(basis.variance(width) * ratio))
    return Norm(weight, None, norm.epsilon * ratio, centered=False)


def sliced_embeddings(embeddings: Embeddings, norm: Norm, basis: Basis, width: int) -> tuple[Embeddings, Readings]:
    """Returns the embeddings in the basis of `norm`, theirs or the first one after them, and how their states are read.

    A projection after the norm goes into the readings: the first hidden states are as narrow as the embeddings.
    """
    writing = writing_of(norm, basis, width).T.float()
    token_type = embeddings.token_type
    tables = replace(
        embeddings,
        word=embeddings.word @ writing,
        position=None if embeddings.position is None else embeddings.position @ writing,
        token_type=None if token_type is None else token_type @ writing,
        norm=None if embeddings.norm is None else sliced_norm(norm, basis, width),
        projection=None,
    )
    reading = reading_of(norm, basis, width)
    if embeddings.norm is None:
        return tables, Readings(reading, sum_reading_of(basis, width))
    if (projection := embeddings.projection) is not None:
        weight = projection.weight.double()
        reading = Reading(weight @ reading.weight, weight @ reading.constant + projection.constant.double())
    return tables, Readings(reading, reading)


def read_attention(block: Attention | ConstantBlock, reading: Reading) -> Attention | ConstantBlock:
    """Returns the block with projections of the sliced state; value biases are folded, key biases dropped where exact.

    Embeddings of distances stay as wide as they are, so that they get projections of their own.
    """
    if isinstance(block, ConstantBlock):
        return block
    block = with_own_projections(block)
    projected = replace(
        block,
        query_weight=reading.matrix(block.query_weight),
        query_bias=reading.shift(block.query_weight, block.query_bias),
        key_weight=reading.matrix(block.key_weight),
        key_bias=reading.shift(block.key_weight, block.key_bias),
        value_weight=reading.matrix(block.value_weight),
        value_bias=reading.shift(block.value_weight, block.value_bias),
    )
    folded = fold_value_bias(projected)
    return drop_key_bias(folded) if isinstance(block.scores, ContentScores) else folded


def read_feed_forward(block: FeedForward | ConstantBlock, reading: Reading) -> FeedForward | ConstantBlock:
    """Returns the block with up projection, and gate, of the sliced state."""
    if isinstance(block, ConstantBlock):
        return block
    gating = block.gating
    if isinstance(gating, Gated):
        gating = replace(gating, gate=reading.through(gating.gate))
    return replace(block, up=reading.through(block.up), gating=gating)


def read_head(head: TaskHead, reading: Reading) -> TaskHead:
    """Returns the task head as one of the sliced state; for features it restores the original width."""
    match head:
        case SpanHead() | TokenHead() | MaskedLanguageHead() if head.transform is not None:
            return replace(head, transform=replace(head.transform, dense=reading.through(head.transform.dense)))
        case SpanHead() | TokenHead():
            return replace(head, output=reading.through(head.output))
        case MaskedLanguageHead():
            return replace(head, decoder=reading.through(head.decoder))
        case SequenceHead():
            return replace(head, dense=reading.through(head.dense))
        case FeatureHead():
            return FeatureHead(Linear(reading.weight.float(), reading.constant.float()))


def written(block: Block, past: Reading, writing: Tensor) -> tuple[Block, Tensor]:
    """Returns the block, whose output goes to the next residual sum through `writing`, and the skip matrix beside it."""
    output = output_of(block)
    weight, bias = writing @ output.weight.double(), writing @ (output.constant.double() + past.constant)
    return with_output(block, Linear(weight.float(), bias.float())), (writing @ past.weight).float()
