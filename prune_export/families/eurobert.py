"""EuroBERT (Boizard et al. 2025): rotary scores, gated blocks, RMSNorm before blocks, no norm after the embeddings."""

from __future__ import annotations

from typing import Any

from exporters.encoder import Pooling, Rotary
from exporters.errors import UnsupportedError
from exporters.tasks import Task
from prune_export.families.common import check_same, own_layer
from prune_export.families.names import TOKEN_HEAD, Dimensions, Family
from prune_export.families.rotation import values_of_rotation
from prune_export.families.table import Stored, linear
from prune_export.files.reading import clipped

_POOLING: dict[str, Pooling] = {"bos": "first", "mean": "mean", "late": "late"}
# The keys that switch biases on, by the last part of the path of the module that has them.
_BIASES = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "attention_bias"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj", "lm_head"), "mlp_bias"),
}


def _dimensions(config: Any) -> Dimensions:
    groups, heads = config.num_key_value_heads, config.num_attention_heads
    if groups != heads:
        raise UnsupportedError(
            f"config.json: num_key_value_heads is {clipped(str(groups))}; expected as many as num_attention_heads, "
            f"{clipped(str(heads))}: heads that share keys and values are not supported"
        )
    return Dimensions(
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        types=0,
        embedding=config.hidden_size,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=heads,
        intermediate=config.intermediate_size,
        activation=config.hidden_act,
        epsilon=config.rms_norm_eps,
        pad_token_id=config.pad_token_id or 0,
        labels=config.num_labels,
        hidden_dropout=0.0,
        attention_dropout=config.attention_dropout,
        classifier_dropout=0.0,
        pooling=_POOLING.get(config.classifier_pooling, "first"),
        has_position_rows=False,
        keeps_head_size=True,
    )


def _check(config: Any, task: Task) -> None:
    if task != "text-classification":
        return
    if config.classifier_pooling not in _POOLING:
        raise UnsupportedError(
            f"config.json: classifier_pooling is {clipped(str(config.classifier_pooling))!r}; expected one of "
            f"{', '.join(_POOLING)}"
        )
    # The name in published configurations, which come with code.
    check_same("clf_pooling", getattr(config, "clf_pooling", None), "classifier_pooling", config.classifier_pooling)


def _is_absent(config: Any, name: str) -> bool:
    module, _, kind = name.rpartition(".")
    key = _BIASES.get(module.rpartition(".")[2])
    return kind == "bias" and key is not None and not getattr(config, key)


EUROBERT = Family(
    model_type="eurobert",
    architecture="EuroBert",
    prefix="model",
    dimensions=_dimensions,
    layer=own_layer("layers"),
    heads={
        "token-classification": TOKEN_HEAD,
        "text-classification": {**linear("dense", "dense"), **linear("output", "classifier")},
        "feature-extraction": {},
        "fill-mask": linear("decoder", "lm_head"),
    },
    activations={"text-classification": "gelu"},
    embeddings={"word": Stored("embed_tokens.weight")},
    layers={
        "attention_input_norm.weight": Stored("input_layernorm.weight"),
        **linear("attention.query_", "self_attn.q_proj"),
        **linear("attention.key_", "self_attn.k_proj"),
        **linear("attention.value_", "self_attn.v_proj"),
        **linear("attention.output_", "self_attn.o_proj"),
        "feed_forward_input_norm.weight": Stored("post_attention_layernorm.weight"),
        **linear("feed_forward.gating.gate", "mlp.gate_proj"),
        **linear("feed_forward.up", "mlp.up_proj"),
        **linear("feed_forward.down", "mlp.down_proj"),
    },
    scores_kind=Rotary,
    scores_values=lambda config, _: values_of_rotation(config, _dimensions(config)),
    final_norm={"weight": Stored("norm.weight")},
    is_absent=_is_absent,
    check=_check,
    resizes_heads=False,
    centered_norms=False,
)
