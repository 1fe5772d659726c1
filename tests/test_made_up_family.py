"""A family that nobody ships, with query, key and value in one matrix, through the whole way: what CONTRIBUTING promises.

What it needs: a `Family` with its table, an entry in `FAMILIES`, and classes in transformers, which a real family brings.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, BertConfig, BertForQuestionAnswering

import prune_export
from prune_export import families
from prune_export.checkpoint import reference_model
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.weights import read_weights
from prune_export.facts.plan import LayerPlan, Plan
from prune_export.families.bert import BERT
from prune_export.families.names import LAYER
from prune_export.families.table import linear
from prune_export.pruning.budget import Budget
from prune_export.pruning.costs import counts_of, flops_costs
from prune_export.pruning.pruned_network import full_size_tensors
from prune_export.pruning.pruner import Pruner, PrunerSettings
from prune_export.slim_model.model import slim_module
from prune_export.training.methods.movement_masks import BlockScores, Level, apply_masks, attach_masks
from prune_export.training.stage import layer_modules
from tests.comparing import largest_difference, torch_outputs
from tests.models import BERT_LIKE, example_inputs
from tests.test_pruning import calibration

LEVEL = Level("topk", 1.0, 0.0)


class FusedConfig(BertConfig):
    model_type = "fused-bert"


class Third(nn.Module):
    """One of the three parts of a fused projection."""

    def __init__(self, fused: nn.Linear, part: int) -> None:
        super().__init__()
        self._fused = [fused]  # not a module of its own: its weights are saved once, under the fused name
        self._part = part

    def forward(self, x: Tensor) -> Tensor:
        return self._fused[0](x).chunk(3, dim=-1)[self._part]


class FusedForQuestionAnswering(BertForQuestionAnswering):
    config_class = FusedConfig

    def __init__(self, config: FusedConfig) -> None:
        super().__init__(config)
        for layer in self.bert.encoder.layer:
            attention = layer.attention.self
            attention.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
            for part, name in enumerate(("query", "key", "value")):
                delattr(attention, name)
                setattr(attention, name, Third(attention.qkv, part))


FUSED = replace(
    BERT,
    model_type="fused-bert",
    architecture="Fused",
    layers={
        **LAYER,
        **linear("attention.query_", "attention.self.qkv", part=0, parts=3),
        **linear("attention.key_", "attention.self.qkv", part=1, parts=3),
        **linear("attention.value_", "attention.self.qkv", part=2, parts=3),
    },
)


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    AutoConfig.register("fused-bert", FusedConfig, exist_ok=True)
    # transformers puts another module in its own place while it is imported: which one is used here depends on the order.
    for module in (sys.modules["transformers"], reference_model.transformers):
        monkeypatch.setattr(module, "FusedForQuestionAnswering", FusedForQuestionAnswering, raising=False)
    monkeypatch.setitem(families.FAMILIES, "fused-bert", FUSED)
    yield
    CONFIG_MAPPING._extra_content.pop("fused-bert", None)


@pytest.fixture
def checkpoint(family: None, tmp_path: Path) -> Path:  # noqa: ARG001
    torch.manual_seed(0)
    model = FusedForQuestionAnswering(FusedConfig(**{**BERT_LIKE, "num_labels": 2})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
        layer: Any = model.bert.encoder.layer[1]
        layer.attention.output.dense.weight[:, 6:12] = 0  # head 1
        layer.attention.self.qkv.weight[24 + 18 : 24 + 20] = 0  # two key rows of head 3
        layer.intermediate.dense.weight[4] = 0
    model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_the_whole_way(checkpoint: Path, tmp_path: Path) -> None:
    assert "bert.encoder.layer.0.attention.self.qkv.weight" in load_file(checkpoint / "model.safetensors")
    result = prune_export.export(checkpoint, tmp_path / "onnx", target="cpu", samples=4)
    assert result.parity is not None
    assert result.parity.passed
    layer = result.summary.layers[1]
    assert (layer.kept_heads, layer.after.columns) == ((0, 2, 3), 19)
    slim = prune_export.slim(checkpoint)
    slim.save_pretrained(tmp_path / "slim")
    again = prune_export.export(tmp_path / "slim", tmp_path / "again", target="cpu", samples=4)  # laid out at full size
    assert again.parity is not None
    assert again.parity.passed


def test_masked_weights_are_fused_again(checkpoint: Path, tmp_path: Path) -> None:
    """The reference is the untouched model with zeros put in by hand."""
    read = load_checkpoint(checkpoint)
    whole = tuple(range(4))
    plan = Plan(tuple(LayerPlan(whole[:2], tuple(range(10)), {}, {}) for _ in range(3)))
    write_masked(read, plan, tmp_path / "masked")
    model = FusedForQuestionAnswering.from_pretrained(checkpoint)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            attention = layer.attention.self
            for part in range(3):
                attention.qkv.weight[24 * part + 12 : 24 * part + 24] = 0
                attention.qkv.bias[24 * part + 12 : 24 * part + 24] = 0
            layer.attention.output.dense.weight[:, 12:] = 0
            layer.intermediate.dense.weight[10:] = 0
            layer.intermediate.dense.bias[10:] = 0
            layer.output.dense.weight[:, 10:] = 0
    inputs = example_inputs(model)
    masked = FusedForQuestionAnswering.from_pretrained(tmp_path / "masked")
    expected = torch_outputs(model.eval(), read.encoder, inputs)
    assert largest_difference(expected, torch_outputs(masked.eval(), read.encoder, inputs)) == 0
    assert load_checkpoint(tmp_path / "masked").form == "masked"


def test_it_is_pruned_without_training(checkpoint: Path, tmp_path: Path) -> None:
    """Scores, selection, rearrangement and reconstruction; the refitted weights are found fused again at full size."""
    read = load_checkpoint(checkpoint)
    data = calibration(FusedForQuestionAnswering.from_pretrained(checkpoint).eval())
    pruner = Pruner(read, data, PrunerSettings())
    costs = flops_costs(read.encoder, sequence_length=17)
    network = pruner.prune(Budget("flops", 0.5), costs, 0.5)[-1].network
    weights = read_weights(checkpoint, FUSED)
    write_masked(read, network.plan, tmp_path / "masked", changed=full_size_tensors(read, weights, network))
    masked = FusedForQuestionAnswering.from_pretrained(tmp_path / "masked").eval()
    inputs = example_inputs(masked)
    slim = torch_outputs(slim_module(read, network.encoder), read.encoder, inputs)
    assert largest_difference(torch_outputs(masked, read.encoder, inputs), slim) < 1e-4
    assert costs.total(counts_of(network.encoder)) <= 0.5 * costs.dense


def test_the_rows_of_a_fused_matrix_are_masked_alone(checkpoint: Path) -> None:
    model = FusedForQuestionAnswering.from_pretrained(checkpoint)
    layer = layer_modules(load_checkpoint(checkpoint), model)[1]
    fused = layer.query.module
    before = fused.weight.detach().clone()
    scores = attach_masks(
        layer, "struct", (1, 1), lambda rows, columns: BlockScores(rows, columns, LEVEL, initial=0.0, chosen=True)
    )
    assert scores.key.keep is not None
    scores.key.keep[1] = 0  # one score per head for all four projections
    head, hidden = layer.head_size, layer.hidden
    expected = before.clone()
    for part in range(3):
        expected[part * hidden + head : part * hidden + 2 * head] = 0
    assert torch.equal(fused.weight, expected)
    x = torch.randn(5, hidden, generator=torch.Generator().manual_seed(0))
    fused(x).square().sum().backward()
    raw = torch.nn.functional.linear(x, expected, fused.bias.detach())  # d(sum y²) / dW = 2 yᵀ x
    gradient = (2 * raw.T @ x * before).view(3, layer.heads, head, hidden).sum(dim=(0, 2, 3))
    found = scores.query.values.grad
    assert found is not None
    torch.testing.assert_close(found[:, 0], gradient, rtol=1e-4, atol=1e-4)
    apply_masks(layer)
    assert torch.equal(fused.weight, expected)
    assert fused.bias[hidden + head : hidden + 2 * head].eq(0).all()
