"""What NomicBERT, GTE and Jina v3 have in common: rotary scores in every layer, norms after the blocks, no position rows.

Their files name tensors differently, and fuse query, key and value; transformers gives them the same names in memory
(`Family.file_modules`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prune_export.families.common import bert_like_dimensions
from prune_export.families.names import EMBEDDINGS, Dimensions
from prune_export.families.rotation import values_of_rotation
from prune_export.families.table import Table, linear

QUERY_KEY_VALUE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

NO_POSITION_ROWS: Table = {path: row for path, row in EMBEDDINGS.items() if path != "position"}

ATTENTION_AND_NORMS: Table = {
    **linear("attention.query_", "self_attn.q_proj"),
    **linear("attention.key_", "self_attn.k_proj"),
    **linear("attention.value_", "self_attn.v_proj"),
    **linear("attention.output_", "self_attn.o_proj"),
    **linear("attention_norm", "post_attention_layernorm"),
    **linear("feed_forward_norm", "post_mlp_layernorm"),
}


def rotary_dimensions(config: Any) -> Dimensions:
    """Returns the dimensions in a configuration with BERT's names, of a network without position rows."""
    return replace(bert_like_dimensions(config), has_position_rows=False, keeps_head_size=True)


def rotary_values(config: Any, _index: int) -> dict[str, Any]:
    """Returns the frequencies of a layer's scores: those of all layers are alike, and no layer has a window.

    Raises:
        UnsupportedError: heads have no pairs, or frequencies are scaled.
    """
    return values_of_rotation(config, rotary_dimensions(config))
