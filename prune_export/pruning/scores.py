"""How much each head and column matters: Fisher information, first-order Taylor, magnitude, chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from exporters.encoder import Attention, Encoder, FeedForward, Layer, Task
from exporters.errors import UsageError
from prune_export.progress import SILENT, Progress
from prune_export.pruning.gates import GatedLayer, gated
from prune_export.pruning.objective import sample_losses

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
            loss = sample_losses(task, outputs, there, generator).sum()
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
    return tuple(_magnitude(layer) for layer in distinct_layers(encoder))


def _magnitude(layer: Layer) -> LayerScores:
    heads = columns = torch.zeros(0, dtype=torch.float64)
    if isinstance(layer.attention, Attention):
        block = layer.attention
        rows = (block.query_weight, block.key_weight, block.value_weight, block.output_weight.transpose(0, 1))
        heads = torch.stack([part.double().square().sum(dim=(1, 2)) for part in rows]).sum(dim=0)
    if isinstance(layer.feed_forward, FeedForward):
        up, down = layer.feed_forward.up.weight, layer.feed_forward.down.weight
        columns = up.double().square().sum(dim=1) + down.double().square().sum(dim=0)
    return LayerScores(heads, columns)


def chance(encoder: Encoder, *, seed: int) -> tuple[LayerScores, ...]:
    """Uniform random numbers times the number of weights of the unit: what method has to beat."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for layer in distinct_layers(encoder):
        heads, columns, size = 0, 0, 1
        if isinstance(layer.attention, Attention):
            heads, size = len(layer.attention.heads), 2 * layer.attention.value_size
        if isinstance(layer.feed_forward, FeedForward):
            columns = layer.feed_forward.columns
        drawn = torch.rand(heads + columns, generator=generator, dtype=torch.float64)
        found.append(LayerScores(drawn[:heads] * size, drawn[heads:]))
    return tuple(found)


def distinct_layers(encoder: Encoder) -> tuple[Layer, ...]:
    """The layers, shared ones once, in the order in which they first stand."""
    return tuple({id(layer): layer for layer in encoder.layers}.values())


def applications(encoder: Encoder) -> tuple[int, ...]:
    """How often each distinct layer runs."""
    ids = [id(layer) for layer in encoder.layers]
    return tuple(ids.count(key) for key in dict.fromkeys(ids))
