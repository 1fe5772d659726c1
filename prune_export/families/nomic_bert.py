"""NomicBERT (Nussbaum et al. 2024, "Nomic Embed"): rotary scores, gated blocks, biases in norms and task heads alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from exporters.errors import UnsupportedError
from prune_export.families.common import check_same
from prune_export.families.gte import GTE
from prune_export.families.names import Dimensions, masked_language_head
from prune_export.families.rotary_layers import QUERY_KEY_VALUE, rotary_dimensions, rotary_values
from prune_export.families.table import linear
from prune_export.files.reading import clipped

# Published configurations have the names of the code that came with them, which transformers passes over.
_OLD_NAMES = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "layer_norm_epsilon": "layer_norm_eps",
}
# Keys of that code with which its network is another one than transformers', and what they have to be.
_ONLY = {
    "prenorm": (False,),
    "parallel_block": (False,),
    "use_rms_norm": (False, None),
    "qkv_proj_bias": (False,),
    "mlp_fc1_bias": (False,),
    "mlp_fc2_bias": (False,),
    "rotary_emb_fraction": (1, 1.0),
    "rotary_emb_interleaved": (False,),
    "rotary_emb_scale_base": (None,),
    "rotary_scaling_factor": (None,),
    "activation_function": ("swiglu",),
    "num_experts": (None, 0, 1),
    "moe_every_n_layers": (None, 0),
}


def _dimensions(config: Any) -> Dimensions:
    for key, expected in _ONLY.items():
        value = getattr(config, key, expected[0])
        if value not in expected:
            raise UnsupportedError(
                f"config.json: {key} is {clipped(str(value))}, which transformers passes over: the network would be another "
                f"one; expected {expected[0]}"
            )
    for old, new in _OLD_NAMES.items():
        check_same(old, getattr(config, old, None), new, getattr(config, new))
    return rotary_dimensions(config)


def _scores_values(config: Any, index: int) -> dict[str, Any]:
    check_same(
        "rotary_emb_base", getattr(config, "rotary_emb_base", None), "rope_theta", config.rope_parameters["rope_theta"]
    )
    return rotary_values(config, index)


# GTE's network without biases beside those of norms and task heads.
NOMIC_BERT = replace(
    GTE,
    model_type="nomic_bert",
    architecture="NomicBert",
    prefix="nomic_bert",
    dimensions=_dimensions,
    heads={
        **GTE.heads,
        "text-classification": {**linear("dense", "nomic_bert.pooler.dense"), **linear("output", "classifier")},
        "fill-mask": masked_language_head(
            dense="cls.predictions.transform.dense",
            norm="cls.predictions.transform.layer_norm",
            decoder="cls.predictions.decoder",
            bias="cls.predictions.bias",
        ),
    },
    activations={"text-classification": "tanh", "fill-mask": None},
    layers={path: row for path, row in GTE.layers.items() if "norm" in path or not row.name.endswith(".bias")},
    scores_values=_scores_values,
    file_modules={
        "encoder.layers": ("layers",),
        "emb_ln": ("embeddings.LayerNorm",),
        "attn.Wqkv": QUERY_KEY_VALUE,
        "attn.out_proj": ("self_attn.o_proj",),
        "norm1": ("post_attention_layernorm",),
        "norm2": ("post_mlp_layernorm",),
        "mlp.fc11": ("mlp.up_proj",),
        "mlp.fc12": ("mlp.gate_proj",),
        "mlp.fc2": ("mlp.down_proj",),
    },
    optional_types=False,
    depth_keys=("num_hidden_layers", "n_layer"),
)
