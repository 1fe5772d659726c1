"""Task heads of a narrower network, fitted to the parent's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
    Norm,
    SequenceHead,
    SpanHead,
    TaskHead,
    TokenHead,
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
        case SpanHead() | TokenHead():
            fitted = replace(head, output=_readers(fit, "task head", head.output, _tokens(fit)))
        case SequenceHead():
            fitted = _sequence_head(fit, head)
        case MaskedLanguageHead():
            fitted = _masked_language_head(fit, head, embeddings)
    return to_device(fitted, "cpu")


def fit_pooler(fit: PlainFit, pooler: Linear) -> Linear:
    """Returns the pooler of a base model, tanh(dense(first token)), with as many units as the narrower network has."""
    dense, _ = _dense(fit, to_device(pooler, fit.device), torch.tanh, _first_tokens(fit))
    return to_device(dense, "cpu")


States = tuple[list[Tensor], list[Tensor]]
"""Rows of the parent's states, `[rows, hidden]`, and of the narrower network's, `[rows, size]`, per batch."""


def _tokens(fit: PlainFit) -> States:
    return (
        [x[mask] for x, mask in zip(fit.parent, fit.attended, strict=True)],
        [y[mask] for y, mask in zip(fit.plain, fit.attended, strict=True)],
    )


def _first_tokens(fit: PlainFit) -> States:
    return [x[:, 0] for x in fit.parent], [y[:, 0] for y in fit.plain]


def _apply(linear: Linear, x: Tensor) -> Tensor:
    return functional.linear(x, linear.weight, linear.bias)


def _readers(fit: PlainFit, part: str, linear: Linear, states: States) -> Linear:
    """Returns a linear map of the narrower states, fitted to what `linear` gives for the parent's."""
    parent, plain = states
    start = Linear(linear.weight @ fit.basis, linear.bias)
    return fit.fit_linear(_INDEX, part, plain, [_apply(linear, x) for x in parent], start)


def _dense(
    fit: PlainFit, dense: Linear, activation: Callable[[Tensor], Tensor], states: States
) -> tuple[Linear, tuple[int, ...]]:
    """Returns a dense layer that Hugging Face makes as wide as the network, and which of the parent's units it has.

    An activation follows, so that units can be chosen and not rotated: those from which the others follow best.
    """
    count = fit.basis.shape[1]
    if count == len(dense.weight):
        return _readers(fit, "dense", dense, states), tuple(range(count))
    values = torch.cat([activation(_apply(dense, x)) for x in states[0]]).double()
    units = greedy_units(values.T @ values / len(values), count)
    return _readers(fit, "dense", take(dense, "outputs", units), states), units


def _sequence_head(fit: PlainFit, head: SequenceHead) -> SequenceHead:
    activation = ACTIVATIONS[head.activation]
    parent, plain = _first_tokens(fit)
    dense, units = _dense(fit, head.dense, activation, (parent, plain))
    output = take(head.output, "inputs", units)
    if len(units) < len(head.dense.weight):
        pooled = [activation(_apply(dense, y)) for y in plain]
        targets = [_apply(head.output, activation(_apply(head.dense, x))) for x in parent]
        output = fit.fit_linear(_INDEX, "task head", pooled, targets, output)
    return replace(head, dense=dense, output=output)


def _masked_language_head(fit: PlainFit, head: MaskedLanguageHead, embeddings: Embeddings) -> MaskedLanguageHead:
    """Returns the head for fill-mask.

    Its hidden units are as wide as the embeddings. Where these shrink, the units are chosen, and the decoder is a matrix of
    its own, not the word embeddings: these are in another basis than the units.
    """
    states, transform = _tokens(fit), head.transform
    assert transform is not None
    if embeddings.word.shape == head.decoder.weight.shape:
        return replace(head, transform=replace(transform, dense=_readers(fit, "dense", transform.dense, states)))
    activation = ACTIVATIONS[transform.activation]
    dense, units = _dense(fit, transform.dense, activation, states)
    norm: Norm | None = take(transform.norm, "features", units)
    features = [normalized(norm, activation(_apply(dense, y))) for y in states[1]]
    targets = [normalized(transform.norm, activation(_apply(transform.dense, x))) for x in states[0]]
    hidden = len(transform.dense.weight)
    start = torch.zeros(hidden, len(units), device=fit.device)
    start[list(units), range(len(units))] = 1.0
    back = fit.fit_linear(_INDEX, "decoder", features, targets, Linear(start, torch.zeros(hidden, device=fit.device)))
    decoder = Linear(head.decoder.weight @ back.weight, head.decoder.weight @ back.constant + head.decoder.constant)
    return replace(head, transform=replace(transform, dense=dense, norm=norm), decoder=decoder)
