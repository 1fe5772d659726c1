"""A network before and after surgery, summarized."""

from __future__ import annotations

import math

from exporters.axes import axes_of, leaves
from exporters.cost import LayerShape, count_parameters, flops_per_token, layer_parameters, layer_shape
from exporters.encoder import Attention, Encoder, FeatureHead, FeedForward, Gated, Norm
from prune_export.checkpoint.load import Checkpoint
from prune_export.facts.plan import LayerPlan, Plan
from prune_export.facts.summary import LayerSummary, Summary
from prune_export.families.names import NORMS

# FLOPs per token grow with the sequence (attention's products), so they are given for a short and a long one.
LENGTHS = (128, 384)


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
    dense = original.family.layer_shape(original.config)
    after = tuple(layer_shape(layer) for layer in slim.layers)
    before = (dense,) * sizes.layers
    lengths = sorted({min(length, slim.embeddings.max_length) for length in LENGTHS})
    outside = _dense_outside(original, slim) if slim.is_sliced else count_parameters(slim) - layer_parameters(slim)
    distinct = dict.fromkeys(original.family.layer_paths(original.config))
    return Summary(
        layers=tuple(
            LayerSummary(dense, shape, _kept(layer, shape)) for shape, layer in zip(after, plan.layers, strict=True)
        ),
        parameters_before=outside
        + _dense_scores(original)
        + sum(_dense_layer_parameters(original, path) for path in distinct),
        parameters_after=count_parameters(slim),
        flops_before={n: flops_per_token(before, hidden_size=sizes.hidden, sequence_length=n) for n in lengths},
        flops_after={n: flops_per_token(after, hidden_size=sizes.hidden, sequence_length=n) for n in lengths},
        bytes_before=sum(path.stat().st_size for path in original.weights_files),
        bytes_after=bytes_after,
        layers_before=sizes.layers,
        width_before=sizes.hidden,
        widths=slim.widths,
    )


def _kept(plan: LayerPlan, shape: LayerShape) -> tuple[int, ...]:
    return plan.heads if shape.heads else ()


def _dense_outside(original: Checkpoint, slim: Encoder) -> int:
    """Returns the parameters of embeddings and task head before the residual stream was sliced."""
    sizes, family, tables = original.family.dimensions(original.config), original.family, slim.embeddings
    rows = sum(len(table) for table in (tables.word, tables.position, tables.token_type) if table is not None)
    total = (rows + 2) * sizes.embedding
    if family.projects_always or sizes.embedding != sizes.hidden:
        total += (sizes.embedding + 1) * sizes.hidden
    for path, tensor, axes in leaves(slim.head):
        is_own = not isinstance(slim.head, FeatureHead) and not (
            path == "decoder.weight" and getattr(original.config, "tie_word_embeddings", True)
        )
        if is_own:
            whole = {name: sizes.sizes.get(name, 0) for name in axes.names} | {"label": tensor.shape[0]}
            total += math.prod(axes.shape(whole))
    return total


def _dense_scores(checkpoint: Checkpoint) -> int:
    """Returns the parameters of the scores of an unpruned network, beside its projections."""
    family, sizes = checkpoint.family, checkpoint.family.dimensions(checkpoint.config).sizes
    axes, distinct = axes_of(family.scores_kind), len(set(family.layer_paths(checkpoint.config)))
    common, own = (
        sum(math.prod(axes[path].shape(sizes)) for path in table) for table in (family.scores, family.own_scores)
    )
    return common + distinct * own


def _dense_layer_parameters(checkpoint: Checkpoint, path: str) -> int:
    """Returns the weights, biases and norms of the layer `path` at its full size."""
    family, config = checkpoint.family, checkpoint.config
    sizes, table = family.dimensions(config).sizes, family.present(family.layers, config, f"{path}.")
    whole = {**sizes, "features": sizes["hidden"]}
    kinds = {
        "attention": Attention,
        "feed_forward.gating": Gated,
        "feed_forward": FeedForward,
        **dict.fromkeys(NORMS, Norm),
    }
    return sum(
        math.prod(axes.shape(whole))
        for name, kind in kinds.items()
        for field, axes in axes_of(kind).items()
        if f"{name}.{field}" in table
    )
