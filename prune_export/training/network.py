"""The network that a stage trains, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from exporters.errors import WeightsError
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.checkpoint.weights import read_weights
from prune_export.facts.plan import Plan
from prune_export.families.describe import describe
from prune_export.pruning.costs import counts_of
from prune_export.pruning.cutting import Pruned
from prune_export.slim_model.model import SlimModel
from prune_export.surgeon.zeros import plan_from_zeros
from prune_export.training.layers import layer_modules
from prune_export.training.method import Method
from prune_export.training.slim_network import slim_model, standing, trained, trained_tensors
from prune_export.training.stage import Context, Stage


@dataclass(frozen=True, slots=True, eq=False)
class StageNetwork:
    """`model` is to be trained; it has the masks of `method`, or is the slim network made of `pruned`."""

    checkpoint: Checkpoint
    model: nn.Module
    method: Method | None
    pruned: Pruned | None


def make_network(stage: Stage, context: Context, checkpoint: Checkpoint) -> StageNetwork:
    """The network of `stage`, from the weights of `checkpoint`."""
    if stage.method is None:
        pruned = standing(checkpoint)
        is_dense = counts_of(pruned.encoder) == counts_of(checkpoint.encoder)
        if stage.slim or (stage.slim is None and not is_dense):
            return StageNetwork(checkpoint, slim_model(checkpoint, pruned), None, pruned)
        return StageNetwork(checkpoint, load_reference_model(checkpoint), None, None)
    model = load_reference_model(checkpoint)
    method = stage.method(context, checkpoint)
    method.attach(model, layer_modules(checkpoint, model))
    return StageNetwork(checkpoint, model, method, None)


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """`changed` are the trained weights at full size under Hugging Face's names, zeros in place; `plan` is what zeros say.

    `at_last_step` and `left` are the method's statistics before and after its masks were folded in (empty: no method).
    """

    changed: dict[str, Tensor]
    plan: Plan
    at_last_step: dict[str, float]
    left: dict[str, float]


def finish_network(network: StageNetwork, state: Mapping[str, Tensor], total: int) -> Finished:
    """What a training ended in.

    `network` is a fresh one of the stage, `state` the state dict at its end, after `total` steps.

    Raises:
        WeightsError: the state dict is not of such a network.
    """
    missing, _ = network.model.load_state_dict(
        dict(state), strict=False
    )  # beside, it may hold what only training needs
    if missing:
        raise WeightsError(f"the training's checkpoint lacks {missing[0]} (and {len(missing) - 1} more)")
    checkpoint = network.checkpoint
    weights = read_weights(checkpoint.source.folder, checkpoint.family)
    at_last_step: dict[str, float] = {}
    left: dict[str, float] = {}
    if network.pruned is not None:
        assert isinstance(network.model, SlimModel)
        changed = trained_tensors(checkpoint, weights, trained(network.pruned, network.model))
    else:
        if network.method is not None:
            network.model.eval()
            network.method.set_step(total - 1, total)
            at_last_step = network.method.statistics()
            network.method.set_step(total, total)
            with torch.no_grad():
                network.method.fold()
            left = network.method.statistics()
        prefix = f"{checkpoint.family.prefix}." if checkpoint.task == "feature-extraction" else ""
        found = {f"{prefix}{name}": value for name, value in network.model.state_dict().items()}
        changed = {name: value.to(weights[name].dtype) for name, value in found.items() if name in weights}
    encoder = describe(checkpoint.family, checkpoint.config, weights.replaced(changed), checkpoint.task, kept_heads={})
    return Finished(changed, plan_from_zeros(encoder), at_last_step, left)
