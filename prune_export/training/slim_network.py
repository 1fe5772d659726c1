"""A masked checkpoint as a slim network that trains, and the trained network at full size again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from exporters.encoder import ACTIVATIONS, Attention, FeedForward, Layer
from prune_export.checkpoint.load import Checkpoint
from prune_export.facts.plan import Indices
from prune_export.families.state_dict import state_dict
from prune_export.pruning.cutting import Pruned, cut, full_size_tensors, unpruned
from prune_export.slim_model.model import SlimModel, module_of


def standing(checkpoint: Checkpoint) -> Pruned:
    """What stands of a checkpoint of full size; what adds nothing, whatever the input, is cut off.

    Zeros inside a head that stands (blocks, head dimensions) stay where they are, as weights that training may change.
    """
    whole = unpruned(checkpoint.encoder)
    return cut(whole, tuple((_heads(layer), _columns(layer)) for layer in checkpoint.encoder.distinct_layers))


def _heads(layer: Layer) -> Indices:
    block = layer.attention
    if not isinstance(block, Attention):
        return ()
    found = block.value_weight.ne(0).any(dim=2)  # [heads, value_size]
    if block.value_bias is not None:
        found |= block.value_bias.ne(0)
    return _places((found & block.output_weight.ne(0).any(dim=0)).any(dim=1))


def _columns(layer: Layer) -> Indices:
    block = layer.feed_forward
    if not isinstance(block, FeedForward):
        return ()
    found = block.up.weight.ne(0).any(dim=1) | ACTIVATIONS[block.gating.activation](block.up.bias).ne(0)
    return _places(found & block.down.weight.ne(0).any(dim=0))


def _places(stays: Tensor) -> Indices:
    return tuple(torch.nonzero(stays).flatten().tolist())


def slim_model(checkpoint: Checkpoint, network: Pruned) -> SlimModel:
    """`network` as a module that trains, in evaluation mode; it has memory of its own."""
    return module_of(checkpoint, network.encoder)


def trained(network: Pruned, model: SlimModel) -> Pruned:
    """`network` with the weights that `model`, made of it, has now (copies, on the CPU)."""
    return replace(network, encoder=model.describe())


def trained_tensors(checkpoint: Checkpoint, tensors: Mapping[str, Tensor], network: Pruned) -> dict[str, Tensor]:
    """What `network` changes of the checkpoint's `tensors`: `full_size_tensors`, and embeddings, norms and head."""
    changed = full_size_tensors(checkpoint, tensors, network)
    everything = state_dict(checkpoint.family, checkpoint.config, network.encoder)
    for name, value in everything.items():
        if name in tensors and name not in changed:
            changed[name] = value.to(tensors[name].dtype)
    return changed
