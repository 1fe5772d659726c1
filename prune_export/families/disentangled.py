"""What DeBERTa's two families have in common: embeddings, task heads, and what their configurations must not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor

from exporters.encoder import ACTIVATIONS
from exporters.errors import UnsupportedError
from exporters.tasks import Task
from prune_export.families.common import bert_like_dimensions, heads
from prune_export.families.describe import norm_type
from prune_export.families.names import EMBEDDINGS, Dimensions, masked_language_head
from prune_export.families.table import Stored, Table
from prune_export.files.reading import shown

TERMS = ("c2p", "p2c")
MOST_DISTANCES = 2**16  # beyond it, the logarithms of buckets are too coarse in float32


def terms_of(config: Any) -> tuple[str, ...]:
    """Returns `pos_att_type` as a tuple; transformers makes a list of a string such as "p2c|c2p"."""
    return tuple(config.pos_att_type or ())


def span_of(config: Any) -> int:
    """Returns the largest distance that `max_relative_positions` stands for."""
    most = config.max_relative_positions
    return int(most if most > 0 else config.max_position_embeddings)


def disentangled_dimensions(config: Any, rows: int) -> Dimensions:
    """Returns the dimensions; `rows` are those of the embeddings of distances.

    Raises:
        UnsupportedError: the configuration describes a network that the description cannot express.
    """
    _check(config)
    is_relative = bool(config.relative_attention)
    return replace(
        bert_like_dimensions(config),
        has_position_rows=bool(config.position_biased_input),
        keeps_head_size=True,
        distance_rows=rows if is_relative else 0,
        distance_terms=len(terms_of(config)) if is_relative else 0,
    )


def _check(config: Any) -> None:
    terms = terms_of(config)
    wrong = [term for term in terms if term not in TERMS]
    if wrong or len(set(terms)) < len(terms):
        _refuse(
            "pos_att_type", config.pos_att_type, "'c2p', 'p2c' or both, each once", "set it to what the network has"
        )
    if config.relative_attention and not terms:
        _refuse(
            "pos_att_type",
            config.pos_att_type,
            "'c2p', 'p2c' or both",
            "set relative_attention to false if it has none",
        )
    if getattr(config, "conv_kernel_size", 0):
        _refuse(
            "conv_kernel_size",
            config.conv_kernel_size,
            "0 (a convolution beside the first layer is not supported)",
            "take a checkpoint without one, such as a DeBERTa-v3",
        )
    if getattr(config, "talking_head", False):
        _refuse("talking_head", config.talking_head, "false", "take a checkpoint whose heads do not mix their scores")
    for name in ("embedding_size", "pooler_hidden_size"):
        size = getattr(config, name, None)
        if size is not None and size != config.hidden_size:
            _refuse(
                name, size, f"the hidden size, {config.hidden_size}", "take a checkpoint without a projection there"
            )
    size, usual = getattr(config, "attention_head_size", None), config.hidden_size // config.num_attention_heads
    if size is not None and size != usual:
        _refuse(
            "attention_head_size", size, f"hidden_size / num_attention_heads, {usual}", "take a checkpoint of that size"
        )
    if config.pooler_hidden_act not in ACTIVATIONS:
        _refuse(
            "pooler_hidden_act",
            config.pooler_hidden_act,
            f"one of {', '.join(ACTIVATIONS)}",
            "take a checkpoint with one",
        )
    if norm_type(config) != "layer_norm":
        _refuse("layer_norm_type", norm_type(config), "layer_norm", "take a checkpoint with LayerNorms")
    if config.relative_attention and span_of(config) > MOST_DISTANCES:
        _refuse(
            "max_relative_positions", span_of(config), f"at most {MOST_DISTANCES:,}", "set it to what the network has"
        )


def _refuse(key: str, found: Any, expected: str, advice: str) -> None:
    raise UnsupportedError(f"config.json: {key} is {shown(found)}; expected {expected}; {advice}")


def check_task(config: Any, task: Task) -> None:
    """Checks that transformers computes `task` rightly.

    Raises:
        UnsupportedError: the new fill-mask head (`legacy` false) in transformers 4, which ties the word embeddings to the
            head's dense matrix, and saves the network without them.
    """
    if task == "fill-mask" and not config.legacy and transformers.__version__ < "5":
        raise UnsupportedError(
            f"config.json: legacy is false, and transformers {transformers.__version__} overwrites the word embeddings of "
            "such a fill-mask network; expected transformers 5 or later; install it, or choose another --task"
        )


def disentangled_heads(*, legacy: bool) -> Mapping[Task, Table]:
    """Returns the tables of the task heads; without `legacy` fill-mask reads the word embeddings themselves."""
    if legacy:
        fill_mask = masked_language_head(
            dense="cls.predictions.transform.dense",
            norm="cls.predictions.transform.LayerNorm",
            decoder="cls.predictions.decoder",
            bias="cls.predictions.bias",
        )
    else:
        fill_mask = masked_language_head(
            dense="lm_predictions.lm_head.dense",
            norm="lm_predictions.lm_head.LayerNorm",
            decoder=f"deberta.{EMBEDDINGS['word'].module}",
            bias="lm_predictions.lm_head.bias",
        )
    return heads(dense="pooler.dense", output="classifier", fill_mask=fill_mask)


def disentangled_variant(config: Any) -> dict[str, Any]:
    """Returns the fields of a family that differ with its configuration, except for the layers' own tensors."""
    return {
        "heads": disentangled_heads(legacy=config.legacy),
        "activations": {"text-classification": config.pooler_hidden_act},
        "scores": {"embeddings": Stored("encoder.rel_embeddings.weight")} if config.relative_attention else {},
    }


def scale_of(config: Any) -> float:
    """Returns the scale of scores: `pos_att_type` counts even where `relative_attention` is false."""
    size = config.hidden_size // config.num_attention_heads
    return float((size * (1 + len(terms_of(config)))) ** -0.5)


def distance_values(config: Any, row_of_distance: Tensor) -> dict[str, Any]:
    """Returns what is no parameter in the scores; `row_of_distance` is left out without `relative_attention`."""
    terms = terms_of(config) if config.relative_attention else ()
    return {
        "scale": scale_of(config),
        "row_of_distance": row_of_distance if terms else torch.zeros(1, dtype=torch.long),
        "content_to_position": "c2p" in terms,
        "position_to_content": "p2c" in terms,
        "epsilon": config.layer_norm_eps,
    }
