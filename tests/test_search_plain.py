"""Plain networks: any shape of a parent as an ordinary Hugging Face checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from exporters.axes import map_leaves
from exporters.cost import count_parameters
from exporters.distances import Distances
from exporters.encoder import Attention, DotProduct, Rotary
from exporters.errors import CheckpointError, OutputError, UnsupportedError, UsageError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.reference_model import quiet_transformers
from prune_export.families import FAMILIES
from prune_export.pruning.reconstruction.forward import attention_update
from prune_export.slim_model.model import slim_module
from prune_export.subarchitecture import plain_fit
from prune_export.subarchitecture.head_sizes import resize_heads
from prune_export.subarchitecture.hidden_basis import greedy_units, hidden_basis
from prune_export.subarchitecture.line_fit import fit_lines
from prune_export.subarchitecture.plain_config import plain_shapes
from prune_export.subarchitecture.plain_files import write_plain
from prune_export.subarchitecture.plain_network import Inheritance, inherit, plain_checkpoint, prepare_inheritance
from prune_export.subarchitecture.shape import Shape
from prune_export.subarchitecture.space import Space
from tests.comparing import largest_difference, torch_outputs
from tests.models import FAMILY_CASES, FAMILY_TASKS, FamilyCase, example_inputs, make_model
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer

CASES = {str(case): case for case in FAMILY_CASES}
FULL = Shape(3, 4, 24, 20)


def batches_of(model: Any, task: str, count: int = 3) -> list[dict[str, torch.Tensor]]:
    batches = [example_inputs(model, batch=6, seed=seed) for seed in range(count)]
    for batch in batches:
        if task == "question-answering":
            first = batch["attention_mask"].argmax(dim=1)
            batch |= {"start_positions": first, "end_positions": first}
        elif task == "text-classification":
            batch["labels"] = torch.arange(6) % 3
        elif task == "token-classification":
            batch["labels"] = batch["input_ids"] % 3
    return batches


def made(case: FamilyCase, task: Any, folder: Path, **changes: Any) -> tuple[Any, Inheritance]:
    model = make_model(case, task, **changes)
    model.save_pretrained(folder)
    return model, prepare_inheritance(load_checkpoint(folder, task=task), batches_of(model, task))


def outputs(model: Any, inputs: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        result = model(**inputs)
    names = [
        name
        for name in ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output")
        if name in result
    ]
    return [result[name][inputs["attention_mask"].bool()] if result[name].ndim == 3 else result[name] for name in names]


def same(model: Any, other: Any, tolerance: float) -> bool:
    inputs = example_inputs(model, seed=5)
    pairs = zip(outputs(model, inputs), outputs(other, inputs), strict=True)
    return all(torch.allclose(expected, actual, atol=tolerance, rtol=0) for expected, actual in pairs)


def saved_and_loaded(network: Any, model_class: Any, folder: Path) -> Any:
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    network.config.to_json_file(folder / "config.json", use_diff=False)
    save_file(dict(network.tensors), folder / "model.safetensors", metadata={"format": "pt"})
    with quiet_transformers():
        model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


# Albert's layers share their weights.
EVERY_TASK = [(str(case), task) for case, task in FAMILY_TASKS if str(case) != "albert"]


def shapes_of(name: str, parent: Shape) -> tuple[Shape, Shape]:
    """Returns two smaller shapes, the first one with fewer layers; some heads keep their 6 dimensions."""
    if issubclass(FAMILIES[name].scores_kind, Rotary | Distances):
        return Shape(parent.depth - 1, 3, 18, 12), Shape(parent.depth, 2, 12, 5)
    return Shape(2, 2, 18, 12), Shape(3, 4, 16, 5)  # heads of 9 and of 4 dimensions, not 6


@pytest.mark.parametrize(("name", "task"), EVERY_TASK)
def test_at_full_size_it_is_the_parent(name: str, task: Any, tmp_path: Path) -> None:
    model, inheritance = made(CASES[name], task, tmp_path / "parent")
    loaded = saved_and_loaded(inherit(inheritance, inheritance.shape), type(model), tmp_path / "plain")
    assert same(model, loaded, 2e-5)
    loaded.get_input_embeddings().weight.data[:, 0] += 0.1
    assert not same(model, loaded, 2e-5)


@pytest.mark.parametrize(("name", "task"), EVERY_TASK)
def test_every_shape_loads_in_transformers_and_here(name: str, task: Any, tmp_path: Path) -> None:
    model, inheritance = made(CASES[name], task, tmp_path / "parent")
    for shape in shapes_of(name, inheritance.shape):
        network = inherit(inheritance, shape)
        loaded = saved_and_loaded(network, type(model), tmp_path / "plain")
        assert FAMILIES[name].dimensions(loaded.config).hidden == shape.hidden
        inputs = example_inputs(model, seed=5)
        expected = torch_outputs(loaded, inheritance.checkpoint.encoder, inputs)
        assert all(np.isfinite(result).all() for result in expected.values())
        again = load_checkpoint(tmp_path / "plain", task=task)
        for encoder in (network.encoder, again.encoder):
            found = torch_outputs(slim_module(again, encoder), encoder, inputs)
            assert largest_difference(expected, found) < 2e-5
            assert count_parameters(encoder) == count_parameters(again.encoder)


# --- parents that a smaller network can say exactly -------------------------------------------------------------------


def wasteful_model() -> Any:
    """A BERT of hidden size 24 that uses 12: each coordinate is there twice. Two heads of each layer and layer 1 do nothing.

    Norms have weights of 1, so that a rotated basis is exact.
    """
    model = make_model(CASES["bert"], "question-answering")
    with torch.no_grad():
        embeddings = model.bert.embeddings
        norms = [embeddings.LayerNorm]
        for table in (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings):
            table.weight[:, 12:] = table.weight[:, :12]
        for index, layer in enumerate(model.bert.encoder.layer):
            norms += [layer.attention.output.LayerNorm, layer.output.LayerNorm]
            layer.attention.output.dense.weight[:, 6:18] = 0  # heads 1 and 2
            for dense in (layer.attention.output.dense, layer.output.dense):
                dense.weight[12:], dense.bias[12:] = dense.weight[:12], dense.bias[:12]
                if index == 1:
                    dense.weight.zero_()
                    dense.bias.zero_()
        for norm in norms:
            norm.weight.fill_(1.0)
            norm.bias.zero_()
    return model


def test_a_parent_that_uses_half_of_its_width_is_said_exactly_by_half(tmp_path: Path) -> None:
    model = wasteful_model()
    model.save_pretrained(tmp_path / "parent")
    batches = batches_of(model, "question-answering", 4)
    inheritance = prepare_inheritance(load_checkpoint(tmp_path / "parent"), batches)
    network = inherit(inheritance, Shape(2, 2, 12, 20), layers=(0, 2))
    assert same(model, saved_and_loaded(network, type(model), tmp_path / "plain"), 2e-3)
    assert [heads for heads, _ in network.units] == [(0, 3), (0, 3)]
    narrower = inherit(inheritance, Shape(2, 2, 10, 20), layers=(0, 2))
    assert not same(model, saved_and_loaded(narrower, type(model), tmp_path / "plain"), 0.05)


def wasteful_pre_norm_model(case: FamilyCase, task: Any) -> Any:
    """A pre-norm network like `wasteful_model`, whose last layer does nothing."""
    model = make_model(case, task)
    body = model.model
    writers = [(layer.attn.Wo, layer.mlp.Wo) for layer in body.layers if hasattr(layer, "attn")] or [
        (layer.self_attn.o_proj, layer.mlp.down_proj) for layer in body.layers
    ]
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        rows[:, 12:] = rows[:, :12]
        for attention, feed_forward in writers:
            attention.weight[:, 6:18] = 0  # heads 1 and 2
            for dense in (attention, feed_forward):
                dense.weight[12:] = dense.weight[:12]
                if attention is writers[-1][0]:
                    dense.weight.zero_()
        for name, value in model.named_parameters():
            if "norm" in name:
                value.fill_(1.0)
        if hasattr(model, "head"):
            model.head.dense.weight[12:] = model.head.dense.weight[:12]
    return model


@pytest.mark.parametrize("case", [case for case in FAMILY_CASES if str(case) in ("modernbert", "eurobert")], ids=str)
def test_a_pre_norm_parent_that_uses_half_of_its_width_is_said_exactly_by_half(
    case: FamilyCase, tmp_path: Path
) -> None:
    model = wasteful_pre_norm_model(case, case.task)
    model.save_pretrained(tmp_path / "parent")
    batches = batches_of(model, case.task, 4)
    inheritance = prepare_inheritance(load_checkpoint(tmp_path / "parent", task=case.task), batches)
    depth = inheritance.shape.depth - 1
    network = inherit(inheritance, Shape(depth, 2, 12, 20), layers=tuple(range(depth)))
    assert same(model, saved_and_loaded(network, type(model), tmp_path / "plain"), 2e-3)
    narrower = inherit(inheritance, Shape(depth, 1, 6, 20), layers=tuple(range(depth)))
    assert not same(model, saved_and_loaded(narrower, type(model), tmp_path / "plain"), 0.05)


def test_a_narrower_decoder_is_not_tied(tmp_path: Path) -> None:
    """A model whose word embeddings say nothing of its decoder: only the parent's own decoder is near to it."""
    model, inheritance = made(CASES["bert"], "fill-mask", tmp_path / "parent")
    network = inherit(inheritance, Shape(3, 4, 20, 20))
    loaded = saved_and_loaded(network, type(model), tmp_path / "plain")
    assert not loaded.config.tie_word_embeddings
    inputs = example_inputs(model, seed=5)
    [expected], [found] = outputs(model, inputs), outputs(loaded, inputs)
    error = (found - expected).square().mean() / expected.var()
    loaded.get_output_embeddings().weight.data = loaded.get_input_embeddings().weight.data
    [tied] = outputs(loaded, inputs)
    assert error < 0.5 * (tied - expected).square().mean() / expected.var()


def test_a_norm_of_distances_that_nothing_reads_is_as_wide_as_the_network(tmp_path: Path) -> None:
    model, inheritance = made(CASES["deberta-v2"], "question-answering", tmp_path / "parent", relative_attention=False)
    network = inherit(inheritance, Shape(2, 3, 18, 12))
    loaded = saved_and_loaded(network, type(model), tmp_path / "plain")
    inputs = example_inputs(model, seed=5)
    again = load_checkpoint(tmp_path / "plain").encoder
    found = torch_outputs(slim_module(load_checkpoint(tmp_path / "plain"), again), again, inputs)
    assert largest_difference(torch_outputs(loaded, again, inputs), found) < 2e-5


@pytest.mark.parametrize("name", ["mpnet", "deberta", "deberta-v2"])
def test_layers_have_common_tensors_also_where_devices_copy_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(part: Any, _device: str) -> Any:
        return map_leaves(part, lambda value, _: value.clone() if isinstance(value, torch.Tensor) else value)

    monkeypatch.setattr(plain_fit, "to_device", copied)
    model, inheritance = made(CASES[name], "question-answering", tmp_path / "parent")
    network = inherit(inheritance, Shape(3, 2, 12, 12))
    saved_and_loaded(network, type(model), tmp_path / "plain")
    assert count_parameters(network.encoder) == count_parameters(load_checkpoint(tmp_path / "plain").encoder)


def test_keys_that_another_version_of_transformers_reads_stay(tmp_path: Path) -> None:
    """Version 5 takes the bases of the frequencies out of the keys that version 4 reads."""
    model, inheritance = made(CASES["modernbert"], "question-answering", tmp_path / "parent")
    path = tmp_path / "parent/config.json"
    old = {"global_rope_theta": 1000.0, "local_rope_theta": 10.0, "torch_dtype": "float16"}
    path.write_text(json.dumps(json.loads(path.read_text()) | old))
    checkpoint = load_checkpoint(tmp_path / "parent")
    write_plain(checkpoint, inherit(inheritance, Shape(3, 2, 12, 12)), tmp_path / "plain")
    written = json.loads((tmp_path / "plain/config.json").read_text())
    assert {name: written[name] for name in old if name != "torch_dtype"} == {
        "global_rope_theta": 1000.0,
        "local_rope_theta": 10.0,
    }
    assert written.get("torch_dtype", "float32") == written.get("dtype", "float32") == "float32"
    assert load_checkpoint(tmp_path / "plain").encoder.hidden_size == 12
    with quiet_transformers():
        type(model).from_pretrained(tmp_path / "plain")


@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4 breaks this head")
def test_a_decoder_that_is_the_word_embeddings_is_not_made_narrower(tmp_path: Path) -> None:
    model, inheritance = made(CASES["deberta-v2"], "fill-mask", tmp_path / "parent", legacy=False)
    network = inherit(inheritance, inheritance.shape)
    assert same(saved_and_loaded(network, type(model), tmp_path / "plain"), model, 2e-5)
    assert inherit(inheritance, Shape(2, 4, 24, 12)).config.tie_word_embeddings
    with pytest.raises(UsageError, match="hidden: expected 24, the parent's, because the decoder"):
        inherit(inheritance, Shape(2, 2, 12, 12))
    shapes = plain_shapes(inheritance.checkpoint, Space((1, 2), (2, 4), (12, 24), (20,)))
    assert {shape[:3] for shape in shapes} == {(1, 4, 24), (2, 4, 24)}
    with pytest.raises(UsageError, match=r"space: hidden: expected 24, the parent.s.*; found 12"):
        plain_shapes(inheritance.checkpoint, Space((1, 2), (2,), (12,), (20,)))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_layers_with_and_without_windows_keep_their_places(depth: int, tmp_path: Path) -> None:
    """The first of four layers and the last one have no window; the first one has no norm before its attention either."""
    _, inheritance = made(CASES["modernbert"], "question-answering", tmp_path / "parent")
    expected = {1: (0,), 2: (0, 2), 3: (0, 1, 2)}[depth]
    network = inherit(inheritance, inheritance.shape._replace(depth=depth))
    assert network.layers == expected
    with pytest.raises(UsageError, match="makes layer 0 like the parent's own; expected one of \\[0\\] there; found 3"):
        inherit(inheritance, inheritance.shape._replace(depth=1), layers=(3,))


def attention_of(model: Any) -> Attention:
    layer = model.bert.encoder.layer[0].attention
    read = {}
    for field in ("query", "key", "value"):
        dense = getattr(layer.self, field)
        read |= {
            f"{field}_weight": dense.weight.detach().view(4, 6, 24),
            f"{field}_bias": dense.bias.detach().view(4, 6),
        }
    output = layer.output.dense
    read |= {"output_weight": output.weight.detach().view(24, 4, 6), "output_bias": output.bias.detach()}
    return Attention(heads=(0, 1, 2, 3), **read, scores=DotProduct(6**-0.5))


def test_larger_heads_give_the_same_and_smaller_ones_what_fits() -> None:
    attention = attention_of(make_model(CASES["bert"], "question-answering"))
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(5, 9, 24, generator=generator) for _ in range(4)]
    attended = [torch.ones(5, 9, dtype=torch.bool) for _ in states]
    attended[0][2, 6:] = False

    def is_near(changed: Attention, to: Attention, tolerance: float) -> bool:
        results = (attention_update(block, states[0], attended[0]) for block in (changed, to))
        return torch.allclose(*results, atol=tolerance, rtol=0)

    larger = resize_heads(attention, 8, states, attended)
    assert larger.query_key_size == larger.value_size == 8
    assert larger.scores.scale == 8**-0.5
    assert is_near(larger, attention, 2e-5)
    assert larger.key_weight[:, 6:].abs().min() > 0  # so that the new queries get a gradient

    # Queries and values of rank 3, whose biases lie in the same directions: heads of 3 dimensions are exact.
    low = torch.zeros_like(attention.query_weight)
    low[:, :3] = attention.query_weight[:, :3]
    mixing = torch.linalg.qr(torch.randn(4, 6, 6, generator=generator)).Q
    bias = (mixing[:, :, :3] @ attention.query_bias[:, :3, None])[:, :, 0]
    low_rank = replace(
        attention, query_weight=mixing @ low, query_bias=bias, value_weight=mixing @ low, value_bias=bias
    )
    smaller = resize_heads(low_rank, 3, states, attended)
    assert smaller.query_weight.shape == (4, 3, 24)
    assert is_near(smaller, low_rank, 1e-4)
    assert not is_near(resize_heads(low_rank, 2, states, attended), low_rank, 0.1)


def test_the_basis_is_orthonormal_and_free_of_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = (
        torch.randn(100, 4, generator=generator, dtype=torch.float64) @ torch.randn(4, 9, generator=generator).double()
    )
    basis = hidden_basis([rows.T @ rows], 5)
    assert torch.allclose(basis.sum(dim=1), torch.zeros(9), atol=1e-6)
    assert torch.allclose((rows.float() @ basis) @ basis.T, rows.float(), atol=1e-4)  # rank 4: nothing is lost
    assert torch.equal(hidden_basis([rows.T @ rows], 9), torch.eye(9))


def test_greedy_units_leave_the_least_error() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 6)) @ np.random.default_rng(1).normal(size=(6, 6))

    def error(units: tuple[int, ...]) -> float:
        solution, *_ = np.linalg.lstsq(rows[:, units], rows, rcond=None)
        return float(np.square(rows - rows[:, units] @ solution).sum())

    first = min(range(6), key=lambda unit: error((unit,)))
    second = min(set(range(6)) - {first}, key=lambda unit: error((first, unit)))
    assert greedy_units(torch.from_numpy(rows.T @ rows), 2) == tuple(sorted((first, second)))
    assert greedy_units(torch.ones(3, 3, dtype=torch.float64), 2) == (
        0,
        1,
    )  # of units that say the same, different ones


def test_lines_are_those_of_least_squares_unless_held_out_rows_disagree() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(3, 40, 2)) + 1
    t = x * [2.0, -3.0] + [0.5, 1.0] + 0.1 * generator.normal(size=x.shape)
    features, targets = ([torch.from_numpy(rows) for rows in values] for values in (x, t))
    weight, bias, before, after = fit_lines(features, targets, torch.ones(2), torch.zeros(2))
    fitted = np.concatenate([x[0], x[2]]), np.concatenate([t[0], t[2]])  # batch 1 is held out
    expected = np.array([np.polyfit(fitted[0][:, unit], fitted[1][:, unit], 1) for unit in range(2)])
    assert np.allclose(np.stack([weight, bias], axis=1), expected, atol=1e-5)
    assert after == pytest.approx(
        np.square(x[1] * expected[:, 0] + expected[:, 1] - t[1]).sum() / np.square(t[1]).sum()
    )
    assert before == pytest.approx(np.square(x[1] - t[1]).sum() / np.square(t[1]).sum())
    targets[1] = features[1]  # where the start is right already
    weight, bias, before, after = fit_lines(features, targets, torch.ones(2), torch.zeros(2))
    assert (weight.tolist(), bias.tolist(), before, after) == ([1, 1], [0, 0], before, before)


# --- the checkpoint -------------------------------------------------------------------------------------------------------


def test_the_same_call_gives_the_same_weights(tmp_path: Path) -> None:
    model = make_model(CASES["bert"], "question-answering")
    model.save_pretrained(tmp_path)
    checkpoint, batches = load_checkpoint(tmp_path), batches_of(model, "question-answering", 4)
    first, second = (plain_checkpoint(checkpoint, batches, depth=2, hidden=16)[1] for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    config, tensors = plain_checkpoint(checkpoint, batches, heads=2, intermediate=8)
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (3, 2, 24)
    assert tensors["bert.encoder.layer.0.intermediate.dense.weight"].shape == (8, 24)


def sentence_parent(folder: Path, module: str, config: dict[str, Any]) -> tuple[Any, Path]:
    """A base model in a folder of sentence-transformers with one more module."""
    model = make_model(CASES["bert"], "feature-extraction", vocab_size=90)
    save_with_tokenizer(model, bert_tokenizer(), folder)
    (folder / f"1_{module}").mkdir()
    (folder / f"1_{module}" / "config.json").write_text(json.dumps(config))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": f"1_{module}", "type": f"sentence_transformers.models.{module}"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return model, folder


def test_a_plain_checkpoint_is_written_and_read_like_any_other(tmp_path: Path) -> None:
    model, parent = sentence_parent(tmp_path / "parent", "Pooling", {"word_embedding_dimension": 24, "other": 1})
    checkpoint = load_checkpoint(parent, task="feature-extraction")
    network = inherit(prepare_inheritance(checkpoint, batches_of(model, "feature-extraction")), Shape(2, 2, 16, 8))
    folder = tmp_path / "plain"
    write_plain(checkpoint, network, folder, seed=3)
    write_plain(checkpoint, network, folder, overwrite=True, seed=4)
    with pytest.raises(OutputError, match="overwrite"):
        write_plain(checkpoint, network, folder)
    with pytest.raises(OutputError, match="already holds"):
        write_plain(checkpoint, network, parent)

    record = json.loads((folder / "subarchitecture.json").read_text())
    assert record["shape"] == {"depth": 2, "heads": 2, "hidden": 16, "intermediate": 8}
    assert (record["format"], record["seed"]) == ("prune-export/plain", 4)
    assert [layer["layer"] for layer in record["layers"]] == [1, 2]
    assert set(record["files"]) == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling == {"word_embedding_dimension": 16, "other": 1}
    again = load_checkpoint(folder)
    assert (again.form, again.task) == ("plain", "feature-extraction")
    assert (again.encoder.hidden_size, len(again.encoder.layers)) == (16, 2)
    with quiet_transformers():
        loaded, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys")), info
    assert loaded.dtype == torch.float32
    assert transformers.AutoTokenizer.from_pretrained(folder)("the").input_ids


def test_modules_of_another_width_are_refused(tmp_path: Path) -> None:
    model, parent = sentence_parent(tmp_path / "parent", "Dense", {"in_features": 24})
    checkpoint = load_checkpoint(parent, task="feature-extraction")
    inheritance = prepare_inheritance(checkpoint, batches_of(model, "feature-extraction"))
    with pytest.raises(CheckpointError, match="1_Dense") as raised:
        write_plain(checkpoint, inherit(inheritance, Shape(1, 2, 16, 8)), tmp_path / "plain")
    assert "\n" not in str(raised.value)
    write_plain(checkpoint, inherit(inheritance, Shape(1, 4, 24, 8)), tmp_path / "plain")  # the parent's width


# --- refusals -------------------------------------------------------------------------------------------------------------


def test_shapes_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    _, inheritance = made(CASES["bert"], "question-answering", tmp_path)
    cases: list[tuple[Shape, Any, str]] = [
        (Shape(4, 4, 24, 20), None, "depth: expected 1 to 3"),
        (Shape(3, 8, 24, 20), None, "heads: expected 1 to 4"),
        (Shape(3, 3, 25, 20), None, "hidden: expected 1 to 24"),
        (Shape(3, 4, 24, 0), None, "intermediate: expected 1 to 20"),
        (Shape(3, 4, 22, 20), None, "multiple of the 4 heads"),
        (Shape(3, 1, 1, 20), None, "2 or more"),
        (Shape(2, 4, 24, 20), (0, 1, 2), "layers: expected 2"),
        (Shape(2, 4, 24, 20), (2, 0), "in order"),
        (Shape(2, 4, 24, 20), (1, 3), "0 to 2"),
    ]
    for shape, layers, word in cases:
        with pytest.raises(UsageError, match=word) as raised:
            inherit(inheritance, shape, layers=layers)
        assert "\n" not in str(raised.value)


def test_parents_that_no_plain_network_can_be_made_of_are_refused(tmp_path: Path) -> None:
    for name, changes, word in (("albert", {}, "share"), ("bert", {"layer_norm_type": "no_norm"}, "no_norm")):
        model = make_model(CASES[name], "question-answering", **changes)
        model.save_pretrained(tmp_path / name)
        with pytest.raises(UnsupportedError, match=word) as raised:
            prepare_inheritance(load_checkpoint(tmp_path / name), batches_of(model, "question-answering", 2))
        assert "\n" not in str(raised.value)
    model, _ = made(CASES["electra"], "question-answering", tmp_path / "electra")
    checkpoint, batches = load_checkpoint(tmp_path / "electra"), batches_of(model, "question-answering", 2)
    with pytest.raises(UsageError, match="embedding size"):
        plain_checkpoint(checkpoint, batches, hidden=12)
    with pytest.raises(UsageError, match="two batches"):
        plain_checkpoint(checkpoint, batches[:1])
    with pytest.raises(UnsupportedError, match="hub format"):
        plain_checkpoint(replace(checkpoint, form="hub"), batches)
