"""How much each head and column matters: Fisher information, first-order Taylor, magnitude, chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from exporters.axes import leaves, sizes_of
from exporters.encoder import Attention, ConstantBlock, Encoder, FeedForward, Layer
from exporters.errors import UsageError
from exporters.tasks import Task
from prune_export.progress import SILENT, Progress
from prune_export.pruning.gates import GatedLayer, gated
from prune_export.tasks import SPECS

Batch = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class LayerScores:
    """What is lost with each unit of a layer that stands at present: heads `[heads]`, columns `[columns]`, float64."""

    heads: Tensor
    columns: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LayerGradients:
    """Each sample's gradient of its loss with respect to the gates: heads `[samples, heads]`, columns
    `[samples, columns]`."""

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
    """One entry for each of `layers`. `inputs` names what the model takes; `batches` hold the labels, too.

    The model is left as it was: gates are hooks, and no gradient of a parameter is computed.

    Raises:
        UsageError: a loss is not finite.
    """
    found: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in layers]
    generator = torch.Generator().manual_seed(seed)
    model.to(device)
    network: Any = model
    with gated(layers) as gates:
        for batch in batches:
            there = {name: value.to(device) for name, value in batch.items()}
            factors = gates.open(len(there["input_ids"]), device)
            outputs = network(**{name: there[name] for name in inputs})
            loss = SPECS[task].sample_losses(outputs, there, generator).sum()
            gradients = torch.autograd.grad(loss, factors, allow_unused=True, materialize_grads=True)
            for index, (heads, columns) in enumerate(found):
                heads.append(gradients[2 * index].cpu())
                columns.append(gradients[2 * index + 1].cpu())
            if not all(part.isfinite().all() for part in gradients):
                raise UsageError(
                    "the loss of an example is not finite, so that nothing can be scored; the model and the data do not "
                    "belong together, or training went astray"
                )
            progress.advance(len(there["input_ids"]))
    return tuple(LayerGradients(torch.cat(heads), torch.cat(columns)) for heads, columns in found)


def fisher(gradients: Sequence[LayerGradients]) -> tuple[LayerScores, ...]:
    """Diagonal of the empirical Fisher information of the gates: mean over samples of the squared gradient.

    Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers", equations 5 to 7.
    """
    return tuple(
        LayerScores(part.heads.double().square().mean(dim=0), part.columns.double().square().mean(dim=0))
        for part in gradients
    )


def taylor(gradients: Sequence[LayerGradients]) -> tuple[LayerScores, ...]:
    """First-order Taylor: mean over samples of |gradient|, the change of a sample's loss to first order.

    Michel et al. 2019, "Are Sixteen Heads Really Better than One?", equation 2; Molchanov et al. 2017.
    """
    return tuple(
        LayerScores(part.heads.double().abs().mean(dim=0), part.columns.double().abs().mean(dim=0))
        for part in gradients
    )


def magnitude(encoder: Encoder) -> tuple[LayerScores, ...]:
    """Sum of squares of all weights that a unit has, biases left out."""
    return tuple(_magnitude(layer) for layer in encoder.distinct_layers)


def _magnitude(layer: Layer) -> LayerScores:
    return LayerScores(_squares(layer.attention, "head"), _squares(layer.feed_forward, "intermediate"))


def _squares(block: Attention | FeedForward | ConstantBlock, axis: str) -> Tensor:
    """Sums of squares `[size of axis]` over all matrices of a block; empty where the block has no such axis."""
    sums = [
        value.double().square().sum(dim=[index for index, name in enumerate(axes.names) if name != axis])
        for _, value, axes in leaves(block)
        if isinstance(value, Tensor) and {axis, "hidden"} <= set(axes.names)
    ]
    return torch.stack(sums).sum(dim=0) if sums else torch.zeros(0, dtype=torch.float64)


def chance(encoder: Encoder, *, seed: int) -> tuple[LayerScores, ...]:
    """Uniform random numbers times the number of weights of the unit: what method has to beat."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for layer in encoder.distinct_layers:
        sizes = sizes_of(layer)
        heads, columns, size = sizes.get("head", 0), sizes.get("intermediate", 0), 2 * sizes.get("value", 0.5)
        drawn = torch.rand(heads + columns, generator=generator, dtype=torch.float64)
        found.append(LayerScores(drawn[:heads] * size, drawn[heads:]))
    return tuple(found)
