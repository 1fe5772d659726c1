"""Structured optimal brain surgeon: the loss expected of each unit's removal, after the others of its block are refitted.

Every block ends in an output projection W of features φ: the heads' contexts or the columns' activations. When units are
removed, W is refitted to the features that stay, and an error E φ is left in what the block adds to the residual stream.
With H = E[φφᵀ] over tokens and M = Σ E[ggᵀ], g the gradient of an example's loss by what the block adds, the loss of an
example grows by about tr(M E H Eᵀ) / 2. This is the Fisher information with Kronecker factors (Martens and Grosse 2015,
section 3; tokens as in Eschenhagen et al. 2023, "expand").

The optimal brain surgeon (Hassibi and Stork 1993) removes units one after the other. For units S and C = H⁻¹, with one
elimination step per removal (Kurtic et al. 2023, "ZipLM", equations 2 and 3, where M is the identity):

    loss   = tr(W_Sᵀ M W_S (C_SS)⁻¹) / 2
    W     := W - W_S (C_SS)⁻¹ C_S:
    C     := C - C_:S (C_SS)⁻¹ C_S:

One pass over a block gives the best weights and the loss at every number of units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from exporters.encoder import Attention, ConstantBlock, Encoder, FeedForward
from exporters.errors import UsageError
from exporters.tasks import Task
from prune_export.progress import SILENT, Progress
from prune_export.pruning.gates import GatedLayer
from prune_export.pruning.scores import NOT_FINITE, LayerScores
from prune_export.tasks import SPECS

_DAMPING = 0.01  # relative to the mean of the features' second moments
_GROUP = 8  # columns that go at once, at least
_STEPS = 192  # and at most so many steps per block
_COMPACT = (
    0.9  # matrices are cut to the units that stay when they are so many of theirs: a third of the time of all steps
)


@dataclass(slots=True, eq=False)
class BlockMoments:
    """The second moments that the loss of a block's removal depends on. Those of `block_moments` are float32.

    `features` is H, `[features, features]`: the mean of φφᵀ over tokens, each weighted by |g|². `gradients` is M, `[hidden,
    hidden]`: the mean over examples of the sum of ggᵀ over tokens.
    """

    features: Tensor
    gradients: Tensor


@dataclass(slots=True, eq=False)
class _Hooked:
    """An output projection that is being watched: the features and the added zeros of each application, and the sums."""

    moments: BlockMoments
    features: list[Tensor]
    zeros: list[Tensor]
    weight: float = 0.0


def block_moments(
    model: nn.Module,
    layers: Sequence[GatedLayer],
    task: Task,
    inputs: Sequence[str],
    batches: Sequence[Mapping[str, Tensor]],
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> tuple[BlockMoments | None, ...]:
    """Returns the moments of the attention and the feed-forward block of each of `layers` in turn; None for removed blocks.

    `inputs` are the names of the model's inputs; `batches` hold the labels as well. The losses are those of `sample_losses`
    (`tasks/spec.py`). The model is left as it was, but on `device`, where the moments are as well.

    Raises:
        UsageError: a loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    model.to(device)
    network: Any = model
    examples = 0
    with _hooked(layers, device) as projections:
        for batch in batches:
            on_device = {name: value.to(device) for name, value in batch.items()}
            outputs = network(**{name: on_device[name] for name in inputs})
            loss = SPECS[task].sample_losses(outputs, on_device, generator).sum()
            zeros = [value for hooked in projections if hooked is not None for value in hooked.zeros]
            gradients = torch.autograd.grad(loss, zeros, allow_unused=True, materialize_grads=True)
            if not all(gradient.isfinite().all() for gradient in gradients):
                raise UsageError(NOT_FINITE)
            remaining = iter(gradients)
            for hooked in projections:
                if hooked is not None:
                    _add(hooked, list(islice(remaining, len(hooked.zeros))), on_device["attention_mask"].bool())
            examples += len(on_device["input_ids"])
            progress.advance(len(on_device["input_ids"]))
        return tuple(None if hooked is None else _mean(hooked, examples) for hooked in projections)


@contextmanager
def _hooked(layers: Sequence[GatedLayer], device: str) -> Iterator[list[_Hooked | None]]:
    """Watches the output projections while the block runs: zeros are added to each output, to take gradients by."""
    projections: list[_Hooked | None] = []
    handles = []
    for module in (module for layer in layers for module in (layer.attention_output, layer.down)):
        if module is None:
            projections.append(None)
            continue
        weight: Any = module.weight
        targets, features = weight.shape
        hooked = _Hooked(
            BlockMoments(torch.zeros(features, features, device=device), torch.zeros(targets, targets, device=device)),
            [],
            [],
        )
        projections.append(hooked)

        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, hooked: _Hooked = hooked) -> Tensor:
            hooked.features.append(inputs[0].detach())
            hooked.zeros.append(torch.zeros_like(output, requires_grad=True))
            return output + hooked.zeros[-1]

        handles.append(module.register_forward_hook(hook))
    try:
        yield projections
    finally:
        for handle in handles:
            handle.remove()


def _add(hooked: _Hooked, gradients: Sequence[Tensor], attended: Tensor) -> None:
    """Adds the applications of one batch; `attended` is bool `[batch, sequence]`."""
    for features, gradient in zip(hooked.features, gradients, strict=True):
        of_tokens = gradient[attended]  # [tokens, hidden]
        norms = of_tokens.norm(dim=1, keepdim=True)
        weighted = features[attended] * norms
        hooked.moments.features += weighted.T @ weighted
        hooked.moments.gradients += of_tokens.T @ of_tokens
        hooked.weight += float(norms.square().sum(dtype=torch.float64))
    hooked.features.clear()
    hooked.zeros.clear()


def _mean(hooked: _Hooked, examples: int) -> BlockMoments:
    return BlockMoments(hooked.moments.features / max(hooked.weight, 1e-300), hooked.moments.gradients / examples)


# --- removal ----------------------------------------------------------------------------------------------------------


def obs_scores(encoder: Encoder, moments: Sequence[BlockMoments | None]) -> tuple[LayerScores, ...]:
    """Returns the scores of the units of `encoder`: the loss that the removal of each adds to that of the units before it.

    `moments` are those of `block_moments`; the work is done where they are. Units that go later never have lower scores, so
    that the best n units of a block are those which stay when the others are gone.
    """
    scores = []
    blocks = iter(moments)
    for layer in encoder.distinct_layers:
        heads, columns = _block_scores(layer.attention, next(blocks)), _block_scores(layer.feed_forward, next(blocks))
        scores.append(LayerScores(heads, columns))
    return tuple(scores)


def _block_scores(block: Attention | FeedForward | ConstantBlock, moments: BlockMoments | None) -> Tensor:
    if isinstance(block, ConstantBlock) or moments is None:
        return torch.zeros(0, dtype=torch.float64)
    if isinstance(block, Attention):
        removal = remove_all(block.output_weight.flatten(1), moments, size=block.value_size)
    else:
        removal = remove_all(block.down.weight, moments, group=max(_GROUP, block.columns // _STEPS))
    scores = torch.empty(len(removal.order), dtype=torch.float64)
    scores[list(removal.order)] = torch.tensor(removal.losses, dtype=torch.float64).cummax(dim=0).values
    return scores


@dataclass(frozen=True, slots=True)
class Removal:
    """The units of a block in the order in which they go, and the loss that each adds, refitted."""

    order: tuple[int, ...]
    losses: tuple[float, ...]


def remove_all(
    weight: Tensor, moments: BlockMoments, *, size: int = 1, group: int = 1, damping: float = _DAMPING
) -> Removal:
    """Removes all units of `size` features from `weight`, `[hidden, features]`, always those with the smallest loss.

    `group` units go at once; each of them has the same share of their loss. `damping` times the mean diagonal is added to
    the features' second moments. The work is done on the moments' device.
    """
    device = moments.features.device
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_damped(moments, damping)))
    values, vectors = torch.linalg.eigh(moments.gradients.double())
    seen = (vectors * values.clamp(min=0).sqrt()).T @ weight.to(device).double()  # what the loss sees of the weight
    names = torch.arange(
        weight.shape[1] // size, device=device
    )  # the units of `seen` and `inverse`, those that went too
    stays = torch.ones_like(names, dtype=torch.bool)
    order: list[int] = []
    losses: list[float] = []
    while stays.any():
        units = torch.nonzero(stays).flatten()
        if len(units) <= _COMPACT * len(stays):
            features = _features_of(units, size).flatten()
            seen, inverse = seen[:, features], inverse[features][:, features]
            names, stays = names[units], stays[units]
            units = torch.arange(len(units), device=device)
        lowest = _losses(seen, inverse, units, size).topk(min(group, len(units)), largest=False, sorted=True).indices
        chosen = units[lowest]
        removed = _features_of(chosen, size).flatten()
        factor = torch.linalg.cholesky(inverse[removed][:, removed])
        solved = torch.cholesky_solve(seen[:, removed].T, factor)
        loss = 0.5 * float((seen[:, removed] * solved.T).sum())
        rows = inverse[removed]
        seen.addmm_(solved.T, rows, alpha=-1)
        inverse.addmm_(rows.T, torch.cholesky_solve(rows, factor), alpha=-1)
        stays[chosen] = False
        order += names[chosen].tolist()
        losses += [loss / len(chosen)] * len(chosen)
    return Removal(tuple(order), tuple(losses))


def refit(weight: Tensor, moments: BlockMoments, features: Tensor, *, damping: float = _DAMPING) -> Tensor:
    """Returns the weight `[hidden, kept features]`, float32, that does best what `weight` does, on `features` alone.

    These are the weights that `remove_all` arrives at when the others are gone.
    """
    damped = _damped(moments, damping)
    factor = torch.linalg.cholesky(damped[features][:, features])
    exact = weight.to(damped.device).double()
    return torch.cholesky_solve((exact @ damped[:, features]).T, factor).T.float().to(weight.device)


def _damped(moments: BlockMoments, damping: float) -> Tensor:
    features = moments.features.double()
    mean = max(float(features.diagonal().mean()), 1e-300)
    return features + damping * mean * torch.eye(len(features), dtype=torch.float64, device=features.device)


def _features_of(units: Tensor, size: int) -> Tensor:
    """Returns the features of each of `units`, `[units, size]`."""
    return units[:, None] * size + torch.arange(size, device=units.device)


def _losses(seen: Tensor, inverse: Tensor, units: Tensor, size: int) -> Tensor:
    """Returns the loss of the removal of each of `units` alone."""
    if size == 1:
        return seen[:, units].square().sum(dim=0) / inverse.diagonal()[units]
    features = _features_of(units, size)
    blocks = inverse[features[:, :, None], features[:, None, :]]
    of_units = seen[:, features].permute(1, 2, 0)  # [units, size, hidden]
    return torch.einsum("uso,uso->u", of_units, torch.linalg.solve(blocks, of_units))
