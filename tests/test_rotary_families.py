"""NomicBERT, GTE and Jina v3: names in files and in memory, configurations of other code, and exactness at every length."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import prune_export
from exporters.encoder import Attention, Encoder, FeedForward, Gated, Layer, Rotary
from exporters.errors import CheckpointError, PruneExportError, UnsupportedError, WeightsError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.facts.plan import LayerPlan, Plan
from prune_export.families import FAMILIES
from prune_export.families.rotation import rotary_frequencies
from prune_export.slim_model.model import slim_module
from prune_export.training.methods.student import write_student
from tests.comparing import FORMS, LIMITS, largest_difference, onnx_outputs, torch_outputs
from tests.models import ALL_CASES, FAMILY_CASES, FamilyCase, example_inputs, linear, make_model, padded_inputs, save

NAMES = ("nomic_bert", "gte", "jina_embeddings_v3")
CASES = [case for case in FAMILY_CASES if case.model_type in NAMES]
NOMIC, GTE, JINA, EUROBERT = (
    next(case for case in ALL_CASES if case.model_type == name) for name in (*NAMES, "eurobert")
)
LENGTHS = (1, 2, 65, 66, 67, 127, 128, 129, 130, 300, 513)
every_case = pytest.mark.parametrize("case", CASES, ids=str)
five = pytest.mark.skipif(not CASES, reason="this version of transformers has none of these families")


def change(folder: Path, **keys: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))
    return folder


def renamed(folder: Path, name: Callable[[str], str]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    save_file({name(old): value for old, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


# --- exactness --------------------------------------------------------------------------------------------------------


def holed(case: FamilyCase, **changes: Any) -> Any:
    """Lost pairs, a lost head, lost columns, and a layer without attention."""
    sizes = {"hidden_size": 36, "num_attention_heads": 3, "max_position_embeddings": 520}
    model = make_model(case, case.task, num_hidden_layers=4, **sizes, **changes)
    with torch.no_grad():
        for parameter in getattr(model, FAMILIES[case.model_type].prefix).layers.parameters():
            parameter.mul_(0.6 if parameter.ndim > 1 else 1.0)  # otherwise products of products multiply roundings
        for name, pairs in (("query", (0, 6, 13, 19)), ("key", (5, 11, 12, 18))):
            part = linear(model, case, 1, name)  # pair 0 of head 0, 1 of head 1; pair 5 of head 0, 0 of head 1
            part.weight[list(pairs)] = 0
            part.bias[list(pairs)] = 0
        linear(model, case, 0, "value").weight[12:24] = 0
        linear(model, case, 2, "attention_output").weight.zero_()
        linear(model, case, 0, "down").weight[:, 3] = 0
        linear(model, case, 0, "up").weight[5] = 0  # with a bias it is a constant, which a gate multiplies
    return model


@pytest.fixture(scope="module", params=CASES, ids=str)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[FamilyCase, Any, Path]:
    model = holed(request.param)
    return request.param, model, save(model, tmp_path_factory.mktemp("model") / "model")


@five
def test_surgery_finds_what_may_go(network: tuple[FamilyCase, Any, Path]) -> None:
    case, _, folder = network
    slim = prune_export.inspect(folder).slim
    blocks = [layer.attention for layer in slim.layers]
    shapes = [(len(block.heads), block.query_key_size) if isinstance(block, Attention) else None for block in blocks]
    assert shapes == [(2, 12), (3, 12), None, (3, 12)]  # the third head of layer 1 needs all of its pairs
    first = slim.layers[0].feed_forward
    assert isinstance(first, FeedForward)
    assert first.columns == 18
    assert isinstance(first.gating, Gated) == (case is not JINA)
    for block in (blocks[0], blocks[1]):
        assert isinstance(block, Attention)
        assert isinstance(block.scores, Rotary)
        assert (block.key_bias is None) == (case is NOMIC)


@five
@pytest.mark.parametrize("length", LENGTHS)
def test_long_and_padded_sequences_are_exact(
    length: int, network: tuple[FamilyCase, Any, Path], tmp_path: Path
) -> None:
    """Against the untouched model, padding included."""
    case, model, folder = network
    found = prune_export.inspect(folder)
    inputs = padded_inputs(model, length)
    expected = torch_outputs(model, found.slim, inputs)
    slim = slim_module(found.checkpoint, found.slim)
    assert largest_difference(expected, torch_outputs(slim, found.slim, inputs)) < 2e-5
    for target in ("cpu", "portable", "cuda") if length < 300 else ("cpu",):
        assert largest_difference(expected, onnx_outputs(found.slim, inputs, tmp_path, target=target)) < 2e-5, target
    if length in (130, 513):
        for name, wrong in wrongs(case).items():
            changed = onnx_outputs(wrong(found.slim), inputs, tmp_path)
            assert largest_difference(expected, changed) > 1e-2, name


def with_layers(encoder: Encoder, change: Callable[[Layer], Layer]) -> Encoder:
    return replace(encoder, layers=tuple(map(change, encoder.layers)))


def with_attention(change: Callable[[Attention], Attention]) -> Callable[[Encoder], Encoder]:
    def of_layer(layer: Layer) -> Layer:
        block = layer.attention
        return replace(layer, attention=change(block)) if isinstance(block, Attention) else layer

    return lambda encoder: with_layers(encoder, of_layer)


def with_theta(block: Attention) -> Attention:
    return replace(block, scores=replace(block.scores, frequencies=rotary_frequencies(10000.0, 12)))  # type: ignore[call-arg]


def swapped_gates(encoder: Encoder) -> Encoder:
    def of_layer(layer: Layer) -> Layer:
        block = layer.feed_forward
        assert isinstance(block, FeedForward)
        assert isinstance(block.gating, Gated)
        gating = replace(block.gating, gate=block.up)
        return replace(layer, feed_forward=replace(block, up=block.gating.gate, gating=gating))

    return with_layers(encoder, of_layer)


def without_types(encoder: Encoder) -> Encoder:
    return replace(encoder, embeddings=replace(encoder.embeddings, token_type=None))


def wrongs(case: FamilyCase) -> dict[str, Callable[[Encoder], Encoder]]:
    """What has to show in the answers."""
    found: dict[str, Callable[[Encoder], Encoder]] = {"theta": with_attention(with_theta), "types": without_types}
    if case is not JINA:
        found["gates"] = swapped_gates
    if case is not NOMIC:
        found["key bias"] = with_attention(lambda block: replace(block, key_bias=None))
    return found


@five
@pytest.mark.parametrize(("target", "dtype"), FORMS)
def test_every_form_computes_the_same(
    target: str, dtype: str, network: tuple[FamilyCase, Any, Path], tmp_path: Path
) -> None:
    case, model, folder = network
    slim, inputs = prune_export.inspect(folder).slim, padded_inputs(model, 40)
    expected = torch_outputs(model, slim, inputs)
    found = onnx_outputs(slim, inputs, tmp_path, target=target, dtype=dtype)
    limit = case.int8 if dtype == "int8" else LIMITS[dtype]
    assert largest_difference(expected, found) < limit


@five
def test_slim_files_keep_what_is_left(network: tuple[FamilyCase, Any, Path], tmp_path: Path) -> None:
    case, model, folder = network
    slim = prune_export.slim(folder)
    slim.save_pretrained(tmp_path / "slim")
    inputs = padded_inputs(model, 40)
    again = load_checkpoint(tmp_path / "slim")
    expected = torch_outputs(model, again.encoder, inputs)
    assert largest_difference(expected, torch_outputs(load_reference_model(again), again.encoder, inputs)) < 2e-5
    if case is NOMIC:
        return
    tensors = load_file(tmp_path / "slim" / "slim.safetensors")
    name = next(name for name in tensors if name.endswith("attention.key_bias"))
    del tensors[name]
    save_file(tensors, tmp_path / "slim" / "slim.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=name):
        load_checkpoint(tmp_path / "slim")


# --- names ------------------------------------------------------------------------------------------------------------


@every_case
def test_files_have_other_names_than_classes(case: FamilyCase, tmp_path: Path) -> None:
    """transformers writes the published names; the classes' own are read as well, and nothing is said to be renamed."""
    model = make_model(case, case.task)
    folder = save(model, tmp_path / "model")
    published = set(load_file(folder / "model.safetensors"))
    family = FAMILIES[case.model_type]
    assert published.isdisjoint(name for name in model.state_dict() if ".layers." in name)
    assert {each for name in published for each in family.names_in_memory(name)} == set(model.state_dict())
    assert all(family.names_in_memory(name) == (name,) for name in model.state_dict())
    inputs = example_inputs(model)
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text((folder / "config.json").read_text())
    save_file(model.state_dict(), own / "model.safetensors", {"format": "pt"})
    for place in (folder, own):
        found = prune_export.inspect(place)
        assert found.checkpoint.notes == ()
        expected = torch_outputs(model, found.slim, inputs)
        oracle = load_reference_model(found.checkpoint)
        assert largest_difference(expected, torch_outputs(oracle, found.slim, inputs)) == 0.0
        assert largest_difference(expected, onnx_outputs(found.slim, inputs, tmp_path)) < 1e-5


@every_case
def test_base_models_are_saved_without_a_prefix(case: FamilyCase, tmp_path: Path) -> None:
    model = make_model(case, "feature-extraction")
    folder = save(model, tmp_path / "model")
    assert "embeddings.word_embeddings.weight" in load_file(folder / "model.safetensors")
    found = prune_export.inspect(folder)
    inputs = example_inputs(model)
    expected = torch_outputs(model, found.slim, inputs)
    assert largest_difference(expected, onnx_outputs(found.slim, inputs, tmp_path)) < 1e-5


@five
def test_the_older_prefix_of_gte(tmp_path: Path) -> None:
    model = make_model(GTE, "token-classification")
    folder = renamed(save(model, tmp_path / "model"), lambda name: name.replace("gte.", "new."))
    found = prune_export.inspect(folder)
    inputs = example_inputs(model)
    expected = torch_outputs(model, found.slim, inputs)
    assert largest_difference(expected, torch_outputs(load_reference_model(found.checkpoint), found.slim, inputs)) == 0
    assert largest_difference(expected, onnx_outputs(found.slim, inputs, tmp_path)) < 1e-5


@five
def test_a_network_without_token_types(tmp_path: Path) -> None:
    """As gte-base-en-v1.5."""
    model = make_model(GTE, "token-classification", type_vocab_size=0)
    found = prune_export.inspect(save(model, tmp_path / "model"))
    assert found.slim.inputs == ("input_ids", "attention_mask")
    inputs = example_inputs(model)
    expected = torch_outputs(model, found.slim, inputs)
    assert largest_difference(expected, onnx_outputs(found.slim, inputs, tmp_path)) < 1e-5


@five
def test_names_that_mean_the_same_tensor_are_refused(tmp_path: Path) -> None:
    folder = save(make_model(NOMIC, "token-classification"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    both = tensors | {"nomic_bert.layers.1.self_attn.k_proj.weight": torch.zeros(24, 24)}
    save_file(both, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"two names of one"):
        load_checkpoint(folder)
    tensors["nomic_bert.encoder.layers.1.attn.Wqkv.weight"] = torch.zeros(71, 24)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"'nomic_bert\.layers\.1\.self_attn\.q_proj\.weight' is missing"):
        load_checkpoint(folder)


@every_case
def test_masked_checkpoints_load_in_transformers(case: FamilyCase, tmp_path: Path) -> None:
    model = make_model(case, "text-classification")
    folder = save(model, tmp_path / "model")
    plan = Plan(tuple(LayerPlan((0, 2), tuple(range(9)), {}, {}) for _ in range(3)))
    write_masked(load_checkpoint(folder), plan, tmp_path / "masked")
    masked = type(model).from_pretrained(tmp_path / "masked")
    found = prune_export.inspect(tmp_path / "masked")
    assert found.summary.layers[0].after.heads == 2
    inputs = example_inputs(model)
    expected = torch_outputs(masked.eval(), found.slim, inputs)
    assert largest_difference(expected, onnx_outputs(found.slim, inputs, tmp_path)) < 1e-5
    assert largest_difference(expected, torch_outputs(model, found.slim, inputs)) > 1e-2
    again = save(masked, tmp_path / "again")  # under the published names
    assert largest_difference(expected, onnx_outputs(prune_export.inspect(again).slim, inputs, tmp_path)) < 1e-5


# --- configurations ---------------------------------------------------------------------------------------------------

ROPE = {"rope_theta": 1000.0, "rope_type": "default"}
REFUSED: list[tuple[FamilyCase, dict[str, Any], str]] = [
    (NOMIC, {"n_layer": 12}, r"n_layer is 12, .* num_hidden_layers, which it reads, is 3"),
    (NOMIC, {"n_embd": 768}, r"n_embd is 768, .* hidden_size, which it reads, is 24"),
    (NOMIC, {"layer_norm_epsilon": 1e-5}, "make both say the same"),
    (NOMIC, {"rotary_emb_base": 10000}, r"rotary_emb_base is 10000, .* rope_theta"),
    (NOMIC, {"num_experts": 8}, "num_experts is 8"),
    (NOMIC, {"moe_every_n_layers": 2}, "moe_every_n_layers is 2"),
    (NOMIC, {"prenorm": True}, "prenorm is True"),
    (NOMIC, {"activation_function": "gelu"}, "activation_function is gelu"),
    (NOMIC, {"rotary_emb_fraction": 0.5}, r"rotary_emb_fraction is 0\.5"),
    (NOMIC, {"type_vocab_size": 0}, "expected 1 or more token types; found type_vocab_size 0"),
    (JINA, {"type_vocab_size": 0}, "expected 1 or more token types; found type_vocab_size 0"),
    (NOMIC, {"rope_parameters": ROPE | {"rope_theta": 0}}, "rope_theta is 0; expected a number above 0"),
    (GTE, {"rope_parameters": ROPE | {"rope_theta": -1000.0}}, "expected a number above 0"),
    (JINA, {"rope_parameters": ROPE | {"rope_theta": 1e-300}}, "expected a number above 0"),
    (GTE, {"rope_parameters": ROPE | {"rope_theta": "1000"}}, "rope_theta is '1000'"),
    (GTE, {"head_dim": None}, "head_dim None"),
    (JINA, {"head_dim": 6.0}, r"head_dim 6\.0"),
    (NOMIC, {"head_dim": 8}, "expected an even head size"),
    (GTE, {"rope_parameters": ROPE | {"rope_type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
    (JINA, {"rope_parameters": ROPE | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    (JINA, {"hidden_size": 20}, "expected an even head size"),
]


@five
@pytest.mark.parametrize(("case", "changes", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_config_json_may_not_say(case: FamilyCase, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = change(save(make_model(case, case.task), tmp_path / "model"), **changes)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(folder)


@five
def test_names_of_other_code_that_say_the_same(tmp_path: Path) -> None:
    folder = save(make_model(NOMIC, "token-classification"), tmp_path / "model")
    same = {"n_layer": 3, "n_embd": 24, "n_inner": 20, "n_head": 4, "rotary_emb_base": 1000, "n_positions": 8192}
    change(folder, **same, activation_function="swiglu", prenorm=False, qkv_proj_bias=False, num_experts=0)
    assert len(load_checkpoint(folder).encoder.layers) == 3


@every_case
@pytest.mark.parametrize("kind", ["rope", "rotary"])
def test_a_key_that_the_classes_pass_over(case: FamilyCase, kind: str, tmp_path: Path) -> None:
    """The configurations of the code that came with GTE and Jina v3 hold it."""
    model = make_model(case, case.task)
    folder = change(save(model, tmp_path / "model"), position_embedding_type=kind)
    found = prune_export.inspect(folder)
    inputs = example_inputs(model)
    expected = torch_outputs(load_reference_model(found.checkpoint), found.slim, inputs)
    assert largest_difference(expected, onnx_outputs(found.slim, inputs, tmp_path)) < 1e-5


@five
def test_a_student_of_a_configuration_with_both_names(tmp_path: Path) -> None:
    folder = change(save(make_model(NOMIC, "token-classification"), tmp_path / "model"), n_layer=3)
    write_student(load_checkpoint(folder), (0, 2), tmp_path / "student")
    assert len(load_checkpoint(tmp_path / "student").encoder.layers) == 2


@every_case
def test_a_decoder_that_is_not_what_it_is_tied_to(case: FamilyCase, tmp_path: Path) -> None:
    """transformers 5 unties it then; version 4 reads over it."""
    model = make_model(case, "fill-mask")
    folder = save(model, tmp_path / "model")
    tensors, table = load_file(folder / "model.safetensors"), FAMILIES[case.model_type].heads["fill-mask"]
    weight, bias = table["decoder.weight"].name, table["decoder.bias"].name
    word = next(value for name, value in tensors.items() if name.endswith("word_embeddings.weight"))
    for value, fits in ((word.clone(), True), (word + 1, False)):
        save_file(tensors | {weight: value}, folder / "model.safetensors", {"format": "pt"})
        if fits:
            load_checkpoint(folder)
        else:
            with pytest.raises(UnsupportedError, match=f"'{weight}' is not what it would be tied to"):
                load_checkpoint(folder)
    own = weight.replace(".weight", ".bias")
    if own != bias:
        moved = {own if name == bias else name: value for name, value in tensors.items()}
        save_file(moved, folder / "model.safetensors", {"format": "pt"})
        found = prune_export.inspect(folder)
        inputs = example_inputs(model)
        expected = torch_outputs(model, found.slim, inputs)
        assert largest_difference(expected, onnx_outputs(found.slim, inputs, tmp_path)) < 1e-5
        save_file(tensors | {own: tensors[bias] + 1}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UnsupportedError, match=f"'{own}' is not what it would be tied to"):
            load_checkpoint(folder)


@five
@pytest.mark.parametrize("case", [NOMIC, GTE], ids=str)
def test_a_task_that_transformers_does_not_have(case: FamilyCase, tmp_path: Path) -> None:
    folder = save(make_model(case, "token-classification"), tmp_path / "model")
    with pytest.raises(UnsupportedError, match=f"transformers has no {case.model_type} for question-answering"):
        load_checkpoint(folder, task="question-answering")
    change(folder, architectures=["SomethingElse"])
    with pytest.raises(CheckpointError, match="give --task, one of text-classification") as refusal:
        load_checkpoint(folder)
    assert "question-answering" not in str(refusal.value)


@pytest.mark.skipif(bool(CASES), reason="this version of transformers has these families")
@pytest.mark.parametrize("case", [NOMIC, GTE, JINA, EUROBERT], ids=str)
def test_an_older_transformers_refuses_in_a_line(case: FamilyCase, tmp_path: Path) -> None:
    config = {"model_type": case.model_type, **case.arguments}
    (tmp_path / "config.json").write_text(json.dumps(config))
    message = f"a network of the type {case.model_type}, which transformers {transformers.__version__} does not have"
    with pytest.raises(PruneExportError, match=message):
        load_checkpoint(tmp_path)
