"""A plan put into full-size weights as zeros: what every pruning method ends in, and what `--plan` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from exporters.encoder import Attention, Encoder
from prune_export.facts.plan import Indices, LayerPlan, Plan
from prune_export.families.names import Family


def masked_tensors(
    tensors: Mapping[str, Tensor], family: Family, config: Any, encoder: Encoder, plan: Plan
) -> dict[str, Tensor]:
    """The tensors that `plan` changes, under Hugging Face's names, with zeros where something goes.

    A head that goes has zero query, key and value rows and biases, and zero columns in the output projection; a head
    dimension likewise; a column has a zero row and bias in `up` and a zero column in `down`. `encoder` describes
    `tensors` (it says which heads the attention weights hold); `plan` fits it.
    """
    names, columns_in_all = family.layers, range(family.dimensions(config).intermediate)
    changed: dict[str, Tensor] = {}

    def zero(path: str, gone: list[int], *, outputs: bool) -> None:
        """Zeroes output features (rows and biases) or input features (columns) of the linear map at `path`."""
        for name in (f"{path}.weight", f"{path}.bias") if outputs else (f"{path}.weight",):
            if name not in changed:
                changed[name] = tensors[name].clone()
            changed[name][gone if outputs else (slice(None), gone)] = 0

    for index, (layer, wanted) in enumerate(zip(encoder.layers, plan.layers, strict=True)):
        path = f"{family.prefix}.{family.layer(config, index)}"
        if isinstance(layer.attention, Attention):
            query_key = _gone_rows(layer.attention, wanted, wanted.query_key_dimensions)
            value = _gone_rows(layer.attention, wanted, wanted.value_dimensions)
            for name, rows in ((names.query, query_key), (names.key, query_key), (names.value, value)):
                zero(f"{path}.{name}", rows, outputs=True)
            zero(f"{path}.{names.attention_output}", value, outputs=False)
        columns = sorted(set(columns_in_all) - set(wanted.columns))
        zero(f"{path}.{names.up}", columns, outputs=True)
        zero(f"{path}.{names.down}", columns, outputs=False)
    return changed


def _gone_rows(block: Attention, wanted: LayerPlan, dimensions: Mapping[int, Indices]) -> list[int]:
    """Rows of a joined projection that go; before surgery, query/key and value sizes are the same."""
    size = block.value_size
    rows: list[int] = []
    for position, head in enumerate(block.heads):
        kept = dimensions.get(head, tuple(range(size))) if head in wanted.heads else ()
        rows.extend(position * size + dimension for dimension in sorted(set(range(size)) - set(kept)))
    return rows
