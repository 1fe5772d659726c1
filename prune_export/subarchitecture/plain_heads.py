"""Task heads of a narrower network, fitted to the parent's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from exporters.axes import take, to_device
from exporters.encoder import (
    ACTIVATIONS,
    Embeddings,
    FeatureHead,
    Linear,
    MaskedLanguageHead,
    Pooling,
    SequenceHead,
    SpanHead,
    TaskHead,
    TokenHead,
    Transform,
)
from prune_export.pruning.reconstruction.forward import normalized
from prune_export.subarchitecture.hidden_basis import greedy_units
from prune_export.subarchitecture.plain_fit import PlainFit

_INDEX = -1  # in the fits: no layer


def fit_head(fit: PlainFit, head: TaskHead, embeddings: Embeddings) -> TaskHead:
    """Returns the task head of the narrower network; `fit` has run its body. `embeddings` are the narrower network's."""
    head = to_device(head, fit.device)
    match head:
        case FeatureHead():
            fitted: TaskHead = head
        case SpanHead(transform=None) | TokenHead(transform=None):
            fitted = replace(head, output=_readers(fit, "task head", head.output, _tokens(fit)))
        case SpanHead(transform=Transform() as transform) | TokenHead(transform=Transform() as transform):
            units = _units(fit, transform, _tokens(fit))
            fitted = replace(head, transform=units.transform, output=_output(fit, head.output, units))
        case SequenceHead():
            units = _units(fit, Transform(head.dense, head.activation, head.norm), _pooled(fit, head.pooling))
            narrower = units.transform
            output = _output(fit, head.output, units)
            fitted = replace(head, dense=narrower.dense, norm=narrower.norm, output=output)
        case MaskedLanguageHead():
            fitted = _masked_language_head(fit, head, embeddings)
    return to_device(fitted, "cpu")


def fit_pooler(fit: PlainFit, pooler: Linear) -> Linear:
    """Returns the pooler of a base model, tanh(dense(first token)), with as many units as the narrower network has."""
    units = _units(fit, Transform(to_device(pooler, fit.device), "tanh", None), _pooled(fit, "first"))
    return to_device(units.transform.dense, "cpu")


States = tuple[list[Tensor], list[Tensor]]
"""Rows of the parent's states, `[rows, hidden]`, and of the narrower network's, `[rows, size]`, per batch."""


def _tokens(fit: PlainFit) -> States:
    return (
        [x[mask] for x, mask in zip(fit.parent, fit.attended, strict=True)],
        [y[mask] for y, mask in zip(fit.plain, fit.attended, strict=True)],
    )


def _pooled(fit: PlainFit, pooling: Pooling) -> States:
    """Returns what the dense map of text classification reads; with "late" that is every token."""
    match pooling:
        case "late":
            return _tokens(fit)
        case "first":
            return [x[:, 0] for x in fit.parent], [y[:, 0] for y in fit.plain]
        case "mean":
            weights = [mask[..., None] / mask.sum(dim=1)[:, None, None].clamp(min=1) for mask in fit.attended]
            parent, plain = (
                [(x * weight).sum(dim=1) for x, weight in zip(states, weights, strict=True)]
                for states in (fit.parent, fit.plain)
            )
            return parent, plain


def _apply(linear: Linear, x: Tensor) -> Tensor:
    return functional.linear(x, linear.weight, linear.bias)


def _readers(fit: PlainFit, part: str, linear: Linear, states: States) -> Linear:
    """Returns a linear map of the narrower states, fitted to what `linear` gives for the parent's."""
    parent, plain = states
    start = Linear(linear.weight @ fit.basis, linear.bias)
    return fit.fit_linear(_INDEX, part, plain, [_apply(linear, x) for x in parent], start)


@dataclass(frozen=True, slots=True, eq=False)
class _Units:
    """A transform of the narrower network: which of the parent's units it has, and what both give, per batch."""

    transform: Transform
    kept: tuple[int, ...]
    parent: list[Tensor]
    plain: list[Tensor]


def _units(fit: PlainFit, transform: Transform, states: States) -> _Units:
    """Returns a transform that Hugging Face makes as wide as the network.

    An activation follows its dense map, so that units can be chosen and not rotated: those from which the others follow
    best.
    """
    activation = ACTIVATIONS[transform.activation]
    every = [activation(_apply(transform.dense, x)) for x in states[0]]
    count = fit.basis.shape[1]
    kept = tuple(range(len(transform.dense.weight)))
    if count < len(kept):
        values = torch.cat(every).double()
        kept = greedy_units(values.T @ values / len(values), count)
    dense = _readers(fit, "dense", take(transform.dense, "outputs", kept), states)
    norm = None if transform.norm is None else take(transform.norm, "features", kept)
    narrower = Transform(dense, transform.activation, norm)
    parent = [normalized(transform.norm, values) for values in every]
    plain = [normalized(norm, activation(_apply(dense, y))) for y in states[1]]
    return _Units(narrower, kept, parent, plain)


def _output(fit: PlainFit, output: Linear, units: _Units) -> Linear:
    """Returns the map after a transform, fitted to what the parent's gives unless all units are there."""
    start = take(output, "inputs", units.kept)
    if len(units.kept) == output.weight.shape[1]:
        return start
    return fit.fit_linear(_INDEX, "task head", units.plain, [_apply(output, x) for x in units.parent], start)


def _masked_language_head(fit: PlainFit, head: MaskedLanguageHead, embeddings: Embeddings) -> MaskedLanguageHead:
    """Returns the head for fill-mask.

    Its hidden units are as wide as the embeddings. Where these shrink, the units are chosen, and the decoder is a matrix of
    its own, not the word embeddings: these are in another basis than the units. Without units before it, the decoder reads
    the states themselves.
    """
    states, transform, decoder = _tokens(fit), head.transform, head.decoder
    hidden = decoder.weight.shape[1]
    if embeddings.word.shape == decoder.weight.shape:
        if transform is not None:
            transform = replace(transform, dense=_readers(fit, "dense", transform.dense, states))
        return replace(head, transform=transform)
    if transform is None:
        targets, features, start = *states, fit.basis
    else:
        units = _units(fit, transform, states)
        transform, targets, features = units.transform, units.parent, units.plain
        start = torch.zeros(hidden, len(units.kept), device=fit.device)
        start[list(units.kept), range(len(units.kept))] = 1.0
    has_bias = decoder.bias is not None
    first = Linear(start, start.new_zeros(hidden) if has_bias else None)
    back = fit.fit_linear(_INDEX, "decoder", features, targets, first)
    bias = decoder.weight @ back.constant + decoder.constant if has_bias else None
    return replace(head, transform=transform, decoder=Linear(decoder.weight @ back.weight, bias))
