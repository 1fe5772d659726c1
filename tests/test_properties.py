"""Random zeros in every place that the rules name, in small networks of every family: the answers stay the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exporters.cost import layer_shape
from prune_export.slim_model.model import slim_module
from prune_export.verbs.inspect import inspect
from prune_export.verbs.load_slim import load_slim
from tests.comparing import largest_difference, onnx_outputs, torch_outputs
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, linear, make_model, save

HEADS, SIZE, COLUMNS = 4, 6, 20

# What may happen to a head: which of its rows and columns become zero, and whether the biases go with them.
HEAD_ZEROS = st.sampled_from(
    [
        "nothing",
        "everything",
        "everything but biases",
        "value",
        "value and bias",
        "output",
        "query",
        "query and bias",
        "key",
    ]
)
# Fractions of single dimensions or columns that become zero.
FRACTION = st.sampled_from([0.0, 0.3, 0.9, 1.0])


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    """What becomes zero in one layer."""
    return {
        "heads": draw(st.lists(HEAD_ZEROS, min_size=HEADS, max_size=HEADS)),
        "fractions": {name: draw(FRACTION) for name in ("query", "key", "value", "attention_output", "up", "down")},
        "dimensions": draw(st.booleans()),
        "columns": draw(st.booleans()),
        "keep_biases": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**16)),
    }


def apply(model: Any, case: FamilyCase, index: int, zeros: dict[str, Any]) -> None:
    """Puts the zeros in."""
    maps = {
        name: linear(model, case, index, name) for name in ("query", "key", "value", "attention_output", "up", "down")
    }
    generator = torch.Generator().manual_seed(zeros["seed"])
    with torch.no_grad():
        for head, action in enumerate(zeros["heads"]):
            rows = slice(head * SIZE, (head + 1) * SIZE)
            whole = action.startswith("everything")
            for name in ("query", "key", "value"):
                if whole or action.startswith(name):
                    maps[name].weight[rows] = 0
                    if action == "everything" or action == f"{name} and bias":
                        maps[name].bias[rows] = 0
            if action in ("everything", "output"):
                maps["attention_output"].weight[:, rows] = 0
        for name, fraction in zeros["fractions"].items():
            if not zeros["columns" if name in ("up", "down") else "dimensions"]:
                continue
            inputs = name in ("attention_output", "down")
            count = maps[name].weight.shape[1 if inputs else 0]
            gone = torch.rand(count, generator=generator) < fraction
            if inputs:
                maps[name].weight[:, gone] = 0
            else:
                maps[name].weight[gone] = 0
                if not zeros["keep_biases"]:
                    maps[name].bias[gone] = 0


def fewest_heads(model: Any, case: FamilyCase, index: int) -> int:
    """Heads with at least one value dimension that both comes from the input and reaches the output, counted plainly."""
    value, output = linear(model, case, index, "value").weight, linear(model, case, index, "attention_output").weight
    count = 0
    for head in range(HEADS):
        dimensions = range(head * SIZE, (head + 1) * SIZE)
        count += any(bool(value[row].any()) and bool(output[:, row].any()) for row in dimensions)
    return count


def fewest_columns(model: Any, case: FamilyCase, index: int) -> int:
    up, down = linear(model, case, index, "up").weight, linear(model, case, index, "down").weight
    return sum(bool(up[column].any()) and bool(down[:, column].any()) for column in range(COLUMNS))


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
@given(zeros=st.lists(layers(), min_size=3, max_size=3), seed=st.integers(0, 9))
def test_slim_networks_equal_masked_ones(case: FamilyCase, zeros: list[dict[str, Any]], seed: int) -> None:
    model = make_model(case, case.task, seed=seed)
    distinct = 1 if case.model_type == "albert" else 3
    for index in range(distinct):
        apply(model, case, index, zeros[index])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = inspect(save(model, folder / "masked"))
        inputs = example_inputs(model, seed=seed)
        reference = torch_outputs(model, found.slim, inputs)
        slim = slim_module(found.checkpoint, found.slim)
        assert largest_difference(reference, torch_outputs(slim, found.slim, inputs)) < 2e-5
        for target, optimize in (("portable", False), ("cpu", True), ("cuda", True)):
            outputs = onnx_outputs(found.slim, inputs, folder, target=target, optimize=optimize)
            assert largest_difference(reference, outputs) < 2e-5, target
        slim.save_pretrained(folder / "slim")
        again = load_slim(folder / "slim")
        assert (
            largest_difference(torch_outputs(slim, found.slim, inputs), torch_outputs(again, found.slim, inputs)) == 0.0
        )
    for index in range(3):
        shape = layer_shape(found.slim.layers[index])
        place = index if distinct == 3 else 0
        assert shape.heads == fewest_heads(model, case, place)
        assert shape.columns == fewest_columns(model, case, place)


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_a_damaged_slim_network_is_noticed(case: FamilyCase, tmp_path: Path) -> None:
    """The control: the comparison above fails when a single weight of the slim network is wrong."""
    model = make_model(case, case.task)
    found = inspect(save(model, tmp_path))
    inputs = example_inputs(model)
    reference = torch_outputs(model, found.slim, inputs)
    slim = slim_module(found.checkpoint, found.slim)
    with torch.no_grad():
        slim.layers[0].feed_forward.down.weight[0, 0] += 0.01
    assert largest_difference(reference, torch_outputs(slim, found.slim, inputs)) > 2e-5
    assert largest_difference(reference, onnx_outputs(slim.describe(), inputs, tmp_path)) > 2e-5
