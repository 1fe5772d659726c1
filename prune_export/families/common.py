"""Dimensions, layer paths and head tables that several families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from exporters.errors import UnsupportedError
from exporters.tasks import Task
from prune_export.families.names import SPAN_HEAD, TOKEN_HEAD, Dimensions
from prune_export.families.table import Table, linear
from prune_export.files.reading import clipped


def bert_like_dimensions(config: Any) -> Dimensions:
    """Returns the dimensions in a configuration with BERT's names."""
    dropout = getattr(config, "classifier_dropout", None)
    return Dimensions(
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        types=getattr(config, "type_vocab_size", 0),
        embedding=config.hidden_size,  # whatever else config.json holds: the class does not look at it
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        intermediate=config.intermediate_size,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
        pad_token_id=config.pad_token_id or 0,
        labels=config.num_labels,
        hidden_dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        classifier_dropout=config.hidden_dropout_prob if dropout is None else dropout,
    )


def check_same(old: str, said: Any, new: str, used: Any) -> None:
    """Checks a key of config.json that only the code reads which came with a model, `said` under the name `old` (None: not).

    Raises:
        UnsupportedError: it differs from what transformers has `used`, under the name `new`.
    """
    if said is not None and said != used:
        raise UnsupportedError(
            f"config.json: {old} is {clipped(str(said))}, which transformers passes over; {new}, which it reads, is "
            f"{clipped(str(used))} (by default, where it is not there). These are two networks: make both say the same"
        )


def own_layer(folder: str) -> Callable[[object, int], str]:
    """Returns the `layer` function of families without shared layers: their paths are `folder.0`, `folder.1` and so on."""
    return lambda _, index: f"{folder}.{index}"


def heads(*, dense: str, output: str, fill_mask: Table) -> Mapping[Task, Table]:
    """Returns the tables of all task heads; `dense` and `output` are the modules of text classification."""
    return {
        "question-answering": SPAN_HEAD,
        "token-classification": TOKEN_HEAD,
        "text-classification": linear("dense", dense) | linear("output", output),
        "feature-extraction": {},
        "fill-mask": fill_mask,
    }
