"""Scores with terms by distance (DeBERTa): rows, surgery, long sequences, slim checkpoints, configurations, costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

import prune_export
from exporters.cost import flops_per_token, layer_shape
from exporters.distances import Distances, Projection, normalized_embeddings
from exporters.encoder import Attention, ConstantBlock, Encoder, Norm, map_layers, tensors
from exporters.errors import SurgeryError, UnsupportedError, WriteError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import weights_size
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from prune_export.checkpoint.inspection import operate_on
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.weights import read_weights
from prune_export.families.deberta_v2 import log_bucket_rows
from prune_export.families.describe import describe
from prune_export.families.state_dict import state_dict
from prune_export.pruning.block_networks import BlockNetworks
from prune_export.pruning.budget import Budget
from prune_export.pruning.costs import counts_of, flops_costs, parameter_costs
from prune_export.pruning.file_size import file_bytes, measure_file_size
from prune_export.pruning.pruned_network import full_size_tensors, keep_units, unpruned
from prune_export.pruning.pruner import Pruner, PrunerSettings
from prune_export.pruning.reconstruction.forward import attention_update, feed_forward_update, normalized
from prune_export.slim_model.model import slim_module
from prune_export.subarchitecture.plain_config import check_parent
from prune_export.surgeon.biases import drop_key_bias, fold_value_bias
from prune_export.surgeon.distances import drop_key_bias_beside_distances, remove_dimensions_with_distances
from prune_export.surgeon.zeros import scoring_dimensions
from tests.comparing import FORMS, LIMITS, largest_difference, onnx_outputs, torch_outputs
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, linear, make_model, padded_inputs, save
from tests.test_formulas_surgeon import block
from tests.test_pruning import calibration

CASES = {str(case): case for case in FAMILY_CASES}
V1, V2 = CASES["deberta"], CASES["deberta-v2"]
LENGTHS = (1, 2, 65, 66, 67, 127, 128, 129, 130, 300, 513)
TERMS = (["c2p", "p2c"], ["c2p"], ["p2c"])
# Every way in which a network scores distances: DeBERTa's projections are always separate, and its keys have no bias.
KINDS = [
    *((V2, {"share_att_key": shared, "pos_att_type": terms}) for shared in (True, False) for terms in TERMS),
    *((V1, {"pos_att_type": terms}) for terms in TERMS),
]
X = torch.randn(9, 8, generator=torch.Generator().manual_seed(1))
every_kind = pytest.mark.parametrize(("case", "changes"), KINDS, ids=str)


def name_of(kind: tuple[FamilyCase, dict[str, Any]]) -> str:
    return " ".join(map(str, kind))


# --- one block, written out -------------------------------------------------------------------------------------------


def by_distance(terms: list[str], *, shared: bool, key_bias: bool = True, reach: int = 3) -> Attention:
    """Four heads of five dimensions, rows that distances do not share evenly, and a norm."""
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def own(term: str, *, bias: bool) -> Projection | None:
        return None if shared or term not in terms else Projection(random(4, 5, 8), random(4, 5) if bias else None)

    rows = torch.tensor([0, 0, 1, 3, 4, 4, 5])
    assert len(rows) == 2 * reach + 1
    scores = Distances(
        scale=0.3,
        embeddings=random(6, 8),
        norm=Norm(1 + 0.2 * random(8), random(8), 1e-7),
        row_of_distance=rows,
        content_to_position="c2p" in terms,
        position_to_content="p2c" in terms,
        key=own("c2p", bias=key_bias),
        query=own("p2c", bias=True),
    )
    one = replace(block(4, 5), scores=scores)
    return one if key_bias else replace(one, key_bias=None)


def attend(one: Attention, x: Tensor) -> np.ndarray:
    """What the block adds for `x` `[sequence, hidden]`, query by query and key by key."""
    scores = one.scores
    assert isinstance(scores, Distances)
    assert scores.embeddings is not None

    def numbers(tensor: Tensor | None) -> Any:
        return 0.0 if tensor is None else tensor.double().numpy()

    embeddings = numbers(scores.embeddings)
    if scores.norm is not None:
        centered = embeddings - embeddings.mean(axis=1, keepdims=True)
        deviation = np.sqrt((centered**2).mean(axis=1, keepdims=True) + scores.norm.epsilon)
        embeddings = centered / deviation * numbers(scores.norm.weight) + numbers(scores.norm.bias)
    inputs = numbers(x)
    total = np.tile(numbers(one.output_bias), (len(x), 1))
    for place in range(len(one.heads)):

        def of(weight: Tensor, bias: Tensor | None, source: np.ndarray, place: int = place) -> np.ndarray:
            rows: np.ndarray = source @ numbers(weight[place]).T + (0.0 if bias is None else numbers(bias[place]))
            return rows

        query, key, value = (
            of(getattr(one, f"{name}_weight"), getattr(one, f"{name}_bias"), inputs)
            for name in ("query", "key", "value")
        )
        to_key = Projection(one.key_weight, one.key_bias) if scores.key is None else scores.key
        to_query = Projection(one.query_weight, one.query_bias) if scores.query is None else scores.query
        keys, queries = (of(each.weight, each.bias, embeddings) for each in (to_key, to_query))
        for q in range(len(x)):
            found = []
            for k in range(len(x)):
                row = scores.row_of_distance[max(-scores.reach, min(scores.reach, q - k)) + scores.reach]
                score = query[q] @ key[k]
                if scores.content_to_position:
                    score += query[q] @ keys[row]
                if scores.position_to_content:
                    score += key[k] @ queries[row]
                found.append(scores.scale * score)
            weights = np.exp(np.array(found) - max(found))
            total[q] += numbers(one.output_weight[:, place]) @ (weights / weights.sum() @ value)
    return total


def zero_rows(one: Attention, side: str, head: int, *dimensions: int) -> None:
    """Zeros in a query (key) row and in that of its projection of distances; the biases stay."""
    assert isinstance(one.scores, Distances)
    for dimension in dimensions:
        getattr(one, f"{side}_weight")[head, dimension] = 0
        if (projection := getattr(one.scores, side)) is not None:
            projection.weight[head, dimension] = 0


@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize(
    ("shared", "key_bias"), [(True, True), (False, True), (False, False)], ids=["shared", "separate", "no key bias"]
)
def test_surgery_is_exact(terms: list[str], shared: bool, key_bias: bool) -> None:
    one = by_distance(terms, shared=shared, key_bias=key_bias)
    zero_rows(one, "query", 0, 0, 1, 3)
    zero_rows(one, "key", 1, 0, 2, 4)
    for side in ("query", "key"):  # both kinds, and a dimension of both
        zero_rows(one, side, 2, 1)
    zero_rows(one, "query", 2, 0, 2)
    zero_rows(one, "key", 2, 3, 4)
    zero_rows(one, "key", 3, 0, 1, 2, 3, 4)  # the head scores by distance alone, or not at all
    before = attend(one, X)
    ready = fold_value_bias(one)
    if not one.scores.key_bias_matters:
        ready = drop_key_bias_beside_distances(ready)
        assert ready.key_bias is None
    np.testing.assert_allclose(attend(ready, X), before, atol=1e-5)
    keep = {0: (2, 4), 1: (1, 3), 2: (), 3: ()}
    smaller = remove_dimensions_with_distances(ready, keep)
    merged = 1 if "p2c" not in terms or not key_bias else 2
    assert smaller.query_key_size == 3
    np.testing.assert_allclose(attend(smaller, X), before, atol=1e-5)
    if merged == 2:  # the head without keys is nothing like uniform
        uniform = replace(smaller, key_bias=torch.zeros_like(smaller.key_bias))  # type: ignore[arg-type]
        assert np.abs(attend(uniform, X) - before).max() > 1e-2
    # Merged dimensions are removed and merged again, and nothing else happens to them.
    again = remove_dimensions_with_distances(smaller, {head: tuple(range(3)) for head in smaller.heads} | {2: ()})
    assert not scoring_dimensions(smaller)[2].any()
    np.testing.assert_allclose(attend(again, X), before, atol=1e-5)


def test_a_row_of_the_projection_keeps_its_dimension() -> None:
    one = by_distance(["c2p", "p2c"], shared=False)
    one.query_weight[0, 1] = 0
    one.key_weight[0, 2] = 0
    assert scoring_dimensions(one).all()
    for dimension in (1, 2):
        keep = {0: tuple(index for index in range(5) if index != dimension)}
        with pytest.raises(SurgeryError, match=f"head 0: query/key dimension {dimension} has both"):
            remove_dimensions_with_distances(one, keep)


@pytest.mark.parametrize("shared", [True, False])
def test_the_key_bias_matters_under_position_to_content(shared: bool) -> None:
    one = by_distance(["p2c"], shared=shared)
    with pytest.raises(SurgeryError, match="key bias scores distances"):
        drop_key_bias_beside_distances(one)
    with pytest.raises(SurgeryError, match="is exact for ContentScores; found Distances"):
        drop_key_bias(one)
    assert np.abs(attend(replace(one, key_bias=None), X) - attend(one, X)).max() > 1e-1


# --- rows of distances ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("buckets", "span"), [(8, 32), (256, 512), (2, 9), (6, 5), (128, 1024), (-1, 7), (256, 65536), (64, 130)]
)
def test_rows_are_those_of_transformers(buckets: int, span: int) -> None:
    """Both terms read one row: transformers' gathers the second at the negative of the reversed distance."""
    length = 3 * min(span, 700)
    states = torch.zeros(1, length, 1)
    distances = build_relative_position(states, states, buckets, span)[0]
    half = buckets if buckets > 0 else span
    rows, reach = log_bucket_rows(buckets, span), len(log_bucket_rows(buckets, span)) // 2
    places = torch.arange(length)
    found = rows[(places[:, None] - places).clamp(-reach, reach) + reach]
    assert torch.equal(found, (distances + half).clamp(0, 2 * half - 1))
    assert torch.equal(found, (half - distances).clamp(0, 2 * half - 1).t())
    assert rows.diff().min() >= 0
    if span < 700:
        assert torch.equal(rows[[0, -1]], torch.tensor([1 if buckets == 2 else 0, 2 * half - 1]))


# --- whole networks ---------------------------------------------------------------------------------------------------


def holed(case: FamilyCase, changes: dict[str, Any], **more: Any) -> Any:
    """A layer without two heads, one with every kind of zero rows, one without attention, one as it was."""
    sizes = {"num_hidden_layers": 4, "max_position_embeddings": 513}
    model = make_model(case, case.task, **(sizes | changes | more))
    with torch.no_grad():
        for layer, rows in ((0, slice(6, 18)), (2, slice(None))):
            linear(model, case, layer, "value").weight[rows] = 0
            linear(model, case, layer, "value").bias[rows] = 0
        for side, rows in (("query", [0, 1, 6, 7, 20]), ("key", [3, 4, 12, 13, 14, 15, 16, 17, 20])):
            linear(model, case, 1, side).weight[torch.tensor(rows)] = 0
            if (own := own_projection(model, 1, side)) is not None:
                own.weight[torch.tensor(rows)] = 0
    return model


def own_projection(model: Any, layer: int, side: str) -> nn.Linear | None:
    attention = model.deberta.encoder.layer[layer].attention.self
    names = {"query": ("pos_query_proj", "pos_q_proj"), "key": ("pos_key_proj", "pos_proj")}[side]
    return next((getattr(attention, name) for name in names if hasattr(attention, name)), None)


@pytest.fixture(params=KINDS, ids=name_of, scope="module")
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    case, changes = request.param
    model = holed(case, changes)
    return model, save(model, tmp_path_factory.mktemp("deberta") / "model")


def test_surgery_finds_what_may_go(network: tuple[Any, Path]) -> None:
    model, folder = network
    slim = operate_on(load_checkpoint(folder)).slim
    found = [layer_shape(layer) for layer in slim.layers]
    assert [shape.heads for shape in found] == [2, 4, 0, 4]
    assert found[1].query_key_size == 5  # the last head lost one dimension that scores nothing, the others more
    second = slim.layers[1].attention
    assert isinstance(second, Attention)
    assert scoring_dimensions(second).sum(dim=1).tolist() == [2, 4, 0, 5]
    p2c, has_bias = "p2c" in model.config.pos_att_type, model.config.model_type == "deberta-v2"
    assert all(
        (layer.attention.key_bias is not None) == (p2c and has_bias)
        for layer in slim.layers
        if isinstance(layer.attention, Attention)
    )


@pytest.mark.parametrize("length", LENGTHS)
def test_long_and_padded_sequences_are_exact(length: int, network: tuple[Any, Path], tmp_path: Path) -> None:
    """Against the untouched model, padding included."""
    model, folder = network
    checkpoint = load_checkpoint(folder)
    slim = operate_on(checkpoint).slim
    inputs = padded_inputs(model, length)
    expected = torch_outputs(model, slim, inputs)
    assert largest_difference(expected, torch_outputs(slim_module(checkpoint, slim), slim, inputs)) < 2e-5
    every = length < 300 and model.config.pos_att_type == ["c2p", "p2c"]
    targets = ("cpu", "portable", "cuda") if every else ("cpu",)
    for target in targets:
        assert largest_difference(expected, onnx_outputs(slim, inputs, tmp_path, target=target)) < 2e-5, target
    if length > 2:
        wrong = onnx_outputs(reversed_distances(slim), inputs, tmp_path)
        assert largest_difference(expected, wrong) > 1e-3


def with_scores(encoder: Encoder, change: Any) -> Encoder:
    def changed(_: int, layer: Any) -> Any:
        if isinstance(layer.attention, ConstantBlock):
            return layer
        return replace(layer, attention=replace(layer.attention, scores=change(layer.attention.scores)))

    return map_layers(encoder, changed)


def reversed_distances(encoder: Encoder) -> Encoder:
    """Rows of key - query in place of query - key: the embeddings in reverse order, for there are as many on both sides."""

    def change(scores: Distances) -> Distances:
        rows = len(scores.embeddings)  # type: ignore[arg-type]
        assert scores.embeddings is not None
        order = (rows - torch.arange(rows)).clamp(0, rows - 1)
        return replace(scores, embeddings=scores.embeddings[order])

    return with_scores(encoder, change)


def test_a_short_row_beside_long_ones(network: tuple[Any, Path], tmp_path: Path) -> None:
    """mlx-embeddings #80: a row that is nearly all padding makes no NaN of its batch, in any form."""
    model, folder = network
    slim = operate_on(load_checkpoint(folder)).slim
    inputs = {name: value[:1].repeat(3, 1) for name, value in example_inputs(model, length=200).items()}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][1, 5:] = 0
    inputs["attention_mask"][2, :195] = 0
    expected = torch_outputs(model, slim, inputs)
    for target, dtype in FORMS:
        found = onnx_outputs(slim, inputs, tmp_path, target=target, dtype=dtype)
        assert largest_difference(expected, found) < max(2e-5, LIMITS[dtype] if dtype != "fp32" else 0), (target, dtype)


def test_there_and_back_again(network: tuple[Any, Path], tmp_path: Path) -> None:
    """Slim, saved, loaded, laid out at full size in the Hugging Face model: the same answers, merged dimensions included."""
    model, folder = network
    checkpoint = load_checkpoint(folder)
    slim = operate_on(checkpoint).slim
    inputs = padded_inputs(model, 40)
    expected = torch_outputs(model, slim, inputs)
    module = slim_module(checkpoint, slim)
    module.save_pretrained(tmp_path / "slim")
    again = prune_export.load_slim(tmp_path / "slim")
    assert largest_difference(torch_outputs(module, slim, inputs), torch_outputs(again, slim, inputs)) == 0
    full = type(model)(model.config).eval()
    loaded = load_checkpoint(tmp_path / "slim")
    report = full.load_state_dict(state_dict(loaded.family, loaded.config, loaded.encoder), strict=False)
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    assert largest_difference(expected, torch_outputs(full, slim, inputs)) < 2e-5
    # What was merged is found once more, and nothing else.
    assert [layer_shape(layer) for layer in operate_on(loaded).slim.layers] == [
        layer_shape(layer) for layer in slim.layers
    ]


@pytest.mark.parametrize("seed", range(4))
@every_kind
def test_random_zeros_are_removed_exactly(case: FamilyCase, changes: dict[str, Any], seed: int, tmp_path: Path) -> None:
    """Rows of queries, keys and projections of distances vanish independently of each other, with their biases or not."""
    model = make_model(case, case.task, seed=seed, **changes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in range(3):
            share = (0.3, 0.6, 0.9)[layer]
            for side in ("query", "key"):
                of_tokens = linear(model, case, layer, side)
                gone = torch.rand(24, generator=generator) < share
                of_tokens.weight[gone] = 0
                of_tokens.bias[gone & (torch.rand(24, generator=generator) < 0.3)] = 0
                if (own := own_projection(model, layer, side)) is not None:
                    also = gone & (torch.rand(24, generator=generator) < 0.7)
                    own.weight[also] = 0
                    if own.bias is not None:
                        own.bias[also & (torch.rand(24, generator=generator) < 0.3)] = 0
    checkpoint = load_checkpoint(save(model, tmp_path / "model"))
    slim = operate_on(checkpoint).slim
    assert layer_shape(slim.layers[2]).query_key_size < 6
    inputs = example_inputs(model, seed=seed)
    expected = torch_outputs(model, slim, inputs)
    assert largest_difference(expected, torch_outputs(slim_module(checkpoint, slim), slim, inputs)) < 2e-5
    assert largest_difference(expected, onnx_outputs(slim, inputs, tmp_path)) < 2e-5
    full = type(model)(model.config).eval()
    full.load_state_dict(state_dict(checkpoint.family, checkpoint.config, slim))
    assert largest_difference(expected, torch_outputs(full, slim, inputs)) < 2e-5


@every_kind
def test_a_network_without_attention_is_written_at_full_size(
    case: FamilyCase, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = make_model(case, "text-classification", **changes)
    with torch.no_grad():
        for layer in range(3):
            linear(model, case, layer, "attention_output").weight.zero_()
    checkpoint = load_checkpoint(save(model, tmp_path / "model"))
    slim = operate_on(checkpoint).slim
    assert all(isinstance(layer.attention, ConstantBlock) for layer in slim.layers)
    full = type(model)(model.config).eval()
    full.load_state_dict(state_dict(checkpoint.family, checkpoint.config, slim))
    inputs = example_inputs(model)
    expected = torch_outputs(model, slim, inputs)
    assert largest_difference(expected, torch_outputs(full, slim, inputs)) < 1e-5
    assert largest_difference(expected, onnx_outputs(slim, inputs, tmp_path)) < 1e-5


def test_embeddings_are_stored_once_and_trained_as_one(network: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = network
    checkpoint = load_checkpoint(folder)
    module = slim_module(checkpoint, operate_on(checkpoint).slim)
    inputs = {name: value[:3] for name, value in example_inputs(model, length=12).items()}
    labels = {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([3, 4, 5])}
    with torch.inference_mode():
        module(**inputs)
    module(**inputs, **labels).loss.backward()
    model.zero_grad()
    model(**inputs, **labels).loss.backward()
    assert module.distances is not None
    expected = model.deberta.encoder.rel_embeddings.weight.grad
    torch.testing.assert_close(module.distances.embeddings.grad, expected, atol=1e-5, rtol=1e-3)
    if (own := own_projection(model, 3, "key")) is not None:
        torch.testing.assert_close(module.layers[3].attention.to_key.weight.grad, own.weight.grad, atol=1e-5, rtol=1e-3)
    with torch.no_grad():
        module.distances.embeddings += 0.5 * torch.randn_like(module.distances.embeddings)
    module.save_pretrained(tmp_path / "slim")
    stored = load_file(tmp_path / "slim/slim.safetensors")
    common = {name for name in stored if name.startswith("scores.")}
    norm = {"scores.norm.weight", "scores.norm.bias"} if model.config.model_type == "deberta-v2" else set()
    assert common == {"scores.embeddings"} | norm
    again = prune_export.load_slim(tmp_path / "slim")
    with torch.no_grad():
        assert torch.equal(again(**inputs).start_logits, module(**inputs).start_logits)
    model.zero_grad()
    for name in [name for name in stored if "scores." in name or name == "layers.1.attention.key_bias"]:
        save_file(
            {other: value for other, value in stored.items() if other != name}, tmp_path / "slim/slim.safetensors"
        )
        with pytest.raises(prune_export.CheckpointError, match="is missing"):
            load_checkpoint(tmp_path / "slim")


def test_in_proj_is_interleaved(tmp_path: Path) -> None:
    """Thirds of the whole matrix are another network."""
    model = make_model(V1, "question-answering")
    checkpoint = load_checkpoint(save(model, tmp_path / "model"))
    inputs = example_inputs(model)
    expected = torch_outputs(model, checkpoint.encoder, inputs)
    assert largest_difference(expected, onnx_outputs(checkpoint.encoder, inputs, tmp_path)) < 1e-5
    rows = {path: replace(row, per_head=False) for path, row in checkpoint.family.layers.items()}
    weights = read_weights(tmp_path / "model", checkpoint.family)
    wrong = describe(replace(checkpoint.family, layers=rows), checkpoint.config, weights, "question-answering")
    assert largest_difference(expected, onnx_outputs(wrong, inputs, tmp_path)) > 1e-2


@pytest.mark.parametrize("shared", [True, False])
def test_a_dropped_key_bias_is_noticed(shared: bool, tmp_path: Path) -> None:
    model = make_model(V2, "question-answering", share_att_key=shared)
    encoder = load_checkpoint(save(model, tmp_path / "model")).encoder

    def without(_: int, layer: Any) -> Any:
        return replace(layer, attention=replace(layer.attention, key_bias=None))

    inputs = example_inputs(model)
    expected = torch_outputs(model, encoder, inputs)
    assert largest_difference(expected, onnx_outputs(map_layers(encoder, without), inputs, tmp_path)) > 1e-2


# --- configurations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        (V2, {"position_biased_input": True, "type_vocab_size": 2}),
        (V2, {"position_biased_input": True, "type_vocab_size": 1}),
        (V2, {"type_vocab_size": 1}),
        (V2, {"relative_attention": False, "position_biased_input": True}),
        (V2, {"relative_attention": False, "pos_att_type": None, "position_biased_input": True}),
        (V2, {"pos_att_type": "p2c|c2p", "position_buckets": -1, "max_relative_positions": -1}),
        (V2, {"norm_rel_ebd": "none", "share_att_key": False}),
        (V2, {"max_position_embeddings": 16, "hidden_act": "gelu_new", "pooler_hidden_act": "tanh"}),
        (V1, {"position_biased_input": True, "type_vocab_size": 0, "max_relative_positions": -1}),
        (V1, {"relative_attention": False, "position_biased_input": True}),
        (V1, {"pos_att_type": "c2p"}),
    ],
    ids=str,
)
def test_variants_of_configurations(case: FamilyCase, changes: dict[str, Any], tmp_path: Path) -> None:
    for task in ("text-classification", "fill-mask"):
        model = make_model(case, task, **changes)
        checkpoint = load_checkpoint(save(model, tmp_path / task))
        slim = operate_on(checkpoint).slim
        inputs = example_inputs(model, length=14)
        assert ("token_type_ids" in slim.inputs) == (model.config.type_vocab_size > 1)  # optimum #491
        expected = torch_outputs(model, slim, inputs)
        assert largest_difference(expected, torch_outputs(slim_module(checkpoint, slim), slim, inputs)) < 1e-5
        for target in ("cpu", "portable", "cuda"):
            assert largest_difference(expected, onnx_outputs(slim, inputs, tmp_path, target=target)) < 1e-5, target
        full = type(model)(model.config).eval()
        report = full.load_state_dict(state_dict(checkpoint.family, checkpoint.config, slim), strict=False)
        assert (report.missing_keys, report.unexpected_keys) == ([], [])
        assert largest_difference(expected, torch_outputs(full, slim, inputs)) < 1e-5


@pytest.mark.parametrize("case", [V1, V2], ids=str)
def test_the_new_head_for_masked_tokens(case: FamilyCase, tmp_path: Path) -> None:
    """transformers 4 overwrites the word embeddings of such a network, and saves it without them."""
    model = make_model(case, "fill-mask", legacy=False)
    folder = save(model, tmp_path / "model")
    if transformers.__version__ < "5":
        with pytest.raises(UnsupportedError, match=r"legacy is false, and transformers 4.* expected transformers 5"):
            load_checkpoint(folder)
        return
    checkpoint = load_checkpoint(folder)
    slim = operate_on(checkpoint).slim
    assert slim.head.decoder.weight is slim.embeddings.word  # type: ignore[union-attr]
    inputs = example_inputs(model)
    expected = torch_outputs(model, slim, inputs)
    assert largest_difference(expected, onnx_outputs(slim, inputs, tmp_path)) < 1e-5
    full = type(model)(model.config).eval()
    report = full.load_state_dict(state_dict(checkpoint.family, checkpoint.config, slim), strict=False)
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    assert largest_difference(expected, torch_outputs(full, slim, inputs)) < 1e-5


REFUSED = [
    (V2, {"conv_kernel_size": 3}, "conv_kernel_size is 3; expected 0 .*; take a checkpoint without one"),
    (V2, {"attention_head_size": 7}, "attention_head_size is 7; expected hidden_size / num_attention_heads, 6; take"),
    (V2, {"embedding_size": 12}, "embedding_size is 12; expected the hidden size, 24; take"),
    (V2, {"pooler_hidden_size": 12}, "pooler_hidden_size is 12; expected the hidden size, 24; take"),
    (V2, {"pooler_hidden_act": "selu"}, "pooler_hidden_act is 'selu'; expected one of gelu"),
    (
        V2,
        {"position_buckets": 9},
        "position_buckets is 9 with distances up to 32; expected an even number below 62; set",
    ),
    (V2, {"position_buckets": 64}, "position_buckets is 64 with distances up to 32; expected an even number below 62"),
    (V2, {"max_relative_positions": 10**7}, "max_relative_positions is 10000000; expected at most 65,536; set"),
    (
        V2,
        {"pos_att_type": ["c2p", "p2p"]},
        r"pos_att_type is \['c2p', 'p2p'\]; expected 'c2p', 'p2c' or both, each once",
    ),
    (V2, {"pos_att_type": ["c2p", "c2p"]}, "expected 'c2p', 'p2c' or both, each once; set"),
    (V2, {"pos_att_type": None}, "pos_att_type is None; expected 'c2p', 'p2c' or both; set relative_attention"),
    (V2, {"layer_norm_type": "no_norm"}, "layer_norm_type is 'no_norm'; expected layer_norm"),
    (V2, {"pruned_heads": {"0": [1]}}, "cannot run in a network of the type deberta-v2"),
    (V1, {"talking_head": True}, "talking_head is True; expected false; take"),
    (V1, {"embedding_size": 12}, "embedding_size is 12; expected the hidden size, 24; take"),
    (V1, {"pruned_heads": {"0": [1]}}, "cannot run in a network of the type deberta"),
]


@pytest.mark.parametrize(("case", "changes", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused(case: FamilyCase, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = save(make_model(case, case.task), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UnsupportedError, match=words) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_what_has_no_form_is_refused(tmp_path: Path) -> None:
    for changes in ({}, {"relative_attention": False, "position_biased_input": True}):
        checkpoint = load_checkpoint(
            save(make_model(V2, "question-answering", **changes), tmp_path / str(len(changes)))
        )
        with pytest.raises(WriteError, match=r"cuda-packed has no form .* Distances; expected DotProduct"):
            build(checkpoint.encoder, TARGETS["cuda-packed"], PRECISIONS["fp16"])
        with pytest.raises(UnsupportedError, match="search without --uniform"):
            check_parent(checkpoint)


# --- sizes and costs --------------------------------------------------------------------------------------------------


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


def test_half_precision_files_are_read_in_float32(tmp_path: Path) -> None:
    """Published weights of v3 are mixed; the graph in fp16 answers like the model in float32."""
    model = make_model(V2, "text-classification")
    expected_model = make_model(V2, "text-classification")
    with torch.no_grad():
        for own, other in zip(model.parameters(), expected_model.parameters(), strict=True):
            own.copy_(own.half().float())
            other.copy_(own)
    for index, parameter in enumerate(model.parameters()):
        if index % 2:
            parameter.data = parameter.data.half()
    slim = operate_on(load_checkpoint(save(model, tmp_path / "model"))).slim
    inputs = example_inputs(expected_model)
    expected = torch_outputs(expected_model, slim, inputs)
    assert largest_difference(expected, onnx_outputs(slim, inputs, tmp_path)) < 1e-5
    for target in ("cpu", "portable", "cuda"):
        assert largest_difference(expected, onnx_outputs(slim, inputs, tmp_path, target=target, dtype="fp16")) < 2e-2
    scores = slim.layers[0].attention.scores  # type: ignore[union-attr]
    assert isinstance(scores, Distances)
    assert normalized_embeddings(scores).dtype == torch.float32


@pytest.mark.parametrize("case", [V1, V2], ids=str)
@pytest.mark.parametrize("task", ["question-answering", "text-classification"])
def test_parity_of_exports(case: FamilyCase, task: Any, tmp_path: Path) -> None:
    """Of 40 tokens: sessions on CUDA pad to multiples of 8, which changes what padding attends to, and nothing else."""
    folder = save(make_model(case, task), tmp_path / "model")
    for target, dtype in (("cpu", "fp32"), ("portable", "fp16"), ("cuda", "fp16"), ("cpu", "int8")):
        result = prune_export.export(folder, tmp_path / f"{target}-{dtype}", target=target, dtype=dtype, samples=8)
        assert result.parity is not None
        assert result.parity.passed
        assert prune_export.verify(folder, tmp_path / f"{target}-{dtype}", samples=4, provider="cpu").passed


def test_the_reconstructions_forward_pass_is_the_models(network: tuple[Any, Path]) -> None:
    """Layer by layer, at real tokens."""
    model, folder = network
    encoder = load_checkpoint(folder).encoder
    inputs = padded_inputs(model, 40)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        states = model.deberta(**inputs, output_hidden_states=True).hidden_states
        for layer, x, expected in zip(encoder.layers, states, states[1:], strict=False):
            middle = normalized(layer.attention_norm, x + attention_update(layer.attention, x, real))
            found = normalized(layer.feed_forward_norm, middle + feed_forward_update(layer.feed_forward, middle))
            torch.testing.assert_close(found[real], expected[real], atol=2e-5, rtol=0)


@pytest.mark.parametrize(("case", "changes"), KINDS[::3], ids=str)  # with both terms
def test_pruning_without_training_is_written_at_full_size(
    case: FamilyCase, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Scores, selection and the full reconstruction; the Hugging Face model of the masked checkpoint computes the same."""
    model = make_model(case, case.task, **changes)
    checkpoint = load_checkpoint(save(model, tmp_path / "model"))
    pruner = Pruner(checkpoint, calibration(model), PrunerSettings(reconstruction="full"))
    costs = flops_costs(checkpoint.encoder, sequence_length=17)
    network = pruner.prune(Budget("flops", 0.5), costs, 0.5)[-1].network
    weights = read_weights(tmp_path / "model", checkpoint.family)
    write_masked(checkpoint, network.plan, tmp_path / "masked", changed=full_size_tensors(checkpoint, weights, network))
    masked = type(model).from_pretrained(tmp_path / "masked").eval()
    inputs = example_inputs(model)
    expected = torch_outputs(masked, checkpoint.encoder, inputs)
    found = load_checkpoint(tmp_path / "masked")
    slim = operate_on(found).slim
    assert costs.total(counts_of(slim)) <= 0.5 * costs.dense
    assert largest_difference(expected, torch_outputs(slim_module(checkpoint, network.encoder), slim, inputs)) < 1e-4
    assert largest_difference(expected, onnx_outputs(slim, inputs, tmp_path)) < 2e-5
    for layer, path in zip(network.encoder.layers, checkpoint.family.layer_paths(checkpoint.config), strict=True):
        kept = layer.attention.heads if isinstance(layer.attention, Attention) else ()
        gone = [head for head in range(4) if head not in kept]
        for row in checkpoint.family.own_scores.values():  # projections of removed heads are zeros, too
            tensor = masked.state_dict()[f"{path}.{row.name}"]
            assert not tensor.view(4, 6, -1)[gone].any()
            assert tensor.view(4, 6, -1)[list(kept)].any() or not kept


def test_what_a_tokenizer_returns_beside_the_inputs(tmp_path: Path) -> None:
    """optimum #491: "Invalid Feed Input Name: token_type_ids"; an unreadable tokenizer beside the model fails no export."""
    model = make_model(V2, "question-answering")
    folder = save(model, tmp_path / "model")
    (folder / "spm.model").write_bytes(b"no sentencepiece model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "DebertaV2Tokenizer"}))
    result = prune_export.export(folder, tmp_path / "out", target="cpu", samples=4)
    assert result.parity is not None
    assert result.parity.passed
    inputs = {name: value.numpy() for name, value in example_inputs(model).items()}
    session = prune_export.load_session(tmp_path / "out")
    more = session.run(inputs | {"token_type_ids": np.ones_like(inputs["input_ids"])})
    assert largest_difference(session.run(inputs), more) == 0


@pytest.mark.parametrize("case", [V1, V2], ids=str)
def test_a_fill_mask_head_that_transformers_would_invent(case: FamilyCase, tmp_path: Path) -> None:
    """Published checkpoints hold `lm_predictions`, and say nothing of `legacy`, which is then true."""
    folder = save(make_model(case, "fill-mask"), tmp_path / "model")
    stored = load_file(folder / "model.safetensors")
    renamed = {
        name.replace("cls.predictions.transform", "lm_predictions.lm_head").replace(
            "cls.predictions", "lm_predictions.lm_head"
        ): value
        for name, value in stored.items()
    }
    (folder / "model.safetensors").unlink()
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(prune_export.CheckpointError, match=r"cls\.predictions.*the task 'fill-mask' needs it"):
        load_checkpoint(folder)
