"""What was there and what stays, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exporters.cost import LayerShape, count_parameters, flops_per_token, layer_shape
from exporters.encoder import Encoder, tensors
from prune_export.checkpoint.load import Checkpoint
from prune_export.plan import LayerPlan, Plan

# FLOPs per token grow with the sequence (attention's products), so they are given for a short and a long one.
LENGTHS = (128, 384)


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One layer before and after; `kept_heads` are original indices."""

    before: LayerShape
    after: LayerShape
    kept_heads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """A network before and after surgery.

    "Before" is the unpruned network that config.json describes, or the one that a student of fewer layers began as: then
    it has `layers_before` layers. FLOPs are those of the encoder layers for one token,
    2 for a multiply-add, by sequence length. Sizes are in bytes; `bytes_after` is None until a model is written.
    """

    layers: tuple[LayerSummary, ...]
    parameters_before: int
    parameters_after: int
    flops_before: dict[int, int]
    flops_after: dict[int, int]
    bytes_before: int
    layers_before: int
    bytes_after: int | None = None

    @property
    def is_dense(self) -> bool:
        """Whether nothing is pruned."""
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
            "parameters": {"before": self.parameters_before, "after": self.parameters_after},
            "flops_per_token": {
                str(length): {"before": self.flops_before[length], "after": self.flops_after[length]}
                for length in self.flops_before
            },
            "bytes": {"before": self.bytes_before, "after": self.bytes_after},
        }


def summarize(
    checkpoint: Checkpoint,
    slim: Encoder,
    plan: Plan,
    *,
    bytes_after: int | None = None,
    original: Checkpoint | None = None,
) -> Summary:
    """The summary of `checkpoint` after surgery by `plan`, which left `slim`; `original` (None: the same) is "before"."""
    original = checkpoint if original is None else original
    sizes = original.family.dimensions(original.config)
    dense = LayerShape(sizes.heads, sizes.head_size, sizes.head_size, sizes.intermediate)
    after = tuple(layer_shape(layer) for layer in slim.layers)
    before = (dense,) * sizes.layers
    lengths = sorted({min(length, slim.embeddings.max_length) for length in LENGTHS})
    outside = count_parameters(slim) - _layer_parameters(slim)
    distinct = len({id(layer) for layer in original.encoder.layers})
    return Summary(
        layers=tuple(
            LayerSummary(dense, shape, _kept(layer, shape)) for shape, layer in zip(after, plan.layers, strict=True)
        ),
        parameters_before=outside + distinct * _dense_layer_parameters(dense, sizes.hidden),
        parameters_after=count_parameters(slim),
        flops_before={n: flops_per_token(before, hidden_size=sizes.hidden, sequence_length=n) for n in lengths},
        flops_after={n: flops_per_token(after, hidden_size=sizes.hidden, sequence_length=n) for n in lengths},
        bytes_before=sum(path.stat().st_size for path in original.weights_files),
        bytes_after=bytes_after,
        layers_before=sizes.layers,
    )


def _kept(plan: LayerPlan, shape: LayerShape) -> tuple[int, ...]:
    return plan.heads if shape.heads else ()


def _layer_parameters(encoder: Encoder) -> int:
    return sum(tensor.numel() for tensor in tensors(encoder.layers))


def _dense_layer_parameters(shape: LayerShape, hidden: int) -> int:
    """Weights and biases of the six linear maps, and two norms."""
    width = shape.heads * shape.value_size
    attention = 4 * width * hidden + 3 * width + hidden
    feed_forward = 2 * shape.columns * hidden + shape.columns + hidden
    return attention + feed_forward + 4 * hidden
