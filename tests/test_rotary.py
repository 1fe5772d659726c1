"""Rotary scores with windows: surgery against complex numbers, long sequences against transformers, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import prune_export
from exporters.encoder import Attention, ConstantBlock, Encoder, Gated, Layer, Rotary, map_layers
from exporters.errors import SurgeryError, WriteError
from exporters.onnx.alignment import align
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.rotary import pad_pairs, pairs_of, restore_pairs
from prune_export.checkpoint.inspection import operate_on
from prune_export.checkpoint.load import load_checkpoint
from prune_export.families.modernbert import layer_type, rope_theta
from prune_export.families.rotation import rotary_frequencies
from prune_export.families.state_dict import state_dict
from prune_export.parity.inputs import cases
from prune_export.slim_model.model import slim_module
from prune_export.surgeon.biases import drop_key_bias, fold_value_bias
from prune_export.surgeon.head_dimensions import remove_query_key_dimensions
from prune_export.surgeon.operation import operate
from prune_export.surgeon.pairs import remove_pairs
from prune_export.surgeon.zeros import scoring_dimensions
from tests.comparing import FORMS, LIMITS, largest_difference, onnx_outputs
from tests.models import FAMILY_CASES, example_inputs, make_model, padded_inputs, save
from tests.test_formulas_surgeon import block

MODERNBERT = next(case for case in FAMILY_CASES if case.model_type == "modernbert")
LENGTHS = (1, 2, 65, 66, 67, 127, 128, 129, 130, 300, 513)
X = torch.randn(9, 8, generator=torch.Generator().manual_seed(1))


def rotary(window: int | None = 3) -> Attention:
    frequencies = torch.tensor([1.3, 0.7, 0.2])
    return replace(block(size=6), heads=(0, 2, 3, 5), scores=Rotary(0.5, frequencies, window))


def attend(one: Attention, x: Tensor) -> np.ndarray:
    """What the block adds for `x` `[sequence, hidden]`, pair by pair as complex numbers."""
    assert isinstance(one.scores, Rotary)
    inputs, scores, frequencies = x.double().numpy(), one.scores, one.scores.frequencies.double().numpy()
    total = np.zeros((len(x), one.output_weight.shape[0]))
    if one.output_bias is not None:
        total += one.output_bias.double().numpy()
    for place, pairs in enumerate(pairs_of(one)):

        def part(name: str, place: int = place) -> np.ndarray:
            bias = getattr(one, f"{name}_bias")
            rows = inputs @ getattr(one, f"{name}_weight")[place].double().numpy().T
            return np.asarray(rows if bias is None else rows + bias[place].double().numpy())

        query, key, value = part("query"), part("key"), part("value")
        half = len(pairs)
        q, k = query[:, :half] + 1j * query[:, half:], key[:, :half] + 1j * key[:, half:]
        for m in range(len(x)):
            seen = [n for n in range(len(x)) if scores.window is None or abs(m - n) <= scores.window]
            logits = np.array(
                [
                    scores.scale
                    * sum(
                        (q[m, i] * np.conj(k[n, i]) * np.exp(1j * (m - n) * frequencies[p])).real
                        for i, p in enumerate(pairs)
                    )
                    for n in seen
                ]
            )
            weights = np.exp(logits - logits.max())
            total[m] += one.output_weight[:, place].double().numpy() @ (weights / weights.sum() @ value[seen])
    return total


def with_dead_pairs(one: Attention) -> Attention:
    """Pair 0 of the first head has no key, pairs 1 and 2 of the second no query, and the third head has no pair."""
    for rows in (one.key_weight, one.key_bias):
        assert rows is not None
        rows[0, [0, 3]] = 0
    for rows in (one.query_weight, one.query_bias):
        assert rows is not None
        rows[1, [1, 4, 2, 5]] = 0
        rows[2] = 0
    return one


@pytest.mark.parametrize("window", [None, 3])
def test_pairs_without_query_or_key_go(window: int | None) -> None:
    one = with_dead_pairs(rotary(window))
    before = attend(one, X)
    scoring = scoring_dimensions(one)
    assert scoring.tolist() == [
        [False, True, True] * 2,
        [True, False, False] * 2,
        [False] * 6,
        [True] * 6,
    ]
    ready = fold_value_bias(one)
    np.testing.assert_allclose(attend(ready, X), before, atol=1e-5)
    assert remove_pairs(ready, {0: (1, 2, 4, 5)}) is ready  # other heads need all
    three = replace(ready, heads=(0, 2, 3))
    for name in ("query_weight", "query_bias", "key_weight", "key_bias", "value_weight"):
        three = replace(three, **{name: getattr(ready, name)[:3]})
    three = replace(three, output_weight=ready.output_weight[:, :3])
    smaller = remove_pairs(three, {0: (1, 2, 4, 5), 2: (0, 3), 3: ()})
    assert smaller.query_key_size == 4
    assert isinstance(smaller.scores, Rotary)
    assert smaller.scores.pairs is not None
    assert [pairs[:1] for pairs in smaller.scores.pairs[:2]] == [(1,), (0,)]
    np.testing.assert_allclose(attend(smaller, X), attend(three, X), atol=1e-5)
    back = restore_pairs(smaller)
    assert (back.query_key_size, back.scores.pairs) == (6, None)  # type: ignore[attr-defined]
    np.testing.assert_allclose(attend(back, X), attend(three, X), atol=1e-5)
    wrong = replace(smaller, scores=replace(smaller.scores, pairs=((0, 1),) * 3))
    assert np.abs(attend(wrong, X) - attend(three, X)).max() > 1e-2  # a pair's frequency is its index


def test_zeros_are_put_into_both_halves() -> None:
    one = rotary()
    for count in (4, 6):
        padded = pad_pairs(one, count)
        assert padded.query_key_size == 2 * count
        np.testing.assert_allclose(attend(padded, X), attend(one, X), atol=1e-6)
    appended = replace(one, scores=replace(one.scores, frequencies=torch.tensor([1.3, 0.7, 0.2, 0.1])))  # type: ignore[call-arg]
    for name in ("query_weight", "query_bias", "key_weight", "key_bias"):
        value = getattr(one, name)
        appended = replace(appended, **{name: torch.cat([value, torch.zeros_like(value[:, :2])], dim=1)})
    assert np.abs(attend(appended, X) - attend(one, X)).max() > 1e-2


def test_what_is_not_exact_is_refused() -> None:
    one = with_dead_pairs(rotary())
    with pytest.raises(SurgeryError, match="rotated together; expected both or none"):
        remove_pairs(one, {0: (1, 2, 3, 4, 5)})
    with pytest.raises(SurgeryError, match="the pair of query/key dimensions 1 and 4 has a query and a key"):
        remove_pairs(one, {0: (2, 5)})
    with pytest.raises(SurgeryError, match="remove_pairs is exact for Rotary; found DotProduct"):
        remove_pairs(block(), {0: (1,)})
    for rule in (drop_key_bias, lambda any_block: remove_query_key_dimensions(any_block, {0: (1, 2)})):
        with pytest.raises(SurgeryError, match="exact for ContentScores; found Rotary"):
            rule(one)
    assert np.abs(attend(replace(one, key_bias=None), X) - attend(one, X)).max() > 1e-2  # as it would change answers
    half = one.key_bias
    assert half is not None
    half[0, 0] = 0.5  # a key bias is a score that depends on the distance
    assert scoring_dimensions(one)[0, [0, 3]].all()


def test_frequencies_and_angles_are_those_of_transformers() -> None:
    model = make_model(MODERNBERT, "feature-extraction", hidden_size=64, num_attention_heads=4)
    for theta, kind in ((1000.0, "full_attention"), (10.0, "sliding_attention")):
        module = (
            model.rotary_emb if hasattr(model, "rotary_emb") else model.layers[kind != "full_attention"].attn.rotary_emb
        )
        frequencies = getattr(module, f"{kind}_inv_freq", None)
        expected = module.inv_freq if frequencies is None else frequencies
        assert torch.equal(rotary_frequencies(theta, 16), expected)
        assert rope_theta(model.config, kind) == theta
    assert [layer_type(model.config, index)[0] for index in range(4)] == ["f", "s", "s", "f"]


@pytest.fixture(scope="module")
def long_network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A window of 64 on either side; lost pairs, lost heads, a layer without attention."""
    sizes = {"hidden_size": 36, "num_attention_heads": 3, "max_position_embeddings": 520, "local_attention": 128}
    thetas = {"global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    model = make_model(MODERNBERT, "question-answering", num_hidden_layers=6, **sizes, **thetas)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.attn.Wqkv.weight.mul_(0.7)
        query, key = (model.model.layers[1].attn.Wqkv.weight[36 * part : 36 * part + 36] for part in range(2))
        query[[0, 6, 13, 19, 26, 32]] = 0  # pair 0 of head 0, 1 of head 1, 2 of head 2
        key[[5, 11, 12, 18]] = 0  # pair 5 of head 0, 0 of head 1
        model.model.layers[0].attn.Wqkv.weight[72 + 12 : 72 + 24] = 0  # the values of head 1
        model.model.layers[2].attn.Wqkv.weight[:36] = 0  # no head of layer 2 has a query
        model.model.layers[4].attn.Wo.weight.zero_()
    return model, save(model, tmp_path_factory.mktemp("modernbert") / "model")


def real(outputs: Any, slim: Encoder, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    kept = inputs["attention_mask"].bool().numpy()
    return {name: np.asarray(outputs[name])[kept] for name in slim.outputs}


@pytest.mark.parametrize("length", LENGTHS)
def test_long_and_padded_sequences_are_exact(length: int, long_network: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = long_network
    checkpoint = load_checkpoint(folder)
    slim = operate_on(checkpoint).slim
    shapes = [
        (len(layer.attention.heads), layer.attention.query_key_size) if isinstance(layer.attention, Attention) else None
        for layer in slim.layers
    ]
    assert shapes == [(2, 12), (3, 10), (3, 2), (3, 12), None, (3, 12)]
    inputs = padded_inputs(model, length)
    with torch.no_grad():
        expected = real(model(**inputs), slim, inputs)
        assert largest_difference(expected, real(slim_module(checkpoint, slim)(**inputs), slim, inputs)) < 2e-5
    for target in ("cpu", "portable", "cuda") if length < 300 else ("cpu",):
        found = real(onnx_outputs(slim, inputs, tmp_path, target=target), slim, inputs)
        assert largest_difference(expected, found) < 2e-5, target
    if length in (130, 513):
        for wrong in WRONG:
            changed = real(onnx_outputs(WRONG[wrong](slim), inputs, tmp_path), slim, inputs)
            assert largest_difference(expected, changed) > 1e-2, wrong


def with_layers(encoder: Encoder, change: Callable[[int, Layer], Layer]) -> Encoder:
    return map_layers(
        encoder, lambda index, layer: layer if isinstance(layer.attention, ConstantBlock) else change(index, layer)
    )


def with_scores(encoder: Encoder, change: Callable[[Rotary], Rotary]) -> Encoder:
    def changed(_: int, layer: Layer) -> Layer:
        assert isinstance(layer.attention, Attention)
        assert isinstance(layer.attention.scores, Rotary)
        return replace(layer, attention=replace(layer.attention, scores=change(layer.attention.scores)))

    return with_layers(encoder, changed)


def with_window(by: int) -> Callable[[Encoder], Encoder]:
    return lambda encoder: with_scores(
        encoder, lambda scores: replace(scores, window=None if scores.window is None else scores.window + by)
    )


def swapped_gates(encoder: Encoder) -> Encoder:
    def swapped(_: int, layer: Layer) -> Layer:
        block, gating = layer.feed_forward, layer.feed_forward.gating  # type: ignore[union-attr]
        return replace(layer, feed_forward=replace(block, up=gating.gate, gating=replace(gating, gate=block.up)))  # type: ignore[union-attr]

    return with_layers(encoder, swapped)


WRONG: dict[str, Callable[[Encoder], Encoder]] = {
    "window + 1": with_window(1),
    "window - 1": with_window(-1),
    "one theta for all layers": lambda encoder: with_scores(
        encoder, lambda scores: replace(scores, frequencies=rotary_frequencies(160000.0, 12))
    ),
    "gate and up swapped": swapped_gates,
    "no final norm": lambda encoder: replace(encoder, final_norm=None),
}


@pytest.mark.parametrize(("target", "dtype"), FORMS)
def test_a_window_full_of_padding_is_no_trouble(
    target: str, dtype: str, long_network: tuple[Any, Path], tmp_path: Path
) -> None:
    """A row of five tokens in a batch of 200: most of its queries see padding only."""
    model, folder = long_network
    slim = operate_on(load_checkpoint(folder)).slim
    inputs = padded_inputs(model, 200)
    with torch.no_grad():
        expected = real(model(**inputs), slim, inputs)
    found = onnx_outputs(slim, inputs, tmp_path, target=target, dtype=dtype)
    assert all(np.isfinite(value).all() for value in found.values())
    assert largest_difference(expected, real(found, slim, inputs)) < (2e-5 if dtype == "fp32" else 2 * LIMITS[dtype])


def test_lost_pairs_are_kept_on_disk_and_trained(long_network: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = long_network
    checkpoint = load_checkpoint(folder)
    network = slim_module(checkpoint, operate_on(checkpoint).slim)
    inputs = padded_inputs(model, 40)
    labels = {"start_positions": torch.tensor([1, 20, 2, 3]), "end_positions": torch.tensor([3, 30, 4, 4])}
    unpadded = inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])}
    network(**unpadded, **labels).loss.backward()
    model.zero_grad()
    model(**unpadded, **labels).loss.backward()
    found = network.layers[3].feed_forward.gate.weight.grad  # type: ignore[union-attr]
    reference = model.model.layers[3].mlp.Wi.weight.grad[: len(found)]  # type: ignore[arg-type]
    torch.testing.assert_close(found, reference, atol=1e-5, rtol=1e-3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    network.save_pretrained(tmp_path / "slim")
    again = prune_export.load_slim(tmp_path / "slim")
    with torch.no_grad():
        assert torch.equal(again(**inputs).start_logits, network(**inputs).start_logits)
        # As an ordinary model of full size it computes the same: no bias came into being, every pair is at its index.
        weights = state_dict(checkpoint.family, checkpoint.config, network.describe())
        other = make_model(MODERNBERT, "question-answering")
        other = type(model)(model.config).eval()
        assert other.load_state_dict(weights, strict=False) == ([], [])
        kept = inputs["attention_mask"].bool()
        torch.testing.assert_close(
            other(**inputs).start_logits[kept], network(**inputs).start_logits[kept], atol=5e-5, rtol=0
        )


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([[0, 1, 2, 3, 4]] * 2, "expected pairs of rotary scores"),  # three heads
        ([[0, 1, 2, 3, 3]] * 3, "expected pairs of rotary scores"),
        ([[0, 1, 2, 3, 6]] * 3, "expected pairs of rotary scores"),
        ([[0, 1, 2, 3, -1]] * 3, "expected pairs of rotary scores"),
        ([[0, 1, 2, 3, 4], [0, 1], [0, 1]], "expected pairs of rotary scores"),
        ([[0, 1, 2, 3]] * 3, "has shape"),
        (None, "has shape"),
        ("many", "pruning.json"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(
    pairs: Any, words: str, long_network: tuple[Any, Path], tmp_path: Path
) -> None:
    import json

    checkpoint = load_checkpoint(long_network[1])
    slim_module(checkpoint, operate_on(checkpoint).slim).save_pretrained(tmp_path)
    record = json.loads((tmp_path / "pruning.json").read_text())
    assert len(record["layers"][1]["pairs"]) == 3
    record["layers"][1]["pairs"] = pairs
    (tmp_path / "pruning.json").write_text(json.dumps(record))
    with pytest.raises(prune_export.CheckpointError, match=words):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("task", ["text-classification", "question-answering"])
def test_a_network_without_blocks(task: Any, tmp_path: Path) -> None:
    """Without a bias an emptied block before a norm leaves nothing behind, and neither does a whole layer."""
    model = make_model(MODERNBERT, task)
    with torch.no_grad():
        for index, layer in enumerate(model.model.layers):
            layer.attn.Wo.weight.zero_()
            if index:
                layer.mlp.Wo.weight.zero_()
    checkpoint = load_checkpoint(save(model, tmp_path / "model"))
    slim = operate_on(checkpoint).slim
    assert all(isinstance(layer.attention, ConstantBlock) for layer in slim.layers)
    graph = build(slim, TARGETS["cpu"], PRECISIONS["fp32"]).graph
    assert not any("layer_1" in node.name or "layer_3" in node.name for node in graph if node.name)
    inputs = example_inputs(model)
    with torch.no_grad():
        expected = {name: model(**inputs)[name].numpy() for name in slim.outputs}
    assert largest_difference(expected, onnx_outputs(slim, inputs, tmp_path)) < 1e-5
    full = type(model)(model.config).eval()
    assert full.load_state_dict(state_dict(checkpoint.family, checkpoint.config, slim), strict=False) == ([], [])
    with torch.no_grad():
        assert largest_difference(expected, {name: full(**inputs)[name].numpy() for name in slim.outputs}) < 1e-5


def test_alignment_keeps_the_answers(long_network: tuple[Any, Path], tmp_path: Path) -> None:
    slim = operate_on(load_checkpoint(long_network[1])).slim
    inputs = padded_inputs(long_network[0], 30)
    sizes = [
        layer.attention.query_key_size for layer in align(slim, 8).layers if isinstance(layer.attention, Attention)
    ]
    assert sizes == [16, 16, 8, 16, 16]
    expected = real(onnx_outputs(slim, inputs, tmp_path), slim, inputs)
    assert largest_difference(expected, real(onnx_outputs(align(slim, 8), inputs, tmp_path), slim, inputs)) < 1e-5


def test_parity_bounds_its_inputs(tmp_path: Path) -> None:
    """8,192 tokens would need gigabytes per layer."""
    model = make_model(MODERNBERT, "feature-extraction", max_position_embeddings=8192)
    encoder = load_checkpoint(save(model, tmp_path)).encoder
    shapes = [case.inputs["input_ids"].shape for case in cases(encoder, None, samples=8, seed=0)]
    assert (encoder.embeddings.max_length, max(length for _, length in shapes)) == (8192, 4096)
    assert all(batch * length <= 4096 for batch, length in shapes)


def test_scores_of_all_keys_are_never_held_whole(long_network: tuple[Any, Path]) -> None:
    """ONNX Runtime's kernel for CPUs that computes scores tile by tile takes neither mask nor bias."""
    slim = operate_on(load_checkpoint(long_network[1])).slim
    graph = build(slim, TARGETS["cpu"], PRECISIONS["fp32"]).graph
    outside = [node for node in graph if node.op_type == "MultiHeadAttention"]
    windows = [layer.attention.scores.window for layer in slim.layers if isinstance(layer.attention, Attention)]  # type: ignore[attr-defined]
    assert [len(node.inputs) for node in outside] == [3] * windows.count(None) == [3, 3]
    assert sum(node.op_type == "If" for node in graph) == 1 + len(windows) - windows.count(None)


def test_packed_attention_refuses_the_kind(long_network: tuple[Any, Path]) -> None:
    slim = operate_on(load_checkpoint(long_network[1])).slim
    with pytest.raises(WriteError, match=r"cuda-packed has no form .* Rotary; expected DotProduct"):
        build(slim, TARGETS["cuda-packed"], PRECISIONS["fp16"])


BIASES = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True, "decoder_bias": False}


@pytest.mark.parametrize("task", ["fill-mask", "token-classification", "text-classification"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_biases_and_pooling_are_as_configured(task: Any, pooling: str, tmp_path: Path) -> None:
    model = make_model(MODERNBERT, task, classifier_pooling=pooling, **BIASES)
    with torch.no_grad():
        read, written = model.model.layers[1].mlp.Wi, model.model.layers[1].mlp.Wo
        for rows in (read.weight, read.bias):
            rows[0] = 0  # the gate of column 0 is gelu(0)
            rows[20 + 1] = 0  # column 1 is multiplied by 0
        read.weight[[2, 20 + 2]] = 0  # column 2 is the product of two constants
        read.weight[3] = 0  # the gate of column 3 is a constant, column 3 is not
        written.weight[:, 4] = 0
    checkpoint = load_checkpoint(save(model, tmp_path / "model"))
    found = operate_on(checkpoint)
    assert found.plan.layers[1].columns == (3, *range(5, 20))
    inputs = example_inputs(model)
    with torch.no_grad():
        outputs = model(**inputs)
        attended = inputs["attention_mask"].bool()
        kept = (
            attended if task != "text-classification" else attended[:, 0]
        )  # a first token that is padding has no answer
        expected = {name: outputs[name][kept].numpy() for name in found.slim.outputs}
    for target in ("cpu", "portable", "cuda"):
        outputs = onnx_outputs(found.slim, inputs, tmp_path, target=target)
        assert largest_difference(expected, {name: outputs[name][kept.numpy()] for name in expected}) < 1e-5
    with_gate = found.slim.layers[1].feed_forward.gating  # type: ignore[union-attr]
    assert isinstance(with_gate, Gated)
    assert len(with_gate.gate.weight) == 16
    first, second, *others = found.plan.layers
    wrong = replace(found.plan, layers=(first, replace(second, columns=tuple(range(5, 20))), *others))
    with pytest.raises(SurgeryError, match=r"column 3 .* depends on the input"):
        operate(checkpoint.encoder, wrong)


FIVE = transformers.__version__ >= "5"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"rope_parameters": {"full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0}}},
            "rope_type",
        ),
        ({"layer_types": ["full_attention"] * 4}, "two networks"),
        (
            {"layer_types": ["full_attention", "chunked_attention", "sliding_attention", "full_attention"]},
            "layer_types",
        ),
        ({"head_dim": 4}, "expected an even head size"),
        ({"global_attn_every_n_layers": 0}, "."),
        ({"local_attention": 1}, "expected a whole number of 2 or more for local_attention; found 1"),
        ({"local_attention": -8}, "expected a whole number of 2 or more for local_attention; found -8"),
        ({"local_attention": "wide"}, "."),
        ({"global_rope_theta": "far", "rope_parameters": None}, "."),
        ({"layer_types": ["full_attention"]}, "."),
        ({"hidden_size": 20}, "."),
        ({"pruned_heads": {"0": [1]}}, "cannot run in a network of the type modernbert"),
        ({"classifier_activation": "mish"}, "activation 'mish' is not supported"),
    ],
)
def test_what_config_json_may_not_say(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    import json

    folder = save(make_model(MODERNBERT, "question-answering"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    if "layer_types" in changes:
        config |= {"global_attn_every_n_layers": 3}
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(prune_export.CheckpointError, match=words):
        load_checkpoint(folder)


@pytest.mark.skipif(FIVE, reason="transformers 5 reads both")
def test_a_configuration_of_transformers_5_is_not_misread_by_4(tmp_path: Path) -> None:
    """4.57 passes over rope_parameters and takes its defaults, without a word: the reference would be another network."""
    import json

    folder = save(make_model(MODERNBERT, "question-answering"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["global_rope_theta"], config["local_rope_theta"]
    parameters = {
        "full_attention": {"rope_type": "default", "rope_theta": 1000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
    }
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": parameters}))
    with pytest.raises(prune_export.CheckpointError, match=r"160000.* two networks"):
        load_checkpoint(folder)
    same = {"global_rope_theta": 1000.0, "local_rope_theta": 10.0}
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": parameters} | same))
    assert load_checkpoint(folder).task == "question-answering"
