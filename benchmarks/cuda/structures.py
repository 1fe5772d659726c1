"""Networks to measure: heads and feed-forward columns of each layer before and after pruning.

The counts are those of published nn_pruning networks (Lagunas et al. 2021; result files of huggingface/nn_pruning,
Apache-2.0). Which heads and columns stay does not change what a network costs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Structure:
    """A BERT for question answering; `kept_heads` and `kept_columns` are counts, layer by layer."""

    name: str
    hidden: int
    heads: int
    columns: int
    kept_heads: tuple[int, ...]
    kept_columns: tuple[int, ...]
    vocabulary: int = 30522
    positions: int = 512


README_07 = Structure(
    "squadv1-readme-07",
    hidden=768,
    heads=12,
    columns=3072,
    kept_heads=(4, 4, 6, 7, 7, 5, 6, 7, 5, 5, 5, 3),
    kept_columns=(552, 717, 795, 789, 833, 792, 620, 466, 283, 112, 96, 238),
)
README_10 = Structure(
    "squadv1-readme-10",
    hidden=768,
    heads=12,
    columns=3072,
    kept_heads=(7, 3, 7, 4, 3, 3, 3, 2, 4, 1, 1, 1),
    kept_columns=(138, 168, 279, 298, 323, 309, 252, 203, 129, 60, 72, 109),
)
BERT_LARGE = Structure(
    "bert-large-x2.15",
    hidden=1024,
    heads=16,
    columns=4096,
    kept_heads=(9, 9, 4, 6, 5, 5, 4, 8, 9, 8, 8, 10, 11, 10, 14, 14, 16, 13, 14, 15, 13, 7, 8, 9),
    kept_columns=(
        *(632, 698, 867, 990, 994, 1037, 1129, 1142, 1137, 1203, 972, 1078),
        *(971, 1168, 948, 915, 969, 889, 615, 379, 248, 127, 73, 139),
    ),
)  # fmt: skip

# In the order of their importance.
STRUCTURES = {structure.name: structure for structure in (README_07, BERT_LARGE, README_10)}


def tiny(structure: Structure) -> Structure:
    """Two layers of the same kind, for a walk through the measurement without a GPU."""
    return Structure(
        structure.name,
        hidden=64,
        heads=4,
        columns=96,
        kept_heads=(3, 1),
        kept_columns=(41, 8),
        vocabulary=200,
        positions=64,
    )
