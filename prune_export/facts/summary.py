"""The sizes of a network before and after surgery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exporters.cost import LayerShape


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One layer before and after; `kept_heads` are original indices."""

    before: LayerShape
    after: LayerShape
    kept_heads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """A network before and after surgery.

    "Before" is the unpruned network that config.json describes; for a student of fewer layers it is the original network,
    with `layers_before` layers. `widths` are those of the residual stream before the first layer and after each attention
    and feed-forward norm; they are all `width_before` unless it is sliced. FLOPs are those of the encoder layers for one
    token, 2 for a multiply-add, by sequence length. Sizes are in bytes; `bytes_after` is None until a model is written.
    """

    layers: tuple[LayerSummary, ...]
    parameters_before: int
    parameters_after: int
    flops_before: dict[int, int]
    flops_after: dict[int, int]
    bytes_before: int
    layers_before: int
    width_before: int
    widths: tuple[int, ...]
    bytes_after: int | None = None

    @property
    def is_sliced(self) -> bool:
        """Says whether the residual stream is sliced."""
        return any(layer.after.widths is not None for layer in self.layers)

    @property
    def is_dense(self) -> bool:
        """Says whether nothing is pruned."""
        return len(self.layers) == self.layers_before and all(layer.before == layer.after for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        return {
            "layers": [
                {
                    "heads": {"before": layer.before.heads, "after": layer.after.heads, "kept": list(layer.kept_heads)},
                    "query_key_size": {"before": layer.before.query_key_size, "after": layer.after.query_key_size},
                    "value_size": {"before": layer.before.value_size, "after": layer.after.value_size},
                    "columns": {"before": layer.before.columns, "after": layer.after.columns},
                }
                for layer in self.layers
            ],
            "layers_before": self.layers_before,
            "widths": {"before": self.width_before, "after": list(self.widths)},
            "parameters": {"before": self.parameters_before, "after": self.parameters_after},
            "flops_per_token": {
                str(length): {"before": self.flops_before[length], "after": self.flops_after[length]}
                for length in self.flops_before
            },
            "bytes": {"before": self.bytes_before, "after": self.bytes_after},
        }
