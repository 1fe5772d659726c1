"""EuroBERT: RMSNorm before blocks, no norm after the embeddings, poolings, a decoder alone, and configurations."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import prune_export
from exporters.encoder import Attention, Encoder, FeedForward, Gated, Layer, MaskedLanguageHead, Norm
from exporters.errors import UnsupportedError, WeightsError
from exporters.onnx.writer import quantizable_maps
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.checkpoint.weights import read_weights
from prune_export.families.rotation import rotary_frequencies
from prune_export.pruning.budget import Budget
from prune_export.pruning.costs import counts_of, flops_costs
from prune_export.pruning.pruned_network import full_size_tensors
from prune_export.pruning.pruner import Pruner, PrunerSettings
from prune_export.slim_model.model import slim_module
from tests.comparing import FORMS, LIMITS, largest_difference, onnx_outputs, torch_outputs
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, make_model, padded_inputs, save
from tests.test_pruning import calibration
from tests.test_rotary_families import LENGTHS, change, holed

CASES = [case for case in FAMILY_CASES if case.model_type == "eurobert"]
BIASES = {"attention_bias": True, "mlp_bias": True}

pytestmark = pytest.mark.skipif(not CASES, reason="this version of transformers has no EuroBERT")


@pytest.fixture
def case() -> FamilyCase:
    return CASES[0]


# --- exactness --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[{}, BIASES], ids=["plain", "biases"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model = holed(CASES[0], **request.param)
    return model, save(model, tmp_path_factory.mktemp("model") / "model")


def test_surgery_finds_what_may_go(network: tuple[Any, Path]) -> None:
    model, folder = network
    slim = prune_export.inspect(folder).slim
    blocks = [layer.attention for layer in slim.layers]
    shapes = [(len(block.heads), block.query_key_size) if isinstance(block, Attention) else None for block in blocks]
    assert shapes == [(2, 12), (3, 12), None, (3, 12)]  # the third head of layer 1 needs all of its pairs
    first = slim.layers[0].feed_forward
    assert isinstance(first, FeedForward)
    assert first.columns == (19 if model.config.mlp_bias else 18)
    assert slim.embeddings.norm is None


@pytest.mark.parametrize("length", LENGTHS)
def test_long_and_padded_sequences_are_exact(length: int, network: tuple[Any, Path], tmp_path: Path) -> None:
    """Against the untouched model, padding included."""
    model, folder = network
    found = prune_export.inspect(folder)
    inputs = padded_inputs(model, length)
    expected = torch_outputs(model, found.slim, inputs)
    slim = slim_module(found.checkpoint, found.slim)
    assert largest_difference(expected, torch_outputs(slim, found.slim, inputs)) < 2e-5
    for target in ("cpu", "portable", "cuda") if length < 300 else ("cpu",):
        assert largest_difference(expected, onnx_outputs(found.slim, inputs, tmp_path, target=target)) < 2e-5, target
    if length in (130, 513):
        for name, wrong in WRONGS.items():
            changed = onnx_outputs(wrong(found.slim), inputs, tmp_path)
            assert largest_difference(expected, changed) > 1e-2, name


def with_layers(change: Callable[[Layer], Layer]) -> Callable[[Encoder], Encoder]:
    return lambda encoder: replace(encoder, layers=tuple(map(change, encoder.layers)))


def with_theta(layer: Layer) -> Layer:
    block = layer.attention
    if not isinstance(block, Attention):
        return layer
    scores = replace(block.scores, frequencies=rotary_frequencies(500.0, 12))  # type: ignore[call-arg]
    return replace(layer, attention=replace(block, scores=scores))


def with_swapped_gate(layer: Layer) -> Layer:
    block = layer.feed_forward
    assert isinstance(block, FeedForward)
    assert isinstance(block.gating, Gated)
    return replace(
        layer, feed_forward=replace(block, up=block.gating.gate, gating=replace(block.gating, gate=block.up))
    )


def with_mean_subtracted(layer: Layer) -> Layer:
    norm = layer.feed_forward_input_norm
    assert norm is not None
    return replace(layer, feed_forward_input_norm=replace(norm, centered=True))


def with_normalized_embeddings(encoder: Encoder) -> Encoder:
    norm = Norm(torch.ones(encoder.hidden_size), None, 1e-5, centered=False)
    return replace(encoder, embeddings=replace(encoder.embeddings, norm=norm))


# What has to show in the answers.
WRONGS: dict[str, Callable[[Encoder], Encoder]] = {
    "theta": with_layers(with_theta),
    "gate": with_layers(with_swapped_gate),
    "mean": with_layers(with_mean_subtracted),
    "embeddings": with_normalized_embeddings,
}


@pytest.mark.parametrize(("target", "dtype"), FORMS)
def test_every_form_computes_the_same(
    target: str, dtype: str, network: tuple[Any, Path], case: FamilyCase, tmp_path: Path
) -> None:
    model, folder = network
    slim, inputs = prune_export.inspect(folder).slim, padded_inputs(model, 40)
    expected = torch_outputs(model, slim, inputs)
    found = onnx_outputs(slim, inputs, tmp_path, target=target, dtype=dtype)
    assert largest_difference(expected, found) < (case.int8 if dtype == "int8" else LIMITS[dtype])


def test_slim_files_keep_what_is_left(network: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = network
    prune_export.slim(folder).save_pretrained(tmp_path / "slim")
    inputs = padded_inputs(model, 40)
    again = load_checkpoint(tmp_path / "slim")
    expected = torch_outputs(model, again.encoder, inputs)
    assert largest_difference(expected, torch_outputs(load_reference_model(again), again.encoder, inputs)) < 2e-5
    tensors = load_file(tmp_path / "slim" / "slim.safetensors")
    assert not any(name.startswith("embeddings.norm") for name in tensors)
    for name in ("layers.1.attention_input_norm.weight", "final_norm.weight"):
        save_file(
            {key: value for key, value in tensors.items() if key != name},
            tmp_path / "slim" / "slim.safetensors",
            {"format": "pt"},
        )
        with pytest.raises(WeightsError, match=name):
            load_checkpoint(tmp_path / "slim")


def test_pruning_without_training_is_written_at_full_size(case: FamilyCase, tmp_path: Path) -> None:
    """Scores, selection and the full reconstruction; the Hugging Face model of the masked checkpoint computes the same."""
    model = make_model(case, "text-classification", **BIASES)
    checkpoint = load_checkpoint(save(model, tmp_path / "model"))
    pruner = Pruner(checkpoint, calibration(model), PrunerSettings(reconstruction="full"))
    costs = flops_costs(checkpoint.encoder, sequence_length=17)
    network = pruner.prune(Budget("flops", 0.5), costs, 0.5)[-1].network
    weights = read_weights(tmp_path / "model", checkpoint.family)
    write_masked(checkpoint, network.plan, tmp_path / "masked", changed=full_size_tensors(checkpoint, weights, network))
    masked, inputs = type(model).from_pretrained(tmp_path / "masked").eval(), example_inputs(model)
    expected = torch_outputs(masked, checkpoint.encoder, inputs)
    slim = operate(tmp_path / "masked")
    assert costs.total(counts_of(slim)) <= 0.5 * costs.dense
    assert largest_difference(expected, torch_outputs(slim_module(checkpoint, network.encoder), slim, inputs)) < 1e-4
    assert largest_difference(expected, onnx_outputs(slim, inputs, tmp_path)) < 2e-5


def operate(folder: Path) -> Encoder:
    return prune_export.inspect(folder).slim


# --- task heads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["bos", "mean", "late"])
def test_poolings(pooling: str, case: FamilyCase, tmp_path: Path) -> None:
    """The mean after the activation is not the mean before it, and padding counts in neither."""
    model = make_model(case, "text-classification", classifier_pooling=pooling)
    checkpoint = load_checkpoint(save(model, tmp_path / "model"))
    slim, inputs = checkpoint.encoder, example_inputs(model)
    expected = torch_outputs(model, slim, inputs)
    assert largest_difference(expected, torch_outputs(slim_module(checkpoint, slim), slim, inputs)) < 1e-5
    for target, dtype in FORMS:
        found = onnx_outputs(slim, inputs, tmp_path, target=target, dtype=dtype)
        limit = case.int8 if dtype == "int8" else max(1e-5, LIMITS[dtype] if dtype != "fp32" else 0)
        assert largest_difference(expected, found) < limit, (target, dtype)
    for other in {"first", "mean", "late"} - {slim.head.pooling}:  # type: ignore[union-attr]
        changed = replace(slim, head=replace(slim.head, pooling=other))  # type: ignore[call-arg]
        assert largest_difference(expected, onnx_outputs(changed, inputs, tmp_path)) > 1e-2


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("biases", [{}, BIASES], ids=["plain", "biases"])
def test_the_decoder_stands_alone(tied: bool, biases: dict[str, bool], case: FamilyCase, tmp_path: Path) -> None:
    model = make_model(case, "fill-mask", tie_word_embeddings=tied, **biases)
    folder = save(model, tmp_path / "model")
    checkpoint = load_checkpoint(folder)
    slim, inputs = checkpoint.encoder, example_inputs(model)
    assert isinstance(slim.head, MaskedLanguageHead)
    assert slim.head.transform is None
    assert (slim.head.decoder.bias is not None) == bool(biases)
    assert (slim.head.decoder.weight is slim.embeddings.word) == tied
    assert [name for name in quantizable_maps(slim) if name.startswith("head/")] == ["head/decoder"]
    expected = torch_outputs(model, slim, inputs)
    for target, dtype in FORMS:
        found = onnx_outputs(slim, inputs, tmp_path, target=target, dtype=dtype)
        assert largest_difference(expected, found) < (case.int8 if dtype == "int8" else LIMITS[dtype]), (target, dtype)
    prune_export.slim(folder).save_pretrained(tmp_path / "slim")
    again = load_checkpoint(tmp_path / "slim")
    assert largest_difference(expected, torch_outputs(load_reference_model(again), again.encoder, inputs)) < 1e-5
    if not tied:
        tensors = load_file(tmp_path / "slim" / "slim.safetensors")
        del tensors["head.decoder.weight"]
        save_file(tensors, tmp_path / "slim" / "slim.safetensors", {"format": "pt"})
        with pytest.raises(WeightsError, match=r"head\.decoder\.weight"):
            load_checkpoint(tmp_path / "slim")


# --- configurations ---------------------------------------------------------------------------------------------------

ROPE = {"rope_theta": 1000.0, "rope_type": "default"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_key_value_heads": 2}, r"num_key_value_heads is 2; expected as many as num_attention_heads, 4"),
    ({"clf_pooling": "mean"}, r"clf_pooling is mean, .* classifier_pooling, which it reads, is late"),
    ({"classifier_pooling": "max"}, r"classifier_pooling is 'max'; expected one of bos, mean, late"),
    ({"head_dim": 8}, "expected an even head size"),
    ({"rope_parameters": ROPE | {"rope_type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
    ({"rope_parameters": ROPE | {"rope_theta": 0}}, "rope_theta is 0; expected a number above 0"),
    ({"hidden_act": "mish"}, "the activation 'mish' is not supported"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_config_json_may_not_say(changes: dict[str, Any], words: str, case: FamilyCase, tmp_path: Path) -> None:
    folder = change(save(make_model(case, "text-classification"), tmp_path / "model"), **changes)
    with pytest.raises(UnsupportedError, match=words) as refusal:
        load_checkpoint(folder)
    assert "\n" not in str(refusal.value)


def test_the_published_form_of_a_configuration(case: FamilyCase, tmp_path: Path) -> None:
    """With keys of the code that came with the model, and the base of frequencies at the top level."""
    model = make_model(case, "text-classification", rope_parameters=ROPE)
    folder = save(model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"], config["classifier_pooling"]
    published = {"rope_theta": 1000.0, "rope_scaling": None, "clf_pooling": "late", "hidden_dropout": 0.0}
    (folder / "config.json").write_text(json.dumps(config | published))
    found = prune_export.inspect(folder)
    inputs = example_inputs(model)
    expected = torch_outputs(model, found.slim, inputs)
    assert largest_difference(expected, onnx_outputs(found.slim, inputs, tmp_path)) < 1e-5


def test_an_export_is_proved(case: FamilyCase, tmp_path: Path) -> None:
    folder = save(make_model(case, "text-classification"), tmp_path / "model")
    for target, dtype in (("cpu", "fp32"), ("portable", "fp16"), ("cpu", "int8")):
        result = prune_export.export(folder, tmp_path / f"{target}-{dtype}", target=target, dtype=dtype, samples=8)
        assert result.parity is not None
        assert result.parity.passed
