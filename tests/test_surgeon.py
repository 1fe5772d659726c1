"""The surgeon's exact rules, one row each: what it does, what it refuses, and that the answers stay the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from exporters.encoder import Attention, ConstantBlock, FeedForward, Layer, Ungated
from exporters.errors import PlanError, SurgeryError
from prune_export.facts.plan import LayerPlan
from prune_export.slim_model.model import slim_module
from prune_export.surgeon import operate
from prune_export.surgeon.columns import remove_columns
from prune_export.surgeon.zeros import plan_from_zeros
from prune_export.verbs.inspect import inspect
from tests.comparing import largest_difference, onnx_outputs, torch_outputs
from tests.models import FAMILY_CASES, example_inputs, linear, make_model, save

BERT = FAMILY_CASES[0]
SIZE = 6  # of a head: 24 hidden, 4 heads
ROWS = slice(SIZE, 2 * SIZE)  # head 1


def zero(*tensors: Tensor) -> None:
    for tensor in tensors:
        tensor.data.zero_()


class Parts:
    """The linear maps of layer 1 of a BERT."""

    def __init__(self, model: object) -> None:
        for name in ("query", "key", "value", "attention_output", "up", "down"):
            setattr(self, name, linear(model, BERT, 1, name))  # type: ignore[arg-type]

    query: torch.nn.Linear
    key: torch.nn.Linear
    value: torch.nn.Linear
    attention_output: torch.nn.Linear
    up: torch.nn.Linear
    down: torch.nn.Linear


def output_columns_of_a_head(parts: Parts) -> None:
    zero(parts.attention_output.weight[:, ROWS])


def value_rows_of_a_head_bias_kept(parts: Parts) -> None:
    zero(parts.value.weight[ROWS])


def half_by_value_half_by_output(parts: Parts) -> None:
    zero(parts.value.weight[SIZE : SIZE + 3], parts.attention_output.weight[:, SIZE + 3 : 2 * SIZE])


def key_rows_bias_kept(parts: Parts) -> None:
    for head in range(4):
        zero(parts.key.weight[head * SIZE : head * SIZE + 2])


def query_rows_and_biases(parts: Parts) -> None:
    for head in range(4):
        zero(parts.query.weight[head * SIZE : head * SIZE + 2], parts.query.bias[head * SIZE : head * SIZE + 2])


def query_rows_bias_kept(parts: Parts) -> None:
    for head in range(4):
        zero(parts.query.weight[head * SIZE : head * SIZE + 3])


def all_query_rows_and_biases_of_a_head(parts: Parts) -> None:
    zero(parts.query.weight[ROWS], parts.query.bias[ROWS])


def all_key_rows_of_every_head(parts: Parts) -> None:
    zero(parts.key.weight)


def all_query_rows_of_every_head_bias_kept(parts: Parts) -> None:
    zero(parts.query.weight)


def value_rows_bias_kept(parts: Parts) -> None:
    for head in range(4):
        zero(parts.value.weight[head * SIZE + 1])


def output_columns(parts: Parts) -> None:
    for head in range(4):
        zero(parts.attention_output.weight[:, head * SIZE + 4 : head * SIZE + 6])


def down_columns(parts: Parts) -> None:
    zero(parts.down.weight[:, 3:9])


def up_rows_bias_kept(parts: Parts) -> None:
    zero(parts.up.weight[3:9])


def every_head(parts: Parts) -> None:
    zero(parts.value.weight)


def every_column(parts: Parts) -> None:
    zero(parts.up.weight)


# rule, heads, query/key size, value size, columns of the layer afterwards
RULES: list[tuple[Callable[[Parts], None], int, int, int, int]] = [
    (output_columns_of_a_head, 3, 6, 6, 20),
    (value_rows_of_a_head_bias_kept, 3, 6, 6, 20),
    (half_by_value_half_by_output, 3, 6, 6, 20),
    (key_rows_bias_kept, 4, 4, 6, 20),
    (query_rows_and_biases, 4, 4, 6, 20),
    (query_rows_bias_kept, 4, 4, 6, 20),  # three dimensions merge into one
    (all_query_rows_and_biases_of_a_head, 4, 6, 6, 20),  # it attends uniformly: it stays
    (all_key_rows_of_every_head, 4, 1, 6, 20),
    (all_query_rows_of_every_head_bias_kept, 4, 1, 6, 20),
    (value_rows_bias_kept, 4, 6, 5, 20),
    (output_columns, 4, 6, 4, 20),
    (down_columns, 4, 6, 6, 14),
    (up_rows_bias_kept, 4, 6, 6, 14),
    (every_head, 0, 0, 0, 20),
    (every_column, 4, 6, 6, 0),
]


@pytest.mark.parametrize(("rule", "heads", "query_key_size", "value_size", "columns"), RULES)
def test_rule(
    rule: Callable[[Parts], None], heads: int, query_key_size: int, value_size: int, columns: int, tmp_path: Path
) -> None:
    model = make_model(BERT, "question-answering")
    rule(Parts(model))
    found = inspect(save(model, tmp_path))
    shape = found.summary.layers[1].after
    assert (shape.heads, shape.query_key_size, shape.value_size, shape.columns) == (
        heads,
        query_key_size,
        value_size,
        columns,
    )
    assert [layer.before == layer.after for layer in found.summary.layers] == [
        True,
        shape == found.summary.layers[1].before,
        True,
    ]
    inputs = example_inputs(model)
    reference = torch_outputs(model, found.slim, inputs)
    slim = slim_module(found.checkpoint, found.slim)
    assert largest_difference(reference, torch_outputs(slim, found.slim, inputs)) < 1e-5
    for target in ("portable", "cpu", "cuda"):
        assert largest_difference(reference, onnx_outputs(found.slim, inputs, tmp_path, target=target)) < 1e-5


def one_layer(model: object, folder: Path) -> Layer:
    return inspect(save(model, folder)).checkpoint.encoder.layers[1]


def test_every_bias_is_folded(tmp_path: Path) -> None:
    found = inspect(save(make_model(BERT, "question-answering"), tmp_path))
    for before, after in zip(found.checkpoint.encoder.layers, found.slim.layers, strict=True):
        assert isinstance(before.attention, Attention)
        assert isinstance(after.attention, Attention)
        assert before.attention.key_bias is not None
        assert after.attention.key_bias is None
        assert after.attention.value_bias is None
        assert not torch.equal(before.attention.output_bias, after.attention.output_bias)


def test_emptied_blocks_are_constants(tmp_path: Path) -> None:
    model = make_model(BERT, "question-answering")
    parts = Parts(model)
    every_head(parts)
    every_column(parts)
    layer = inspect(save(model, tmp_path)).slim.layers[1]
    assert isinstance(layer.attention, ConstantBlock)
    assert isinstance(layer.feed_forward, ConstantBlock)
    value_bias, output = parts.value.bias, parts.attention_output
    assert torch.allclose(layer.attention.bias, output.bias + output.weight @ value_bias, atol=1e-5)
    constant = parts.down.bias + parts.down.weight @ torch.nn.functional.gelu(parts.up.bias)
    assert torch.allclose(layer.feed_forward.bias, constant, atol=1e-5)


def test_a_whole_network_of_constants_answers_alike(tmp_path: Path) -> None:
    model = make_model(BERT, "question-answering")
    for index in range(3):
        zero(linear(model, BERT, index, "value").weight, linear(model, BERT, index, "down").weight)
    found = inspect(save(model, tmp_path))
    assert all(isinstance(layer.attention, ConstantBlock) for layer in found.slim.layers)
    inputs = example_inputs(model)
    reference = torch_outputs(model, found.slim, inputs)
    for target in ("portable", "cpu", "cuda"):
        assert largest_difference(reference, onnx_outputs(found.slim, inputs, tmp_path, target=target)) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": (0, 2, 3)}, "layer 1: head 1 contributes"),
        ({"columns": tuple(range(4, 20))}, "layer 1: column 0 .* depends on the input"),
        ({"query_key_dimensions": {2: (0, 1)}}, "layer 1: head 2: query/key dimension 2 has both"),
        ({"value_dimensions": {3: (0, 1, 2, 3, 4)}}, "layer 1: head 3: value dimension 5 contributes"),
    ],
)
def test_the_surgeon_refuses_what_is_not_exact(change: dict[str, object], message: str, tmp_path: Path) -> None:
    encoder = inspect(save(make_model(BERT, "question-answering"), tmp_path)).checkpoint.encoder
    plan = plan_from_zeros(encoder)
    layers = list(plan.layers)
    layers[1] = replace(layers[1], **change)  # type: ignore[arg-type]
    with pytest.raises(SurgeryError, match=message):
        operate(encoder, replace(plan, layers=tuple(layers)))


def test_the_surgeon_refuses_a_plan_of_another_network(tmp_path: Path) -> None:
    encoder = inspect(save(make_model(BERT, "question-answering"), tmp_path)).checkpoint.encoder
    plan = plan_from_zeros(encoder)
    with pytest.raises(PlanError, match="has 2 layers, the model has 3"):
        operate(encoder, replace(plan, layers=plan.layers[:2]))
    wrong = LayerPlan(heads=(0, 9), columns=(0,), query_key_dimensions={}, value_dimensions={})
    with pytest.raises(PlanError, match=r"layer 0: the plan keeps head 9, but the model's heads there are 0-3"):
        operate(encoder, replace(plan, layers=(wrong, *plan.layers[1:])))


def test_the_surgeon_leaves_its_input_alone(tmp_path: Path) -> None:
    model = make_model(BERT, "question-answering")
    value_rows_of_a_head_bias_kept(Parts(model))
    encoder = inspect(save(model, tmp_path)).checkpoint.encoder
    layer = encoder.layers[1]
    assert isinstance(layer.attention, Attention)
    before = layer.attention.output_bias.clone()
    operate(encoder, plan_from_zeros(encoder))
    assert torch.equal(layer.attention.output_bias, before)
    assert len(layer.attention.heads) == 4


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu", "tanh"])
def test_folded_columns_use_the_blocks_own_activation(activation: str, tmp_path: Path) -> None:
    layer = one_layer(make_model(BERT, "question-answering"), tmp_path)
    assert isinstance(layer.feed_forward, FeedForward)
    block = replace(layer.feed_forward, gating=Ungated(activation))
    weight = block.up.weight.clone()
    weight[5] = 0
    block = replace(block, up=replace(block.up, weight=weight))
    slim = remove_columns(block, tuple(index for index in range(20) if index != 5))
    from exporters.encoder import ACTIVATIONS

    x = torch.randn(7, 24, generator=torch.Generator().manual_seed(0))
    function = ACTIVATIONS[activation]
    expected = function(x @ block.up.weight.T + block.up.bias) @ block.down.weight.T + block.down.bias
    found = function(x @ slim.up.weight.T + slim.up.bias) @ slim.down.weight.T + slim.down.bias
    assert slim.columns == 19
    assert torch.allclose(expected, found, atol=1e-5)
