"""DeBERTa, whole networks of every kind of scores: surgery, long and padded sequences, slim checkpoints, pruning, parity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import prune_export
from exporters.cost import layer_shape
from exporters.distances import Distances, normalized_embeddings
from exporters.encoder import Attention, ConstantBlock, Encoder, map_layers
from prune_export.checkpoint.inspection import operate_on
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.weights import read_weights
from prune_export.families.describe import describe
from prune_export.families.state_dict import state_dict
from prune_export.pruning.budget import Budget
from prune_export.pruning.costs import counts_of, flops_costs
from prune_export.pruning.pruned_network import full_size_tensors
from prune_export.pruning.pruner import Pruner, PrunerSettings
from prune_export.pruning.reconstruction.forward import attention_update, feed_forward_update, normalized
from prune_export.slim_model.model import slim_module
from prune_export.surgeon.zeros import scoring_dimensions
from tests.comparing import FORMS, LIMITS, largest_difference, onnx_outputs, torch_outputs
from tests.deberta import KINDS, V1, V2, every_kind, name_of
from tests.models import FamilyCase, example_inputs, linear, make_model, padded_inputs, save
from tests.test_pruning import calibration

LENGTHS = (1, 2, 65, 66, 67, 127, 128, 129, 130, 300, 513)


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
