"""The reference model: the untouched Hugging Face model that decides what the right answers are.

transformers loads the checkpoint's files as they are if it can. It cannot for `pruned_heads` with transformers 5, for a
layer without heads, and for our slim format: then the weights are laid out at full size, with zeros for what was removed, in
an ordinary model of the same class. If only the names of the tensors are unknown to it, the tensors go into such a model as
they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from exporters.errors import CheckpointError, PruneExportError, UnsupportedError
from prune_export.checkpoint.config_keys import own_attention
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.remote_code import no_remote_code
from prune_export.checkpoint.weights import read_weights
from prune_export.families.describe import norm_type
from prune_export.families.state_dict import state_dict
from prune_export.tasks import SPECS


class NoNorm(nn.Module):
    """`x * weight + bias`: nn_pruning's replacement of LayerNorm (`nn_pruning/modules/nonorm.py`)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


def load_reference_model(checkpoint: Checkpoint) -> nn.Module:
    """Loads the Hugging Face model of `checkpoint` for its task, in float32, in evaluation mode.

    Raises:
        CheckpointError: transformers would have to invent weights.
        UnsupportedError: no model of transformers has the network's sliced residual stream.
    """
    if checkpoint.encoder.is_sliced:
        raise UnsupportedError(
            f"'{checkpoint.source.name}' has a sliced residual stream, which no Hugging Face model has: expected a network "
            "that is not sliced; prune_export.load_slim runs and trains this one"
        )
    model_class = getattr(transformers, checkpoint.family.class_name(checkpoint.task))
    with quiet_transformers():
        try:
            if transformers_can_load(checkpoint):
                model = _from_files(checkpoint, model_class)
            elif checkpoint.renamed and checkpoint.form in ("plain", "masked"):
                model = _from_tensors(checkpoint, model_class)
            else:
                model = _from_encoder(checkpoint, model_class)
        except PruneExportError:
            raise
        except Exception as error:  # transformers raises many kinds for what it cannot take
            message = " ".join(str(error).split())[:300]
            raise CheckpointError(f"'{checkpoint.source.name}': transformers cannot load it: {message}") from error
    if norm_type(checkpoint.config) == "no_norm":
        _replace_norms(model)
    return model.eval()


def transformers_can_load(checkpoint: Checkpoint) -> bool:
    """Says whether the installed transformers reads the files as they are; otherwise they are laid out at full size."""
    if checkpoint.form == "slim" or checkpoint.renamed:
        return False
    if checkpoint.form == "hub":
        knows = hasattr(transformers.PreTrainedModel, "prune_heads") and transformers.__version__ < "5"
        return knows and all(checkpoint.kept_heads.values())
    return True


def _from_files(checkpoint: Checkpoint, model_class: Any) -> nn.Module:
    model, info = model_class.from_pretrained(
        checkpoint.source.folder,
        config=own_attention(deepcopy(checkpoint.config), model_class),
        dtype=torch.float32,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    _refuse_invented(info["missing_keys"], checkpoint)
    if checkpoint.masked:
        _, unexpected = model.load_state_dict(_names_of(checkpoint, checkpoint.masked), strict=False)
        assert not unexpected, unexpected
    return model  # type: ignore[no-any-return]


def _from_tensors(checkpoint: Checkpoint, model_class: Any) -> nn.Module:
    """Makes the model from the files' tensors under the names that they should have."""
    model = model_class(own_attention(deepcopy(checkpoint.config), model_class)).to(torch.float32)
    tensors = {**read_weights(checkpoint.source.folder, checkpoint.family), **checkpoint.masked}
    missing, _ = model.load_state_dict(_names_of(checkpoint, tensors), strict=False)
    _refuse_invented(missing, checkpoint)
    return model  # type: ignore[no-any-return]


def _names_of(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames `tensors` for the task's class: a base model has no prefix."""
    prefix = f"{checkpoint.family.prefix}." if SPECS[checkpoint.task].base_model else ""
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _from_encoder(checkpoint: Checkpoint, model_class: Any) -> nn.Module:
    config = type(checkpoint.config).from_dict({**checkpoint.config.to_dict(), "pruned_heads": {}})
    model = model_class(own_attention(config, model_class)).to(torch.float32)
    weights = _names_of(checkpoint, state_dict(checkpoint.family, config, checkpoint.encoder))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    _refuse_invented(missing, checkpoint)
    if unexpected:
        raise CheckpointError(f"{model_class.__name__} has no place for {', '.join(unexpected)}")
    return model  # type: ignore[no-any-return]


def _refuse_invented(missing: Any, checkpoint: Checkpoint) -> None:
    """Refuses random weights, which would make parity meaningless, except for a pooler that the task does not read."""
    tied = {"decoder.weight", "decoder.bias", "position_ids"}
    invented = sorted(
        name for name in missing if ".pooler." not in f".{name}" and not any(name.endswith(end) for end in tied)
    )
    if checkpoint.encoder.head.reads_first_token_only:
        invented = sorted(missing)
    if invented:
        raise CheckpointError(
            f"'{checkpoint.source.name}': transformers finds no weights for {', '.join(invented[:4])}"
        )


def _replace_norms(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, NoNorm(child.weight.detach(), child.bias.detach()))


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences transformers' advice and progress bars, and forbids code that comes with a model."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with no_remote_code():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
