"""What is done along the axes of a description, and what a family's table stores, against NumPy."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import pytest
import torch

from exporters.axes import (
    Axes,
    Renamed,
    assemble,
    axes_of,
    concatenate,
    fill_missing,
    leaves,
    mask,
    named_tensors,
    pad,
    scatter,
    sizes_of,
    take,
    to_device,
    wrong_shapes,
    zeros,
)
from exporters.encoder import (
    Attention,
    AttentionScores,
    DotProduct,
    Embeddings,
    Encoder,
    FeedForward,
    Gating,
    Linear,
    TaskHead,
    Ungated,
    tensors,
)
from exporters.errors import SurgeryError, UnsupportedError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from prune_export.checkpoint.load import load_checkpoint
from prune_export.families.table import Stored, linear, read, write
from prune_export.slim_model.model import slim_module
from prune_export.surgeon import operate
from prune_export.surgeon.biases import drop_key_bias
from prune_export.surgeon.columns import remove_columns
from prune_export.surgeon.head_dimensions import remove_query_key_dimensions
from prune_export.surgeon.zeros import plan_from_zeros
from tests.models import FAMILY_CASES, make_model, save

SIZES = {"head": 3, "query_key": 4, "value": 5, "hidden": 6, "written": 8, "intermediate": 7}
DIMENSION = {"query_weight": 0, "query_bias": 0, "value_weight": 0, "output_weight": 1}  # of the heads


def random_part(kind: Any, **values: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    shapes = {path: axes.shape(SIZES) for path, axes in axes_of(kind).items()}
    tensors = {path: torch.randn(*shape, generator=generator) for path, shape in shapes.items()}
    return assemble(kind, tensors, **values)


@pytest.fixture
def block() -> Attention:
    return random_part(Attention, heads=(2, 5, 9), scores=DotProduct(0.5))  # type: ignore[no-any-return]


@pytest.fixture
def feed_forward() -> FeedForward:
    return random_part(FeedForward, gating=Ungated("gelu"))  # type: ignore[no-any-return]


def test_every_tensor_of_a_description_says_its_axes() -> None:
    """A field that a new family adds is named, zeroed and taken by itself; without axes it would be forgotten."""
    for kind in (Attention, FeedForward, Embeddings, *get_args(TaskHead)):
        for path, axes in axes_of(kind).items():
            assert 0 < axes.rows <= len(axes.names), path
    assert axes_of(Attention)["output_weight"] == Axes("written", "head", "value")
    assert axes_of(FeedForward)["up.weight"] == Axes("intermediate", "hidden")
    assert axes_of(FeedForward)["down.bias"] == Axes("written")
    assert "heads" not in axes_of(Attention)


def test_take_spread_and_mask_are_indexing(block: Attention, feed_forward: FeedForward) -> None:
    fewer = take(block, "head", [2, 0])
    assert fewer.heads == (9, 2)
    wider = scatter(block, "head", [1, 4, 0], 6)
    assert wider.heads == tuple(range(6))
    keep = torch.tensor([[True, False, True, True, False]] * 2 + [[False] * 5])
    masked = mask(block, ("head", "value"), keep)
    for name, dimension in DIMENSION.items():
        array = getattr(block, name).numpy()
        np.testing.assert_array_equal(getattr(fewer, name), np.take(array, [2, 0], axis=dimension))
        expected = np.zeros([6 if index == dimension else size for index, size in enumerate(array.shape)], np.float32)
        expected[(slice(None),) * dimension + ([1, 4, 0],)] = array
        np.testing.assert_array_equal(getattr(wider, name), expected)
    np.testing.assert_array_equal(masked.value_weight, block.value_weight.numpy() * keep.numpy()[:, :, None])
    np.testing.assert_array_equal(masked.output_weight, block.output_weight.numpy() * keep.numpy()[None])
    assert masked.query_weight is block.query_weight
    assert fewer.output_bias is block.output_bias
    narrow = take(feed_forward, "intermediate", [6, 1])
    np.testing.assert_array_equal(narrow.down.weight, feed_forward.down.weight.numpy()[:, [6, 1]])
    np.testing.assert_array_equal(narrow.up.bias, feed_forward.up.bias.numpy()[[6, 1]])


def test_mask_takes_axes_in_any_order(block: Attention) -> None:
    keep = torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) > 0.5
    masked = mask(block, ("value", "head"), keep)
    np.testing.assert_array_equal(masked.output_weight, block.output_weight.numpy() * keep.numpy().T[None])


def test_padding_appends_zeros_and_parts_join(block: Attention) -> None:
    padded = pad(block, "value", 8)
    assert sizes_of(padded) == {**{k: v for k, v in SIZES.items() if k != "intermediate"}, "value": 8}
    np.testing.assert_array_equal(padded.output_weight[..., :5], block.output_weight)
    assert not padded.value_weight[:, 5:].any()
    assert pad(block, "value", 5) is block
    apart = [take(block, "head", [index]) for index in range(3)]
    together = concatenate(apart, "head")
    assert together.heads == block.heads
    for (path, left, _), (_, right, _) in zip(leaves(together), leaves(block), strict=True):
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, path


def test_a_new_class_says_its_axes() -> None:
    """As one that a family adds: a tensor, one that may lack, and a part that may lack."""
    fields = [
        ("weight", Annotated[torch.Tensor, Axes("a", "b")]),
        ("bias", Annotated[torch.Tensor | None, Axes("a")]),
        ("inner", Annotated[Linear | None, Renamed(outputs="a", inputs="c")]),
        ("name", str),
    ]
    kind = make_dataclass("Part", fields, frozen=True)
    shapes = {path: axes.shape({"a": 2, "b": 3, "c": 4}) for path, axes in axes_of(kind).items()}
    assert shapes == {"weight": (2, 3), "bias": (2,), "inner.weight": (2, 4), "inner.bias": (2,)}
    tensors_by_path = {path: torch.ones(shape) for path, shape in shapes.items()}
    whole = assemble(kind, tensors_by_path, name="whole")
    assert named_tensors(take(whole, "a", [1]))["inner.weight"].shape == (1, 4)
    bare = assemble(kind, {"weight": tensors_by_path["weight"]}, name="bare")
    assert (bare.bias, bare.inner, bare.name) == (None, None, "bare")
    assert named_tensors(pad(bare, "c", 9)).keys() == {"weight"}
    with pytest.raises(KeyError, match=r"inner\.weight"):
        assemble(kind, {path: value for path, value in tensors_by_path.items() if path != "inner.weight"}, name="")


def test_a_part_goes_to_a_device(block: Attention) -> None:
    moved = to_device(replace(block, key_bias=None), "meta")
    assert {value.device.type for value in named_tensors(moved).values()} == {"meta"}
    assert (moved.heads, moved.key_bias, moved.scores) == (block.heads, None, block.scores)


def test_a_whole_encoder_is_not_mapped(tmp_path: Path) -> None:
    """Its layers may be one object, and a decoder the embeddings: `map_layers` keeps that."""
    encoder = load_checkpoint(save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path)).encoder
    with pytest.raises(AssertionError, match="layers"):
        take(encoder, "head", [0])
    assert len(named_tensors(encoder)) == len(tensors(encoder)) > 3 * 16


def test_missing_tensors_are_zeros_and_wrong_shapes_are_named(block: Attention) -> None:
    folded = replace(block, key_bias=None, value_bias=None)
    assert fill_missing(folded, SIZES).value_bias.shape == (3, 5)
    assert not zeros(FeedForward, SIZES, gating=Ungated("gelu")).down.weight.any()
    assert list(wrong_shapes(block, {"hidden": 6})) == []
    damaged = replace(block, key_weight=block.key_weight[:, :3])
    assert list(wrong_shapes(damaged, {})) == [("key_weight", (3, 3, 6), (3, 4, 6))]
    with pytest.raises(KeyError, match=r"down\.weight"):
        assemble(FeedForward, {"up.weight": torch.zeros(7, 6)}, gating=Ungated("gelu"))


def test_descriptions_are_put_together_again(tmp_path: Path) -> None:
    """Every part of every family out of its own tensors, by their paths."""
    for case in FAMILY_CASES:
        encoder = load_checkpoint(save(make_model(case, "fill-mask"), tmp_path / case.model_type)).encoder
        for part in (encoder.embeddings, encoder.layers[0].attention, encoder.layers[0].feed_forward, encoder.head):
            values = {
                name: getattr(part, name, None)
                for name in ("heads", "scores", "gating", "positions", "pad_token_id", "activation")
            }
            again = assemble(type(part), named_tensors(part), epsilon=1e-12, **values)
            assert named_tensors(again).keys() == named_tensors(part).keys()
            assert all(value is named_tensors(part)[path] for path, value in named_tensors(again).items())


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_head", [False, True])
def test_fused_projections_are_read_and_written(per_head: bool) -> None:
    """Query, key and value as one matrix: one after the other, or head by head (DeBERTa)."""
    table: dict[str, Stored] = {}
    for part, name in enumerate(("key", "query", "value")):
        table |= linear(f"{name}_", "fused", part=part, parts=3, per_head=per_head)
    sizes = {**SIZES, "value": 4}
    rng = np.random.default_rng(0)
    stored = {"fused.weight": rng.normal(size=(36, 6)), "fused.bias": rng.normal(size=36)}

    def source(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        assert shape == stored[name].shape
        return torch.from_numpy(stored[name])

    tensors = read(table, axes_of(Attention), sizes, source)
    layout = (3, 3, 4)  # parts, heads, size; with per_head: heads, parts, size
    for part, name in enumerate(("key", "query", "value")):
        weight = stored["fused.weight"].reshape(*layout, 6)
        bias = stored["fused.bias"].reshape(layout)
        at = (slice(None), part) if per_head else (part,)
        np.testing.assert_array_equal(tensors[f"{name}_weight"], weight[at])
        np.testing.assert_array_equal(tensors[f"{name}_bias"], bias[at])
    written = write(table, {path: (tensor, axes_of(Attention)[path]) for path, tensor in tensors.items()})
    assert written.keys() == stored.keys()
    for name, value in written.items():
        np.testing.assert_array_equal(value, stored[name])


def test_a_transposed_matrix_is_read_and_written() -> None:
    table = linear("output_", "out", transposed=True)
    weight = np.random.default_rng(0).normal(size=(15, 8))
    stored = {"out.weight": weight, "out.bias": np.arange(8.0)}
    tensors = read(table, axes_of(Attention), SIZES, lambda name, shape: torch.from_numpy(stored[name]).reshape(shape))
    np.testing.assert_array_equal(tensors["output_weight"], weight.T.reshape(8, 3, 5))
    written = write(table, {path: (tensor, axes_of(Attention)[path]) for path, tensor in tensors.items()})
    np.testing.assert_array_equal(written["out.weight"], weight)


# --- kinds that nothing was proved for -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MadeUpScores(AttentionScores):
    """Scores with terms of their own."""


def with_made_up_scores(encoder: Encoder) -> Encoder:
    layer = encoder.layers[0]
    assert isinstance(layer.attention, Attention)
    attention = replace(layer.attention, scores=MadeUpScores(layer.attention.scores.scale))
    weight = attention.query_weight.clone()
    weight[:, 3] = 0  # a dimension that dot products would lose
    return replace(encoder, layers=(replace(layer, attention=replace(attention, query_weight=weight)),))


def test_the_surgeon_leaves_scores_alone_that_its_rules_are_not_proved_for(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path))
    encoder = with_made_up_scores(checkpoint.encoder)
    plan = plan_from_zeros(encoder)
    assert plan.layers[0].query_key_dimensions == {}
    block = operate(encoder, plan).layers[0].attention
    assert isinstance(block, Attention)
    assert block.key_bias is not None  # only dot products ignore it
    assert block.value_bias is None  # softmax rows sum to 1 whatever the scores
    known = plan_from_zeros(replace(encoder, layers=(replace(encoder.layers[0], attention=_dot(encoder)),)))
    assert set(known.layers[0].query_key_dimensions) == {0, 1, 2, 3}
    for rule in (drop_key_bias, lambda made_up: remove_query_key_dimensions(made_up, {0: (0, 1)})):
        with pytest.raises(SurgeryError, match="is exact for ContentScores; found MadeUpScores"):
            rule(encoder.layers[0].attention)
    with pytest.raises(UnsupportedError, match=r"the ONNX writer knows .*; found MadeUpScores"):
        build(encoder, TARGETS["cpu"], PRECISIONS["fp32"])
    with pytest.raises(UnsupportedError, match="the slim PyTorch network knows"):
        slim_module(checkpoint, encoder)


@dataclass(frozen=True, slots=True)
class MadeUpGating(Gating):
    """Something between the maps of a block that no rule was proved for."""


def test_the_surgeon_leaves_columns_alone_that_its_rules_are_not_proved_for(tmp_path: Path) -> None:
    encoder = load_checkpoint(save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path)).encoder
    layer = encoder.layers[0]
    assert isinstance(layer.feed_forward, FeedForward)
    known = replace(layer.feed_forward, up=mask(layer.feed_forward.up, ("outputs",), torch.arange(20) != 5))
    made_up = replace(known, gating=MadeUpGating("gelu"))
    for block, columns in ((known, 19), (made_up, 20)):
        network = replace(encoder, layers=(replace(layer, feed_forward=block),))
        slim = operate(network, plan_from_zeros(network)).layers[0].feed_forward
        assert isinstance(slim, FeedForward)
        assert slim.columns == columns
    with pytest.raises(SurgeryError, match="remove_columns is exact for Ungated or Gated; found MadeUpGating"):
        remove_columns(made_up, (0, 1))


def _dot(encoder: Encoder) -> Attention:
    block = encoder.layers[0].attention
    assert isinstance(block, Attention)
    return replace(block, scores=DotProduct(block.scores.scale))
