"""Plain networks: ordinary Hugging Face models of any shape, with weights inherited from a parent.

They begin near the parent and are meant to be trained on; nothing in them needs this program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from exporters.encoder import Encoder, Linear, MaskedLanguageHead, RelativeBias
from exporters.errors import UsageError, WeightsError
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.checkpoint.weights import read_weights
from prune_export.facts.plan import Indices
from prune_export.families.state_dict import state_dict
from prune_export.progress import SILENT, Progress
from prune_export.pruning.gates import hugging_face_layers
from prune_export.pruning.rearrangement import rearrange
from prune_export.pruning.reconstruction.layerwise import BlockFit
from prune_export.pruning.scores import LayerGradients, fisher_scores, gate_gradients
from prune_export.subarchitecture.hidden_basis import hidden_basis
from prune_export.subarchitecture.inherited_layers import check_layers, inherited_layers
from prune_export.subarchitecture.plain_config import check_parent, plain_config, word_name
from prune_export.subarchitecture.plain_fit import PlainFit
from prune_export.subarchitecture.plain_heads import fit_head, fit_pooler
from prune_export.subarchitecture.shape import Shape, check_shape, shape_of
from prune_export.subarchitecture.state_moments import state_moments
from prune_export.tasks import SPECS

Batch = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Inheritance:
    """All that networks of every shape take from a parent, computed once.

    `gradients` are those of each layer's gates, and `moments` are `state_moments`.
    """

    checkpoint: Checkpoint
    batches: Sequence[Batch]
    gradients: tuple[LayerGradients, ...]
    moments: tuple[Tensor, ...]
    device: str

    @property
    def shape(self) -> Shape:
        """Returns the shape of the parent."""
        return shape_of(self.checkpoint.family.dimensions(self.checkpoint.config))


@dataclass(frozen=True, slots=True, eq=False)
class PlainNetwork:
    """A network of a shape: its transformers configuration, and its weights under the names of the task's class.

    `encoder` is its description, as a checkpoint of these weights has it.
    `layers` are the parent's layers that it has, `units` the heads and columns of each, `fits` how well everything was
    fitted.
    """

    shape: Shape
    config: Any
    tensors: Mapping[str, Tensor]
    layers: tuple[int, ...]
    units: tuple[tuple[Indices, Indices], ...]
    fits: tuple[BlockFit, ...]
    encoder: Encoder


def prepare_inheritance(
    checkpoint: Checkpoint,
    batches: Sequence[Batch],
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Inheritance:
    """Scores the heads and columns of a parent, and collects its states' moments.

    `batches` hold int64 tensors by input name, with the labels of tasks that have them. `seed` is for the noise in the
    losses of tasks without labels.

    Raises:
        UnsupportedError: no plain network can be made of the parent.
        UsageError: there are less than two batches, or a loss is not finite.
    """
    check_parent(checkpoint)
    if len(batches) < 2:
        raise UsageError(f"expected two batches of calibration examples or more; found {len(batches)}")
    encoder = checkpoint.encoder
    progress.stage("Scoring heads and columns", sum(len(batch["input_ids"]) for batch in batches))
    model = load_reference_model(checkpoint)
    layers = hugging_face_layers(checkpoint, model)
    gradients = gate_gradients(
        model, layers, encoder.task, encoder.inputs, batches, seed=seed, device=device, progress=progress
    )
    moments = state_moments(encoder, batches, device)
    return Inheritance(checkpoint, batches, gradients, moments, device)


def plain_checkpoint(
    checkpoint: Checkpoint,
    batches: Sequence[Batch],
    *,
    depth: int | None = None,
    hidden: int | None = None,
    heads: int | None = None,
    intermediate: int | None = None,
    layers: Sequence[int] | None = None,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> tuple[Any, Mapping[str, Tensor]]:
    """Returns configuration and state dict of a plain network; sizes that are None are the parent's.

    `layers` are the parent's layers that stay (None: `inherited_layers`). For several shapes of one parent, `inherit` with
    one `prepare_inheritance` does the common work once.

    Raises:
        UnsupportedError, UsageError: as for `prepare_inheritance` and `inherit`.
    """
    inheritance = prepare_inheritance(checkpoint, batches, device=device, progress=progress)
    parent = inheritance.shape
    shape = Shape(
        parent.depth if depth is None else depth,
        parent.heads if heads is None else heads,
        parent.hidden if hidden is None else hidden,
        parent.intermediate if intermediate is None else intermediate,
    )
    network = inherit(inheritance, shape, layers=layers, progress=progress)
    return network.config, network.tensors


@torch.no_grad()
def inherit(
    inheritance: Inheritance,
    shape: Shape,
    *,
    layers: Sequence[int] | None = None,
    units: Sequence[tuple[Indices, Indices]] | None = None,
    progress: Progress = SILENT,
) -> PlainNetwork:
    """Makes a network of `shape` that is as near to the parent as its configuration allows; see `PlainFit`.

    `layers` are the parent's layers that stay (None: `inherited_layers`), `units` the heads and columns of each (None: those
    with the greatest Fisher scores, rearranged as in `prune`; where all layers have one bias of scores by head, the same
    heads in each). Heads become smaller or larger where `hidden // heads` is not the parent's head size (`resize_heads`).

    Raises:
        UsageError: the shape does not exist, has a size above the parent's or a hidden size of 1, or `layers` or `units`
        are not as many different ones of the parent, in order, or cannot stand where they would.
    """
    checkpoint = inheritance.checkpoint
    encoder, parent = checkpoint.encoder, inheritance.shape
    check_shape(shape, checkpoint.family.dimensions(checkpoint.config))
    if shape.hidden < 2:
        raise UsageError(f"hidden: expected 2 or more; found {shape.hidden}")
    chosen = inherited_layers(encoder, shape.depth) if layers is None else tuple(layers)
    check_layers(chosen, encoder, shape.depth)
    if units is None:
        units = _kept_units(inheritance, chosen, shape)
    _check_units(units, shape, parent, has_common_heads=_has_common_heads(checkpoint))
    kept = dict(zip(chosen, units, strict=True))
    config = plain_config(checkpoint, shape)
    progress.stage(f"Fitting {shape}", parent.depth)
    basis = hidden_basis(inheritance.moments, shape.hidden, is_centered=checkpoint.family.centered_norms)
    fit = PlainFit(encoder, basis, inheritance.batches, inheritance.device)
    embeddings, fitted, final_norm = fit.body(chosen, kept, shape.hidden // shape.heads, progress)
    head = fit_head(fit, encoder.head, embeddings)
    if isinstance(head, MaskedLanguageHead):
        # Narrower word embeddings are in another basis than what the decoder reads.
        if config.tie_word_embeddings and embeddings.word.shape == encoder.embeddings.word.shape:
            head = replace(head, decoder=replace(head.decoder, weight=embeddings.word))
        else:
            config.tie_word_embeddings = False
    description = Encoder(encoder.task, embeddings, fitted, head, final_norm)
    tensors = _tensors(checkpoint, config, description) | _pooler(checkpoint, fit)
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise WeightsError(
                f"{shape}: '{name}' of the fitted network holds values that are not finite; give more examples"
            )
    return PlainNetwork(shape, config, tensors, chosen, tuple(units), tuple(fit.fits), description)


def _check_units(
    units: Sequence[tuple[Indices, Indices]], shape: Shape, parent: Shape, *, has_common_heads: bool
) -> None:
    if len(units) != shape.depth:
        raise UsageError(f"units: expected those of {shape.depth} layers; found those of {len(units)}")
    for of_layer in units:
        for name, indices in zip(("heads", "intermediate"), of_layer, strict=True):
            count, most = getattr(shape, name), getattr(parent, name)
            if len(indices) != count or list(indices) != sorted(set(indices) & set(range(most))):
                raise UsageError(
                    f"units: {name}: expected {count} different ones from 0 to {most - 1}, in order; found {list(indices)}"
                )

    if has_common_heads and len({heads for heads, _ in units}) > 1:
        raise UsageError(
            "units: heads: expected the same in all layers, which have one bias of scores by head; found others"
        )


def _kept_units(inheritance: Inheritance, layers: Sequence[int], shape: Shape) -> tuple[tuple[Indices, Indices], ...]:
    every = [inheritance.gradients[layer] for layer in layers]
    if _has_common_heads(inheritance.checkpoint):
        # One gate for the heads of all layers: its gradient is the sum of theirs.
        common = torch.stack([gradients.heads for gradients in every]).sum(dim=0)
        every = [replace(gradients, heads=common) for gradients in every]
    return tuple(
        (
            rearrange(gradients.heads, _greatest(scores.heads, shape.heads)),
            rearrange(gradients.columns, _greatest(scores.columns, shape.intermediate)),
        )
        for gradients, scores in zip(every, fisher_scores(every), strict=True)
    )


def _has_common_heads(checkpoint: Checkpoint) -> bool:
    """Says whether all layers have one table with a column for each head."""
    return issubclass(checkpoint.family.scores_kind, RelativeBias)


def _greatest(scores: Tensor, count: int) -> Indices:
    return tuple(sorted(scores.argsort(descending=True, stable=True)[:count].tolist()))


def _tensors(checkpoint: Checkpoint, config: Any, encoder: Encoder) -> dict[str, Tensor]:
    """Returns the state dict under the names of the task's class, without what transformers ties to something else."""
    family = checkpoint.family
    tensors = state_dict(family, config, encoder)
    rows = family.heads[encoder.task]
    if isinstance(encoder.head, MaskedLanguageHead):
        decoder, bias = rows["decoder.weight"], rows["decoder.bias"].name
        second = f"{decoder.module}.bias"
        if config.tie_word_embeddings:
            if decoder.name != word_name(family):
                del tensors[decoder.name]
            if second != bias:
                tensors.pop(second, None)
        elif second in tensors and second != bias:
            tensors[second] = tensors[second].clone()
    prefix = f"{family.prefix}." if SPECS[encoder.task].base_model else ""
    return {name.removeprefix(prefix): value.contiguous() for name, value in tensors.items()}


def _pooler(checkpoint: Checkpoint, fit: PlainFit) -> dict[str, Tensor]:
    """Returns the pooler of a base model, which feature extraction does not read and transformers expects; {} for none."""
    if not SPECS[checkpoint.task].base_model:
        return {}
    name = f"{checkpoint.family.prefix}.pooler.dense"
    weights = read_weights(checkpoint.source.folder, checkpoint.family)
    if f"{name}.weight" not in weights:
        return {}
    size = checkpoint.encoder.hidden_size
    pooler = Linear(weights.tensor(f"{name}.weight", (size, size)), weights.tensor(f"{name}.bias", (size,)))
    fitted = fit_pooler(fit, pooler)
    return {"pooler.dense.weight": fitted.weight.contiguous(), "pooler.dense.bias": fitted.constant.contiguous()}
