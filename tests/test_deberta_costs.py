"""What terms by distance add to files, parameters, operations and latency tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import prune_export
from exporters.cost import flops_per_token, layer_shape
from exporters.encoder import tensors
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import weights_size
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from prune_export.checkpoint.inspection import operate_on
from prune_export.checkpoint.load import load_checkpoint
from prune_export.pruning.block_networks import BlockNetworks
from prune_export.pruning.costs import counts_of, flops_costs, parameter_costs
from prune_export.pruning.file_size import file_bytes, measure_file_size
from prune_export.pruning.pruned_network import keep_units, unpruned
from tests.comparing import onnx_outputs
from tests.deberta import KINDS, V2, every_kind
from tests.models import FamilyCase, linear, make_model, save


def test_tables_shrink_with_heads_and_dimensions(tmp_path: Path) -> None:
    model = make_model(V2, "question-answering", max_relative_positions=600, position_buckets=-1)
    dense = load_checkpoint(save(model, tmp_path / "dense")).encoder
    with torch.no_grad():
        for layer in range(3):
            linear(model, V2, layer, "value").weight[:12] = 0
            for name in ("query", "key"):
                for rows in range(12, 24, 6):
                    linear(model, V2, layer, name).weight[rows : rows + 3] = 0
                    linear(model, V2, layer, name).bias[rows : rows + 3] = 0
    slim = operate_on(load_checkpoint(save(model, tmp_path / "slim"))).slim
    assert [(layer_shape(layer).heads, layer_shape(layer).query_key_size) for layer in slim.layers] == [(2, 3)] * 3
    table = 1200 * 24 * 4  # bytes of one table of a layer
    sizes = [weights_size(build(each, TARGETS["cpu"], PRECISIONS["fp32"])) for each in (dense, slim)]
    assert 6 * table < sizes[0] < 6 * table + 100_000
    assert sizes[0] - sizes[1] > 6 * table * 0.75


@every_kind
def test_parameters_and_operations_are_counted(case: FamilyCase, changes: dict[str, Any], tmp_path: Path) -> None:
    model = make_model(case, case.task, **changes)
    found = prune_export.inspect(save(model, tmp_path / "model"))
    assert found.summary.parameters_before == sum(parameter.numel() for parameter in model.parameters())
    slim = found.slim
    costs = parameter_costs(slim)
    assert costs.total(counts_of(slim)) == sum(tensor.numel() for tensor in tensors(slim.layers))
    terms, rows = len(model.config.pos_att_type), 16 if case is V2 else 22
    plain = replace(layer_shape(slim.layers[0]), distance_terms=0)
    for length in (1, 5, 100):
        both = [
            flops_per_token((shape,), hidden_size=24, sequence_length=length)
            for shape in (layer_shape(slim.layers[0]), plain)
        ]
        assert both[0] - both[1] == 2 * terms * 4 * 6 * min(rows, 2 * length)
        assert flops_costs(slim, sequence_length=length).dense == 3 * both[0]


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_file_sizes_are_predicted(dtype: str, tmp_path: Path) -> None:
    model = make_model(
        V2, "question-answering", hidden_size=96, embedding_size=96, intermediate_size=160, pooler_hidden_size=96
    )
    encoder = operate_on(load_checkpoint(save(model, tmp_path / "model"))).slim
    size = measure_file_size(encoder, "cpu", dtype)
    kept = tuple((tuple(range(2)), tuple(range(90))) for _ in encoder.layers)
    smaller = keep_units(unpruned(encoder), kept).encoder
    assert size.of(encoder, counts_of(smaller)) == pytest.approx(file_bytes(smaller, "cpu", dtype), rel=0.03)


def test_block_networks_have_tables_of_their_own(tmp_path: Path) -> None:
    for case, changes in KINDS[::4]:
        model = make_model(case, case.task, **changes)
        encoder = operate_on(load_checkpoint(save(model, tmp_path / f"{case}{len(changes)}"))).slim
        network = BlockNetworks(encoder).repeated(heads=2)
        inputs = {"input_ids": torch.arange(10)[None], "attention_mask": torch.ones(1, 10, dtype=torch.long)}
        if "token_type_ids" in network.inputs:
            inputs["token_type_ids"] = torch.zeros(1, 10, dtype=torch.long)
        assert onnx_outputs(network, inputs, tmp_path)["last_hidden_state"].shape == (1, 10, 24)
