"""ModernBERT (Warner et al. 2024): rotary scores, windows in most layers, gated blocks, norms before blocks, few biases."""

from __future__ import annotations

from typing import Any

from exporters.encoder import Rotary
from exporters.errors import UnsupportedError
from prune_export.families.common import own_layer
from prune_export.families.names import Dimensions, Family, masked_language_head
from prune_export.families.rotation import check_head_size, check_is_not_scaled, frequencies_of
from prune_export.families.table import Stored, linear
from prune_export.files.reading import clipped

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_TRANSFORM = {**linear("transform.dense", "head.dense"), **linear("transform.norm", "head.norm")}
# The keys that switch biases on, by the module that has them.
_BIASES = {"Wqkv": "attention_bias", "Wo": "attention_bias", "head.dense": "classifier_bias", "decoder": "decoder_bias"}


def _dimensions(config: Any) -> Dimensions:
    return Dimensions(
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        types=0,
        embedding=config.hidden_size,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        intermediate=config.intermediate_size,
        activation=config.hidden_activation,
        epsilon=config.norm_eps,
        pad_token_id=config.pad_token_id or 0,
        labels=config.num_labels,
        hidden_dropout=config.mlp_dropout,
        attention_dropout=config.attention_dropout,
        classifier_dropout=config.classifier_dropout,
        pooling="mean" if config.classifier_pooling == "mean" else "first",
        head_activation=config.classifier_activation,
        has_position_rows=False,
        keeps_head_size=True,
    )


def _is_absent(config: Any, name: str) -> bool:
    """The first layer has no norm before its attention; most biases are switched off."""
    module, _, kind = name.rpartition(".")
    if module.endswith("layers.0.attn_norm"):
        return True
    if kind != "bias" or module == "classifier":
        return False
    if module.rpartition(".")[2].endswith("norm"):
        return not config.norm_bias
    if ".mlp." in module:
        return not config.mlp_bias
    return not any(module.endswith(end) and getattr(config, key) for end, key in _BIASES.items())


def layer_type(config: Any, index: int) -> str:
    """Returns "sliding_attention" for a layer with a window, otherwise "full_attention".

    Raises:
        UnsupportedError: the configuration says it in two ways that differ.
    """
    every = getattr(config, "global_attn_every_n_layers", None)
    counted = None if every is None else _LOCAL if index % every else _GLOBAL
    listed = getattr(config, "layer_types", None)
    named = None if listed is None else listed[index]
    if named is not None and named not in (_LOCAL, _GLOBAL):
        raise UnsupportedError(
            f"config.json: layer_types names {clipped(str(named))!r}; expected {_LOCAL} or {_GLOBAL}"
        )
    if None not in (counted, named) and counted != named:
        raise _differs("layer_types", listed, "global_attn_every_n_layers", every)
    return counted or named or _GLOBAL


def rope_theta(config: Any, kind: str) -> Any:
    """Returns the base of the rotary frequencies of layers of a type.

    transformers 4 has two keys, and version 5 a table. Each passes over what only the other one knows, so that the network
    would be another one.

    Raises:
        UnsupportedError: the installed transformers would not use what config.json says, or the frequencies are scaled.
    """
    key = "local_rope_theta" if kind == _LOCAL else "global_rope_theta"
    old = getattr(config, key, None)
    if old is None and kind == _LOCAL:
        old = getattr(config, "global_rope_theta", None)
    table = getattr(config, "rope_parameters", None)
    entry = table.get(kind) if isinstance(table, dict) else None
    if entry is None:
        if old is None:
            raise UnsupportedError(f"config.json: expected {key} or rope_parameters for {kind}; found neither")
        return old
    check_is_not_scaled(entry, f"rope_parameters of {kind} have")
    if old is not None and entry.get("rope_theta", old) != old:
        raise _differs(f"rope_parameters of {kind}", entry, key, old)
    return entry.get("rope_theta", old)


def _differs(new: str, value: Any, old: str, used: Any) -> UnsupportedError:
    return UnsupportedError(
        f"config.json: {new}, which transformers 5 reads, says {clipped(str(value))}; {old}, which transformers 4 reads, is "
        f"{clipped(str(used))} (by default, where it is not there). These are two networks: make both say the same"
    )


def _check_windows(config: Any) -> None:
    """Refuses numbers that transformers takes as they are, and fails or computes nonsense with."""
    every, window = getattr(config, "global_attn_every_n_layers", 1), config.local_attention
    for key, value, least in (("global_attn_every_n_layers", every, 1), ("local_attention", window, 2)):
        if type(value) is not int or value < least:
            raise UnsupportedError(
                f"config.json: expected a whole number of {least} or more for {key}; found {clipped(str(value))}"
            )


def _scores_values(config: Any, index: int) -> dict[str, Any]:
    _check_windows(config)
    dimensions, kind = _dimensions(config), layer_type(config, index)
    check_head_size(config, dimensions)
    return {
        "frequencies": frequencies_of(rope_theta(config, kind), dimensions.head_size, f"rope_theta of {kind}"),
        "window": config.local_attention // 2 if kind == _LOCAL else None,
    }


MODERNBERT = Family(
    model_type="modernbert",
    architecture="ModernBert",
    prefix="model",
    dimensions=_dimensions,
    layer=own_layer("layers"),
    heads={
        "question-answering": {**_TRANSFORM, **linear("output", "classifier")},
        "token-classification": {**_TRANSFORM, **linear("output", "classifier")},
        "text-classification": {
            **linear("dense", "head.dense"),
            **linear("norm", "head.norm"),
            **linear("output", "classifier"),
        },
        "feature-extraction": {},
        "fill-mask": masked_language_head("head.dense", "head.norm", "decoder", "decoder.bias"),
    },
    activations={},
    embeddings={"word": Stored("embeddings.tok_embeddings.weight"), **linear("norm", "embeddings.norm")},
    layers={
        **linear("attention_input_norm", "attn_norm"),
        **linear("attention.query_", "attn.Wqkv", part=0, parts=3),
        **linear("attention.key_", "attn.Wqkv", part=1, parts=3),
        **linear("attention.value_", "attn.Wqkv", part=2, parts=3),
        **linear("attention.output_", "attn.Wo"),
        **linear("feed_forward_input_norm", "mlp_norm"),
        **linear("feed_forward.gating.gate", "mlp.Wi", part=0, parts=2),
        **linear("feed_forward.up", "mlp.Wi", part=1, parts=2),
        **linear("feed_forward.down", "mlp.Wo"),
    },
    scores_kind=Rotary,
    scores_values=_scores_values,
    final_norm={name: Stored(f"final_norm.{name}") for name in ("weight", "bias")},
    is_absent=_is_absent,
    resizes_heads=False,
)
