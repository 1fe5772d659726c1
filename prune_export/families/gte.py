"""GTE (Zhang et al. 2024, "mGTE"): rotary scores and gated blocks; queries, keys, values and outputs have biases."""

from __future__ import annotations

from exporters.encoder import Rotary
from prune_export.families.common import own_layer
from prune_export.families.names import TOKEN_HEAD, Family, masked_language_head
from prune_export.families.rotary_layers import (
    ATTENTION_AND_NORMS,
    NO_POSITION_ROWS,
    QUERY_KEY_VALUE,
    rotary_dimensions,
    rotary_values,
)
from prune_export.families.table import Stored, linear

GTE = Family(
    model_type="gte",
    architecture="Gte",
    prefix="gte",
    dimensions=rotary_dimensions,
    layer=own_layer("layers"),
    heads={
        "token-classification": TOKEN_HEAD,
        "text-classification": {**linear("dense", "gte.pooler.dense"), **linear("output", "classifier")},
        "feature-extraction": {},
        "fill-mask": masked_language_head(
            "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.decoder.bias"
        ),
    },
    activations={"text-classification": "tanh", "fill-mask": "gelu"},
    embeddings=NO_POSITION_ROWS,
    layers={
        **ATTENTION_AND_NORMS,
        "feed_forward.gating.gate.weight": Stored("mlp.gate_proj.weight"),
        "feed_forward.up.weight": Stored("mlp.up_proj.weight"),
        **linear("feed_forward.down", "mlp.down_proj"),
    },
    scores_kind=Rotary,
    scores_values=rotary_values,
    file_modules={
        "new": ("gte",),
        "encoder.layer": ("layers",),
        "attention.qkv_proj": QUERY_KEY_VALUE,
        "attention.o_proj": ("self_attn.o_proj",),
        "attn_ln": ("post_attention_layernorm",),
        "mlp_ln": ("post_mlp_layernorm",),
        "mlp.up_gate_proj": ("mlp.up_proj", "mlp.gate_proj"),
        "lm_head.norm": ("lm_head.layer_norm",),
    },
    resizes_heads=False,
    optional_types=True,
)
