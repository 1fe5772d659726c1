"""Scores with a bias by distance (MPNet): buckets, surgery, long sequences, slim checkpoints, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

import prune_export
from exporters.encoder import Attention, ConstantBlock, DotProduct, Encoder, RelativeBias, map_layers
from exporters.errors import UnsupportedError, WriteError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from prune_export.checkpoint.inspection import operate_on
from prune_export.checkpoint.load import load_checkpoint
from prune_export.families.mpnet import bidirectional_buckets
from prune_export.families.state_dict import state_dict
from prune_export.slim_model.model import slim_module
from prune_export.surgeon.biases import drop_key_bias, fold_value_bias
from prune_export.surgeon.head_dimensions import remove_query_key_dimensions
from tests.comparing import FORMS, LIMITS, largest_difference, onnx_outputs
from tests.models import FAMILY_CASES, example_inputs, linear, make_model, padded_inputs, save
from tests.test_formulas_surgeon import block

MPNET = next(case for case in FAMILY_CASES if case.model_type == "mpnet")
LENGTHS = (1, 2, 65, 66, 67, 127, 128, 129, 130, 300, 513)
X = torch.randn(9, 8, generator=torch.Generator().manual_seed(1))


def biased(reach: int = 3) -> Attention:
    table = torch.randn(2 * reach + 1, 6, generator=torch.Generator().manual_seed(2))
    scores = RelativeBias(0.5, table, torch.arange(2 * reach + 1).flip(0))
    return replace(block(), heads=(0, 2, 3, 5), scores=scores)


def attend(one: Attention, x: Tensor) -> np.ndarray:
    """What the block adds for `x` `[sequence, hidden]`, query by query and key by key."""
    assert isinstance(one.scores, RelativeBias)
    table, rows, reach = one.scores.table.double().numpy(), one.scores.row_of_distance.numpy(), one.scores.reach
    parts = {name: getattr(one, name) for name in ("query_bias", "key_bias", "value_bias")}
    inputs = x.double().numpy()
    total = np.tile(one.output_bias.double().numpy(), (len(x), 1))
    for place, head in enumerate(one.heads):
        query, key, value = (
            inputs @ getattr(one, f"{name}_weight")[place].double().numpy().T
            + (0 if parts[f"{name}_bias"] is None else parts[f"{name}_bias"][place].double().numpy())
            for name in ("query", "key", "value")
        )
        for q in range(len(x)):
            scores = np.array(
                [
                    one.scores.scale * query[q] @ key[k] + table[rows[max(-reach, min(reach, q - k)) + reach], head]
                    for k in range(len(x))
                ]
            )
            weights = np.exp(scores - scores.max())
            total[q] += one.output_weight[:, place].double().numpy() @ (weights / weights.sum() @ value)
    return total


def test_buckets_are_those_of_transformers() -> None:
    distances = torch.arange(-400, 401)
    expected = MPNetEncoder.relative_position_bucket(-distances, num_buckets=32)  # of key - query
    rows = bidirectional_buckets(32, 128)
    assert torch.equal(rows[distances.clamp(-128, 128) + 128], expected)
    assert not torch.equal(rows.flip(0), rows)


def test_the_bias_is_read_at_the_heads_and_ends_at_its_reach() -> None:
    scores = biased(2).scores
    assert isinstance(scores, RelativeBias)
    found = scores.bias((5, 1), 6)
    assert found.shape == (2, 6, 6)
    assert found[0, 4, 3] == scores.table[1, 5]  # row_of_distance of 1 is 4 - 3
    assert found[1, 0, 5] == found[1, 0, 2] == scores.table[4, 1]


def test_surgery_is_exact_with_a_bias_by_distance() -> None:
    one = biased()
    one.query_weight[0, 0] = 0  # a score per key
    one.query_weight[0, 1], one.query_bias[0, 1] = 0, 0  # nothing
    one.key_weight[1, 2] = 0  # the same for all keys of a query
    one.query_weight[2], one.query_bias[2] = 0, 0  # the third head: distance alone
    before = attend(one, X)
    ready = fold_value_bias(drop_key_bias(one))
    np.testing.assert_allclose(attend(ready, X), before, atol=1e-5)
    keep = {0: (2,), 2: (0, 1), 3: (), 5: (0, 1, 2)}
    smaller = remove_query_key_dimensions(ready, keep)
    np.testing.assert_allclose(attend(smaller, X), before, atol=1e-5)
    # A head without query and key attends by its bias: nothing like uniformly.
    assert isinstance(smaller.scores, RelativeBias)
    uniform = replace(smaller, scores=replace(smaller.scores, table=torch.zeros_like(smaller.scores.table)))
    assert np.abs(attend(uniform, X) - before).max() > 1e-2


@pytest.fixture(scope="module")
def long_network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """513 positions; a layer without two of its heads, one without scores, one without attention."""
    model = make_model(MPNET, "question-answering", max_position_embeddings=515, num_hidden_layers=4)
    with torch.no_grad():
        model.mpnet.encoder.relative_attention_bias.weight.normal_(0, 2)
        for name in ("query", "key"):
            linear(model, MPNET, 1, name).weight.zero_()
        for layer, rows in ((0, slice(6, 18)), (2, slice(None))):
            linear(model, MPNET, layer, "value").weight[rows] = 0
            linear(model, MPNET, layer, "value").bias[rows] = 0
    return model, save(model, tmp_path_factory.mktemp("mpnet") / "model")


def model_of() -> Any:
    return make_model(MPNET, "question-answering")


@pytest.mark.parametrize("length", LENGTHS)
def test_long_and_padded_sequences_are_exact(length: int, long_network: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = long_network
    checkpoint = load_checkpoint(folder)
    slim = operate_on(checkpoint).slim
    assert [len(layer.attention.heads) if isinstance(layer.attention, Attention) else 0 for layer in slim.layers] == (
        [2, 4, 0, 4]
    )
    inputs = padded_inputs(model, length)
    kept = inputs["attention_mask"].bool().numpy()

    def real(outputs: Any) -> dict[str, np.ndarray]:
        return {name: np.asarray(outputs[name])[kept] for name in slim.outputs}

    with torch.no_grad():
        expected = real(model(**inputs))
        assert largest_difference(expected, real(slim_module(checkpoint, slim)(**inputs))) < 2e-5
    for target, dtype in (
        [("cpu", "fp32"), ("portable", "fp32"), ("cuda", "fp32")] if length < 300 else [("cpu", "fp32")]
    ):
        found = onnx_outputs(slim, inputs, tmp_path, target=target, dtype=dtype)
        assert largest_difference(expected, real(found)) < 2e-5, (target, dtype)
    if length > 2:
        for wrong in (reversed_distances(slim), without_bias(slim)):
            assert largest_difference(expected, real(onnx_outputs(wrong, inputs, tmp_path))) > 1e-2


def with_scores(encoder: Encoder, change: Any) -> Encoder:
    def changed(_: int, layer: Any) -> Any:
        if isinstance(layer.attention, ConstantBlock):
            return layer
        return replace(layer, attention=replace(layer.attention, scores=change(layer.attention.scores)))

    return map_layers(encoder, changed)


def reversed_distances(encoder: Encoder) -> Encoder:
    return with_scores(encoder, lambda scores: replace(scores, row_of_distance=scores.row_of_distance.flip(0)))


def without_bias(encoder: Encoder) -> Encoder:
    return with_scores(encoder, lambda scores: DotProduct(scores.scale))


@pytest.mark.parametrize(("target", "dtype"), FORMS)
def test_every_form_computes_the_same(target: str, dtype: str, long_network: tuple[Any, Path], tmp_path: Path) -> None:
    """A bias of -20 at a masked position must not become infinite in fp16, nor a row of padding NaN."""
    model, folder = long_network
    slim = operate_on(load_checkpoint(folder)).slim
    slim = with_scores(slim, lambda scores: replace(scores, table=scores.table - 20))
    inputs = padded_inputs(model, 40)
    kept = inputs["attention_mask"].bool().numpy()
    with torch.no_grad():
        expected = {name: np.asarray(model(**inputs)[name])[kept] for name in slim.outputs}
    found = onnx_outputs(slim, inputs, tmp_path, target=target, dtype=dtype)
    assert all(np.isfinite(value).all() for value in found.values())
    assert largest_difference(expected, {name: found[name][kept] for name in slim.outputs}) < LIMITS[dtype]


def test_the_table_is_stored_once_and_trained_as_one(long_network: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = long_network
    checkpoint = load_checkpoint(folder)
    network = slim_module(checkpoint, operate_on(checkpoint).slim)
    inputs = {name: value[:2] for name, value in example_inputs(model, length=12).items()}
    labels = {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])}
    network(**inputs, **labels).loss.backward()
    model.zero_grad()
    model(**inputs, **labels).loss.backward()
    reference = model.mpnet.encoder.relative_attention_bias.weight.grad
    assert network.relative_bias is not None
    torch.testing.assert_close(network.relative_bias.table.grad, reference, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        network.relative_bias.table += 0.5 * torch.randn(32, 4, generator=torch.Generator().manual_seed(5))
    network.save_pretrained(tmp_path / "slim")
    stored = load_file(tmp_path / "slim/slim.safetensors")
    assert [name for name in stored if "scores" in name] == ["scores.table"]
    again = prune_export.load_slim(tmp_path / "slim")
    with torch.no_grad():
        assert torch.equal(again(**inputs).start_logits, network(**inputs).start_logits)
        # As an ordinary model of full size it computes the same.
        model.load_state_dict(state_dict(checkpoint.family, checkpoint.config, network.describe()), strict=False)
        torch.testing.assert_close(model(**inputs).start_logits, network(**inputs).start_logits, atol=2e-5, rtol=0)
    del stored["scores.table"]
    save_file(stored, tmp_path / "slim/slim.safetensors")
    with pytest.raises(prune_export.CheckpointError, match=r"the tensor 'scores\.table' is missing"):
        load_checkpoint(tmp_path / "slim")


def test_a_network_without_attention_is_written_at_full_size(tmp_path: Path) -> None:
    model = make_model(MPNET, "question-answering")
    with torch.no_grad():
        for layer in range(3):
            linear(model, MPNET, layer, "attention_output").weight.zero_()
    checkpoint = load_checkpoint(save(model, tmp_path / "model"))
    slim = operate_on(checkpoint).slim
    assert all(isinstance(layer.attention, ConstantBlock) for layer in slim.layers)
    weights = state_dict(checkpoint.family, checkpoint.config, slim)
    full = make_model(MPNET, "question-answering", seed=1)
    assert full.load_state_dict(weights, strict=False).missing_keys == []
    inputs = example_inputs(model)
    with torch.no_grad():
        torch.testing.assert_close(full(**inputs).start_logits, model(**inputs).start_logits, atol=1e-5, rtol=0)


def test_what_has_no_form_is_refused(tmp_path: Path) -> None:
    folder = save(make_model(MPNET, "question-answering"), tmp_path / "model")
    checkpoint = load_checkpoint(folder)
    with pytest.raises(WriteError, match=r"cuda-packed has no form .* RelativeBias; expected DotProduct"):
        build(checkpoint.encoder, TARGETS["cuda-packed"], PRECISIONS["fp16"])
    config = json.loads((folder / "config.json").read_text())
    for changes, words in (
        ({"pruned_heads": {"0": [1]}}, "cannot run in a network of the type mpnet"),
        ({"relative_attention_num_buckets": 16}, "expected at least 32"),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(UnsupportedError, match=words):
            load_checkpoint(folder)
