"""The importance of each head and column: Fisher information, first-order Taylor, magnitude, random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from exporters.axes import leaves, sizes_of
from exporters.encoder import Attention, ConstantBlock, Encoder, FeedForward
from exporters.errors import UsageError
from exporters.tasks import Task
from prune_export.progress import SILENT, Progress
from prune_export.pruning.gates import GatedLayer, gated
from prune_export.tasks import SPECS

Batch = Mapping[str, Tensor]

NOT_FINITE = (
    "the loss of an example is not finite, so that nothing can be scored; the model and the data do not belong together, or "
    "training went astray"
)


@dataclass(frozen=True, slots=True, eq=False)
class LayerScores:
    """The score of each unit of a layer, the loss expected of its removal: heads `[heads]`, columns `[columns]`, float64."""

    heads: Tensor
    columns: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LayerGradients:
    """The gradient of each sample's loss by the gates of a layer: heads `[samples, heads]`, columns `[samples, columns]`."""

    heads: Tensor
    columns: Tensor


def gate_gradients(
    model: nn.Module,
    layers: Sequence[GatedLayer],
    task: Task,
    inputs: Sequence[str],
    batches: Sequence[Batch],
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> tuple[LayerGradients, ...]:
    """Returns the gradients of the gates of each of `layers`, in their order.

    `inputs` are the names of the model's inputs; `batches` hold the labels as well. The model is left as it was: gates are
    hooks, and no gradient of a parameter is computed.

    Raises:
        UsageError: a loss is not finite.
    """
    collected: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in layers]
    generator = torch.Generator().manual_seed(seed)
    model.to(device)
    network: Any = model
    with gated(layers) as gates:
        for batch in batches:
            on_device = {name: value.to(device) for name, value in batch.items()}
            factors = gates.open(len(on_device["input_ids"]), device)
            outputs = network(**{name: on_device[name] for name in inputs})
            loss = SPECS[task].sample_losses(outputs, on_device, generator).sum()
            gradients = torch.autograd.grad(loss, factors, allow_unused=True, materialize_grads=True)
            for (heads, columns), of_heads, of_columns in zip(collected, gradients[::2], gradients[1::2], strict=True):
                heads.append(of_heads.cpu())
                columns.append(of_columns.cpu())
            if not all(gradient.isfinite().all() for gradient in gradients):
                raise UsageError(NOT_FINITE)
            progress.advance(len(on_device["input_ids"]))
    return tuple(LayerGradients(torch.cat(heads), torch.cat(columns)) for heads, columns in collected)


def fisher_scores(gradients: Sequence[LayerGradients]) -> tuple[LayerScores, ...]:
    """Returns the diagonal of the gates' empirical Fisher information: the mean over samples of the squared gradient.

    Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers", equations 5 to 7.
    """
    return tuple(
        LayerScores(layer.heads.double().square().mean(dim=0), layer.columns.double().square().mean(dim=0))
        for layer in gradients
    )


def taylor_scores(gradients: Sequence[LayerGradients]) -> tuple[LayerScores, ...]:
    """Returns the mean over samples of |gradient|, the first-order (Taylor) change of a sample's loss.

    Michel et al. 2019, "Are Sixteen Heads Really Better than One?", equation 2; Molchanov et al. 2017.
    """
    return tuple(
        LayerScores(layer.heads.double().abs().mean(dim=0), layer.columns.double().abs().mean(dim=0))
        for layer in gradients
    )


def magnitude_scores(encoder: Encoder) -> tuple[LayerScores, ...]:
    """Returns the sum of squares of each unit's weights, without biases."""
    return tuple(
        LayerScores(_squares(layer.attention, "head"), _squares(layer.feed_forward, "intermediate"))
        for layer in encoder.distinct_layers
    )


def _squares(block: Attention | FeedForward | ConstantBlock, axis: str) -> Tensor:
    """Returns the sums of squares over all matrices of a block, `[size of axis]`; empty where the block has no such axis."""
    sums = [
        value.double().square().sum(dim=[index for index, name in enumerate(axes.names) if name != axis])
        for _, value, axes in leaves(block)
        if isinstance(value, Tensor) and axis in axes.names and not {"hidden", "written"}.isdisjoint(axes.names)
    ]
    return torch.stack(sums).sum(dim=0) if sums else torch.zeros(0, dtype=torch.float64)


def random_scores(encoder: Encoder, *, seed: int) -> tuple[LayerScores, ...]:
    """Returns uniform random numbers times the size of each unit, as a baseline: a head is as large as 2 · value columns."""
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for layer in encoder.distinct_layers:
        sizes = sizes_of(layer)
        heads, columns, head_size = sizes.get("head", 0), sizes.get("intermediate", 0), 2 * sizes.get("value", 0.5)
        drawn = torch.rand(heads + columns, generator=generator, dtype=torch.float64)
        scores.append(LayerScores(drawn[:heads] * head_size, drawn[heads:]))
    return tuple(scores)
