"""Makes the network that a stage trains, masked or slim, and turns its weights to full size afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from exporters.encoder import Attention, FeedForward, Layer
from exporters.errors import WeightsError
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.checkpoint.weights import read_weights
from prune_export.facts.plan import Indices, Plan
from prune_export.families.describe import describe
from prune_export.families.state_dict import state_dict
from prune_export.pruning.costs import counts_of
from prune_export.pruning.pruned_network import PrunedNetwork, full_size_tensors, keep_units, unpruned
from prune_export.slim_model.model import SlimModel, slim_module
from prune_export.surgeon.zeros import constant_columns, plan_from_zeros
from prune_export.tasks import SPECS
from prune_export.training.stage import Context, MaskingMethod, Stage, layer_modules

_ALMOST_NOTHING = 0.01  # of the FLOPs or weights
_MUCH = 0.1  # of the FLOPs that are removed in all


@dataclass(frozen=True, slots=True, eq=False)
class StageNetwork:
    """The network of a stage: `model` has the masks of `method`, or is the slim network made of `pruned`, or is dense.

    A slim checkpoint's is the slim network as it is, without `pruned`.
    """

    checkpoint: Checkpoint
    model: nn.Module
    method: MaskingMethod | None
    pruned: PrunedNetwork | None


def make_network(stage: Stage, context: Context, checkpoint: Checkpoint) -> StageNetwork:
    """Makes the network of `stage` from the weights of `checkpoint`, with the recipe's dropout."""
    network = _make_network(stage, context, checkpoint)
    if (probability := context.recipe.optimiser.dropout) is not None:
        set_dropout(network.model, probability)
    return network


def _make_network(stage: Stage, context: Context, checkpoint: Checkpoint) -> StageNetwork:
    if checkpoint.form == "slim":
        return StageNetwork(checkpoint, slim_module(checkpoint, checkpoint.encoder), None, None)
    if stage.method is None:
        pruned = remaining_network(checkpoint)
        is_dense = counts_of(pruned.encoder) == counts_of(checkpoint.encoder)
        if stage.slim or (stage.slim is None and not is_dense):
            return StageNetwork(checkpoint, slim_module(checkpoint, pruned.encoder), None, pruned)
        return StageNetwork(checkpoint, load_reference_model(checkpoint), None, None)
    model = load_reference_model(checkpoint)
    method = stage.method(context, checkpoint)
    method.attach(model, layer_modules(checkpoint, model))
    return StageNetwork(checkpoint, model, method, None)


def set_dropout(model: nn.Module, probability: float) -> None:
    """Sets every dropout of `model`, a transformers model or a slim one, to `probability`.

    Attention that is one fused operation has its probability as a number: `dropout_prob` (in transformers 4 and here), or
    `attention_dropout`.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        for name in ("dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, probability)


# --- the end of a stage -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """The result of a training.

    `changed` are the weights at full size by Hugging Face's names; `plan` says which units are not zero. `at_last_step` and
    `left` are the method's statistics before and after its masks were applied (empty: no method).
    """

    changed: dict[str, Tensor]
    plan: Plan
    at_last_step: dict[str, float]
    left: dict[str, float]


def finish_network(network: StageNetwork, state: Mapping[str, Tensor], total: int) -> Finished:
    """Returns the result of a training.

    `network` is a fresh network of the stage, `state` the state dict after all `total` steps.

    Raises:
        WeightsError: the state dict is not of such a network.
    """
    load_state(network, state)
    checkpoint = network.checkpoint
    weights = read_weights(checkpoint.source.folder, checkpoint.family)
    at_last_step: dict[str, float] = {}
    left: dict[str, float] = {}
    if network.pruned is not None:
        assert isinstance(network.model, SlimModel)
        changed = full_size_weights(checkpoint, weights, with_weights_of(network.pruned, network.model))
    else:
        if network.method is not None:
            network.model.eval()
            network.method.set_step(total - 1, total)
            at_last_step = network.method.statistics()
            network.method.set_step(total, total)
            with torch.no_grad():
                network.method.apply_masks()
            left = network.method.statistics()
        prefix = f"{checkpoint.family.prefix}." if SPECS[checkpoint.task].base_model else ""
        trained = {f"{prefix}{name}": value for name, value in network.model.state_dict().items()}
        changed = {name: value.to(weights[name].dtype) for name, value in trained.items() if name in weights}
    encoder = describe(checkpoint.family, checkpoint.config, weights.replaced(changed), checkpoint.task, kept_heads={})
    return Finished(changed, plan_from_zeros(encoder), at_last_step, left)


def load_state(network: StageNetwork, state: Mapping[str, Tensor]) -> None:
    """Puts the weights of a training's state dict into a fresh network of the stage.

    Raises:
        WeightsError: the state dict is not of such a network.
    """
    missing, _ = network.model.load_state_dict(dict(state), strict=False)  # it may also hold what only training needs
    if missing:
        raise WeightsError(f"the training's checkpoint lacks {missing[0]} (and {len(missing) - 1} more)")


def cut_without_training(at_last_step: Mapping[str, float], left: Mapping[str, float]) -> float:
    """Returns the fraction of the FLOPs that were removed after the last step, without training.

    Both arguments are a method's `statistics()`.
    """
    return max(0.0, at_last_step["flops_left"] - left["flops_left"])


def cut_warning(stage: str, at_last_step: Mapping[str, float], left: Mapping[str, float]) -> str | None:
    """Returns a warning where hardly anything was pruned, or much of it without training; otherwise None."""
    removed, untrained = 1 - left["flops_left"], cut_without_training(at_last_step, left)
    if removed < _ALMOST_NOTHING and left.get("sparsity", 0.0) < _ALMOST_NOTHING:
        return (
            f"stage {stage}: nothing was pruned: {1 - removed:.1%} of the FLOPs are left. Train longer, raise what pushes "
            "scores down (method.penalty_weight, optimiser.score_learning_rate), or give budget.flops, which is met exactly"
        )
    if removed < _ALMOST_NOTHING:
        return (
            f"stage {stage}: {left['sparsity']:.1%} of the weights are zero, but no head and no column goes: the exported "
            "network will not be faster"
        )
    if untrained > _MUCH * removed:
        return (
            f"stage {stage}: {at_last_step['flops_left']:.1%} of the FLOPs were left at its last step, {1 - removed:.1%} "
            f"are now: {untrained:.1%} were cut without training. Train longer, raise optimiser.score_learning_rate, or let "
            "schedule.cooldown begin earlier"
        )
    return None


# --- slim networks ----------------------------------------------------------------------------------------------------


def remaining_network(checkpoint: Checkpoint) -> PrunedNetwork:
    """Returns the network of a checkpoint of full size without the units that never contribute.

    Zeros within a kept head (blocks, head dimensions) remain, as weights that training may change.
    """
    kept = tuple((_kept_heads(layer), _kept_columns(layer)) for layer in checkpoint.encoder.distinct_layers)
    return keep_units(unpruned(checkpoint.encoder), kept)


def _kept_heads(layer: Layer) -> Indices:
    block = layer.attention
    if not isinstance(block, Attention):
        return ()
    values = block.value_weight.ne(0).any(dim=2)  # [heads, value_size]
    if block.value_bias is not None:
        values |= block.value_bias.ne(0)
    return _indices((values & block.output_weight.ne(0).any(dim=0)).any(dim=1))


def _kept_columns(layer: Layer) -> Indices:
    block = layer.feed_forward
    if not isinstance(block, FeedForward):
        return ()
    is_constant, values = constant_columns(block)
    return _indices((~is_constant | values.ne(0)) & block.down.weight.ne(0).any(dim=0))


def _indices(kept: Tensor) -> Indices:
    return tuple(torch.nonzero(kept).flatten().tolist())


def with_weights_of(network: PrunedNetwork, model: SlimModel) -> PrunedNetwork:
    """Returns `network` with the current weights of `model`, which was made of it."""
    return replace(network, encoder=model.describe())


def full_size_weights(
    checkpoint: Checkpoint, tensors: Mapping[str, Tensor], network: PrunedNetwork
) -> dict[str, Tensor]:
    """Returns those of the checkpoint's `tensors` that `network` replaces: its layers, embeddings, norms and head."""
    changed = full_size_tensors(checkpoint, tensors, network)
    for name, value in state_dict(checkpoint.family, checkpoint.config, network.encoder).items():
        if name in tensors and name not in changed:
            changed[name] = value.to(tensors[name].dtype)
    return changed
