"""Jina Embeddings v3 (Sturua et al. 2024), without adapters: XLM-RoBERTa with rotary scores instead of position rows."""

from __future__ import annotations

from dataclasses import replace

from exporters.encoder import Rotary
from prune_export.families.common import own_layer
from prune_export.families.rotary_layers import (
    ATTENTION_AND_NORMS,
    NO_POSITION_ROWS,
    QUERY_KEY_VALUE,
    rotary_dimensions,
    rotary_values,
)
from prune_export.families.table import linear
from prune_export.families.xlm_roberta import XLM_ROBERTA

JINA_EMBEDDINGS_V3 = replace(
    XLM_ROBERTA,
    model_type="jina_embeddings_v3",
    architecture="JinaEmbeddingsV3",
    dimensions=rotary_dimensions,
    layer=own_layer("layers"),
    embeddings=NO_POSITION_ROWS,
    layers={
        **ATTENTION_AND_NORMS,
        **linear("feed_forward.up", "mlp.fc1"),
        **linear("feed_forward.down", "mlp.fc2"),
    },
    positions="absolute",
    scores_kind=Rotary,
    scores_values=rotary_values,
    file_modules={
        "encoder.layers": ("layers",),
        "emb_ln": ("embeddings.LayerNorm",),
        "mixer.Wqkv": QUERY_KEY_VALUE,
        "mixer.out_proj": ("self_attn.o_proj",),
        "norm1": ("post_attention_layernorm",),
        "norm2": ("post_mlp_layernorm",),
    },
    resizes_heads=False,
)
