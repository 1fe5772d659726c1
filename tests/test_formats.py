"""Every form a checkpoint comes in."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import prune_export
from exporters import runtime
from exporters.encoder import Encoder
from exporters.errors import CheckpointError, PlanError, UnsupportedError, UsageError, WeightsError
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.reference_model import NoNorm, load_reference_model
from prune_export.verbs.inspect import inspect
from tests.comparing import largest_difference, onnx_outputs, torch_outputs
from tests.models import FAMILY_CASES, example_inputs, make_model, save

BERT = FAMILY_CASES[0]
SIZE = 6
NATIVE_PRUNING = transformers.__version__.startswith("4.")


def masked_model(*, keep_biases: bool = False) -> Any:
    """A BERT whose heads 1 and 3 of layer 0, head 0 of layer 2, and some columns are zero."""
    model = make_model(BERT, "question-answering")
    for layer, heads in ((0, (1, 3)), (2, (0,))):
        block = model.bert.encoder.layer[layer].attention
        for head in heads:
            rows = slice(head * SIZE, (head + 1) * SIZE)
            for part in (block.self.query, block.self.key, block.self.value):
                part.weight.data[rows] = 0
                if not keep_biases:
                    part.bias.data[rows] = 0
            if not keep_biases:
                block.output.dense.weight.data[:, rows] = 0
    feed_forward = model.bert.encoder.layer[1]
    feed_forward.intermediate.dense.weight.data[7:] = 0
    if not keep_biases:
        feed_forward.intermediate.dense.bias.data[7:] = 0
        feed_forward.output.dense.weight.data[:, 7:] = 0
    return model


def to_hub_format(masked: Path, folder: Path, pruned: dict[str, list[int]]) -> Path:
    """Rewrites a masked checkpoint as transformers 4's prune_heads does; transformers 5 no longer can."""
    folder.mkdir()
    tensors = load_file(masked / "model.safetensors")
    config = json.loads((masked / "config.json").read_text())
    for layer, heads in pruned.items():
        kept = [row for row in range(24) if row // SIZE not in heads]
        path = f"bert.encoder.layer.{layer}.attention"
        for name in ("query", "key", "value"):
            for kind in ("weight", "bias"):
                tensors[f"{path}.self.{name}.{kind}"] = tensors[f"{path}.self.{name}.{kind}"][kept].contiguous()
        tensors[f"{path}.output.dense.weight"] = tensors[f"{path}.output.dense.weight"][:, kept].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"pruned_heads": pruned}))
    return folder


def answers(model: Any, encoder: Encoder) -> dict[str, Any]:
    return torch_outputs(model, encoder, example_inputs(model))


def assert_exports_like(model: Any, folder: Path, tmp_path: Path) -> prune_export.Inspection:
    found = inspect(folder)
    inputs = example_inputs(model)
    reference = torch_outputs(model, found.slim, inputs)
    assert largest_difference(reference, onnx_outputs(found.slim, inputs, tmp_path)) < 1e-5
    assert (
        largest_difference(reference, torch_outputs(load_reference_model(found.checkpoint), found.slim, inputs)) < 1e-5
    )
    return found


@pytest.mark.parametrize("keep_biases", [False, True], ids=["zero biases", "kept biases"])
def test_zeros_and_nothing_else(keep_biases: bool, tmp_path: Path) -> None:
    model = masked_model(keep_biases=keep_biases)
    found = assert_exports_like(model, save(model, tmp_path / "checkpoint"), tmp_path)
    assert found.checkpoint.form == "plain"
    assert [layer.after.heads for layer in found.summary.layers] == [2, 4, 3]
    assert [layer.kept_heads for layer in found.summary.layers] == [(0, 2), (0, 1, 2, 3), (1, 2, 3)]
    assert [layer.after.columns for layer in found.summary.layers] == [20, 7, 20]


def test_dense_says_that_nothing_is_pruned(tmp_path: Path) -> None:
    checkpoint = save(make_model(BERT, "question-answering"), tmp_path / "checkpoint")
    result = prune_export.export(checkpoint, tmp_path / "out", target="cpu", samples=4)
    assert result.summary.is_dense
    assert any("nothing is pruned" in note for note in result.notes)


@pytest.mark.parametrize("pruned", [{"0": [1, 3], "1": [], "2": [0]}, {"0": [1, 3], "2": [0, 1, 2, 3]}], ids=str)
def test_hub_format(pruned: dict[str, list[int]], tmp_path: Path) -> None:
    model = masked_model()
    for head in pruned["2"]:
        rows = slice(head * SIZE, (head + 1) * SIZE)
        block = model.bert.encoder.layer[2].attention
        for tensor in (
            block.self.value.weight.data[rows],
            block.self.value.bias.data[rows],
            block.output.dense.weight.data[:, rows],
        ):
            tensor.zero_()
    masked = save(model, tmp_path / "masked")
    hub = to_hub_format(masked, tmp_path / "hub", pruned)
    found = assert_exports_like(model, hub, tmp_path)
    assert found.checkpoint.form == "hub"
    assert [layer.after.heads for layer in found.summary.layers] == [2, 4, 4 - len(pruned["2"])]
    assert found.summary.layers[0].kept_heads == (0, 2)
    same = inspect(masked)
    assert found.plan == same.plan
    assert found.summary.parameters_after == same.summary.parameters_after


@pytest.mark.skipif(not NATIVE_PRUNING, reason="transformers 5 has no head pruning: nothing to compare with")
def test_our_reading_of_hub_format_equals_transformers_own(tmp_path: Path) -> None:
    """The oracle of transformers 5 (our full-size layout) against transformers 4's own loading."""
    from dataclasses import replace

    from prune_export.checkpoint import reference_model

    model = make_model(BERT, "question-answering")
    model.prune_heads({0: [1, 3], 2: [0]})
    checkpoint = load_checkpoint(save(model, tmp_path))
    assert checkpoint.form == "hub"
    native = load_reference_model(checkpoint)
    assert native.bert.encoder.layer[0].attention.self.query.out_features == 12  # type: ignore[union-attr, index]
    with_zeros = reference_model._from_encoder(replace(checkpoint), type(model)).eval()
    assert with_zeros.bert.encoder.layer[0].attention.self.query.out_features == 24  # type: ignore[union-attr, index]
    reference = answers(model, checkpoint.encoder)
    assert largest_difference(reference, torch_outputs(native, checkpoint.encoder, example_inputs(model))) == 0.0
    assert largest_difference(reference, torch_outputs(with_zeros, checkpoint.encoder, example_inputs(model))) < 1e-5


@pytest.mark.parametrize(
    "form", ["pytorch_model.bin", "sharded safetensors", "sharded bin", "old names", "fp16", "bf16"]
)
def test_files_of_weights(form: str, tmp_path: Path) -> None:
    model = masked_model()
    if form in ("fp16", "bf16"):
        dtype = torch.float16 if form == "fp16" else torch.bfloat16
        model.to(dtype).to(torch.float32)
        folder = tmp_path / "checkpoint"
        model.to(dtype).save_pretrained(folder)
        model.to(torch.float32)
    else:
        folder = save(model, tmp_path / "checkpoint")
        tensors = load_file(folder / "model.safetensors")
        if form == "old names":
            tensors = {_old_name(name): value for name, value in tensors.items()}
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        else:
            (folder / "model.safetensors").unlink()
            _write(tensors, folder, form)
    assert_exports_like(model, folder, tmp_path)


def _old_name(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def _write(tensors: dict[str, Tensor], folder: Path, form: str) -> None:
    if form == "pytorch_model.bin":
        torch.save(tensors, folder / form)
        return
    names = sorted(tensors)
    suffix, stem = (".safetensors", "model") if "safetensors" in form else (".bin", "pytorch_model")
    parts = {f"{stem}-{index + 1:05}-of-00003{suffix}": names[index::3] for index in range(3)}
    for file, members in parts.items():
        part = {name: tensors[name].contiguous() for name in members}
        if suffix == ".bin":
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, members in parts.items() for name in members}
    index_file = "model.safetensors.index.json" if suffix != ".bin" else "pytorch_model.bin.index.json"
    size = sum(value.nbytes for value in tensors.values())
    (folder / index_file).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}))


def test_no_norm_networks(tmp_path: Path) -> None:
    """nn_pruning's opt-v1 networks: every LayerNorm is `x * weight + bias`, the activation is relu."""
    model = make_model(BERT, "question-answering", hidden_act="relu")
    for parameter in model.parameters():
        parameter.data *= 0.3  # without norms, values of this size would grow from layer to layer
    folder = save(model, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_type": "no_norm"}))
    as_layer_norm = answers(model, inspect(folder).slim)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, NoNorm(child.weight.detach(), child.bias.detach()))
    found = assert_exports_like(model, folder, tmp_path)
    assert largest_difference(as_layer_norm, answers(model, found.slim)) > 0.01
    assert all(layer.attention_norm.epsilon is None for layer in found.slim.layers)
    assert prune_export.export(folder, tmp_path / "out", target="cuda", samples=4).parity is not None


def test_masked_format(tmp_path: Path) -> None:
    """A normal checkpoint with pruning.json; what the file promises must be true."""
    model = masked_model()
    folder = save(model, tmp_path / "checkpoint")
    plan = inspect(folder).plan
    from prune_export.facts.plan import plan_to_json

    (folder / "pruning.json").write_text(json.dumps(plan_to_json(plan) | {"method": "magnitude", "seed": 0}))
    found = assert_exports_like(model, folder, tmp_path)
    assert found.checkpoint.form == "masked"
    model.bert.encoder.layer[0].attention.self.value.weight.data[SIZE] = 0.1
    model.bert.encoder.layer[0].attention.output.dense.weight.data[:, SIZE] = 0.1
    save(model, folder)
    with pytest.raises(PlanError, match=r"layer 0: heads \[1\] are pruned by it, but their weights are not zero"):
        inspect(folder)


def test_slim_format_exports_like_the_masked_network(tmp_path: Path) -> None:
    model = masked_model(keep_biases=True)
    masked = save(model, tmp_path / "masked")
    prune_export.slim(masked).save_pretrained(tmp_path / "slim")
    found = assert_exports_like(model, tmp_path / "slim", tmp_path)
    assert found.checkpoint.form == "slim"
    assert found.summary.layers[0].kept_heads == (0, 2)
    assert found.summary.parameters_after == inspect(masked).summary.parameters_after
    result = prune_export.export(tmp_path / "slim", tmp_path / "out", target="cpu", samples=4)
    assert result.parity is not None
    direct = prune_export.export(masked, tmp_path / "direct", target="cpu", samples=4)
    assert result.model.read_bytes() == direct.model.read_bytes()
    with pytest.raises(UsageError, match="slim already"):
        inspect(tmp_path / "slim", plan=found.plan)


def test_damaged_slim_checkpoints_are_refused(tmp_path: Path) -> None:
    prune_export.slim(save(masked_model(), tmp_path / "masked")).save_pretrained(tmp_path / "slim")
    path = tmp_path / "slim" / "slim.safetensors"
    tensors = load_file(path)
    name = "layers.0.attention.query_weight"
    for wrong, message in (
        ({name: tensors[name][:1].contiguous()}, "layer 0: 'attention.query_weight' has shape"),
        ({name: tensors[name].clone().fill_(float("nan"))}, f"'{name}' holds 288 NaN or infinite values of 288"),
    ):
        save_file(tensors | wrong, path)
        with pytest.raises(WeightsError, match=message):
            inspect(tmp_path / "slim")
    del tensors[name]
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=f"the tensor '{name}' is missing"):
        inspect(tmp_path / "slim")


def test_transformers_does_not_take_a_slim_folder_for_a_whole_model(tmp_path: Path) -> None:
    """It would fill what it misses with random weights and only warn."""
    prune_export.slim(save(masked_model(), tmp_path / "masked")).save_pretrained(tmp_path / "slim")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "slim")


def test_an_explicit_plan_replaces_what_the_checkpoint_says(tmp_path: Path) -> None:
    model = masked_model()
    folder = save(model, tmp_path / "checkpoint")
    layer = {
        "heads": [0, 1, 2],
        "columns": "0-4,10",
        "value_dimensions": {"1": "0-2"},
        "query_key_dimensions": {"1": "3-5"},
    }
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"format": "prune-export/plan", "version": 1, "layers": [layer] * 3}))
    found = inspect(folder, plan=plan)
    assert [entry.after.heads for entry in found.summary.layers] == [3, 3, 3]
    assert [entry.after.columns for entry in found.summary.layers] == [6, 6, 6]
    for index in range(3):  # the same zeros, by hand
        block = model.bert.encoder.layer[index]
        for part, rows in (
            (block.attention.self.query, [*range(6, 9), *range(18, 24)]),
            (block.attention.self.key, [*range(6, 9), *range(18, 24)]),
            (block.attention.self.value, [*range(9, 12), *range(18, 24)]),
            (block.intermediate.dense, [*range(5, 10), *range(11, 20)]),
        ):
            part.weight.data[rows] = 0
            part.bias.data[rows] = 0
        block.attention.output.dense.weight.data[:, [*range(9, 12), *range(18, 24)]] = 0
        block.output.dense.weight.data[:, [*range(5, 10), *range(11, 20)]] = 0
    inputs = example_inputs(model)
    reference = torch_outputs(model, found.slim, inputs)
    assert largest_difference(reference, onnx_outputs(found.slim, inputs, tmp_path)) < 1e-5
    assert (
        largest_difference(reference, torch_outputs(load_reference_model(found.checkpoint), found.slim, inputs)) < 1e-6
    )


def test_an_explicit_plan_on_hub_format(tmp_path: Path) -> None:
    hub = to_hub_format(save(masked_model(), tmp_path / "masked"), tmp_path / "hub", {"0": [1, 3]})
    layers = [{"heads": "0", "columns": "0-3"}] * 3
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"format": "prune-export/plan", "version": 1, "layers": layers}))
    result = prune_export.export(hub, tmp_path / "out", plan=plan, target="cpu", samples=4)
    assert [layer.after.heads for layer in result.summary.layers] == [1, 1, 1]
    layers = [{"heads": "1", "columns": "0-3"}, *layers[1:]]
    plan.write_text(json.dumps({"format": "prune-export/plan", "version": 1, "layers": layers}))
    with pytest.raises(PlanError, match="layer 0: the plan keeps head 1, but the model's heads there are 0,2"):
        inspect(hub, plan=plan)


def test_albert_with_a_plan_that_splits_shared_layers_is_refused(tmp_path: Path) -> None:
    case = next(case for case in FAMILY_CASES if case.model_type == "albert")
    folder = save(make_model(case, case.task), tmp_path / "checkpoint")
    layers = [{"heads": "0", "columns": "0-3"}, {"heads": "1", "columns": "0-3"}, {"heads": "0", "columns": "0-3"}]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"format": "prune-export/plan", "version": 1, "layers": layers}))
    with pytest.raises(PlanError, match="layers 0 and 1 share their weights"):
        inspect(folder, plan=plan)
    plan.write_text(json.dumps({"format": "prune-export/plan", "version": 1, "layers": [layers[0]] * 3}))
    result = prune_export.export(folder, tmp_path / "out", plan=plan, target="cpu", samples=4)
    assert [layer.after.heads for layer in result.summary.layers] == [1, 1, 1]


def test_pruned_heads_of_shared_layers_are_refused(tmp_path: Path) -> None:
    case = next(case for case in FAMILY_CASES if case.model_type == "albert")
    folder = save(make_model(case, case.task), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pruned_heads": {"0": [1]}}))
    with pytest.raises(UnsupportedError, match="shared layers"):
        load_checkpoint(folder)


def test_the_oracle_refuses_invented_weights(tmp_path: Path) -> None:
    model = make_model(BERT, "text-classification")
    checkpoint = load_checkpoint(save(model, tmp_path))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["bert.pooler.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"no weights for bert\.pooler\.dense\.weight"):
        load_reference_model(checkpoint)


def _structures(shared: Path) -> list[dict[str, Any]]:
    networks: list[dict[str, Any]] = json.loads((shared / "structures" / "nn_pruning.json").read_text())["networks"]
    return networks


# Every network in one form, and the smallest in all; the rest is the matrix.
_STRUCTURES = [
    pytest.param(index, form, marks=() if form == "hub" or index in (3, 7) else pytest.mark.matrix)
    for index in range(10)
    for form in ("hub", "masked", "biased")
]


@pytest.mark.slow
@pytest.mark.parametrize(("index", "file_format"), _STRUCTURES)
def test_published_structures(index: int, file_format: str, shared: Path, tmp_path: Path) -> None:
    """Each published structure in each format: the sizes are what the structure says, and the answers agree."""
    if file_format == "hub" and not NATIVE_PRUNING:
        pytest.skip("transformers 5 cannot write this format")
    network = _structures(shared)[index]
    tool = runpy.run_path(str(shared / "tools" / "make_checkpoint.py"))
    model = tool["build"](network, file_format=file_format, seed=0).eval()
    folder = save(model, tmp_path / "checkpoint")
    result = prune_export.export(folder, tmp_path / "out", target="cpu", verify=False)
    kept = [layer.kept_heads for layer in result.summary.layers]
    assert kept == [tuple(heads) for heads in network["heads_kept"]]
    assert [layer.after.columns for layer in result.summary.layers] == network["intermediate_kept"]
    assert result.summary.parameters_after == _parameters(network)
    assert result.summary.bytes_after is not None
    assert 4 * result.summary.parameters_after < result.summary.bytes_after < 4.05 * result.summary.parameters_after
    inputs = example_inputs(model, batch=2, length=24)
    with torch.no_grad():
        expected = model(**inputs)
    session = runtime.create_session(result.model)
    found = runtime.run(session, {name: value.numpy() for name, value in inputs.items()})
    reference = {name: expected[name].numpy() for name in found}
    assert largest_difference(reference, found) < 1e-4


def _parameters(network: dict[str, Any]) -> int:
    """Parameters of a BERT for question answering with this structure, without key and value biases (folded)."""
    hidden = network["hidden"]
    total = (30522 + 512 + 2) * hidden + 2 * hidden + 2 * hidden + 2
    for heads, columns in zip(network["heads_kept"], network["intermediate_kept"], strict=True):
        width = len(heads) * network["head_dim"]
        total += 4 * width * hidden + width + hidden
        total += 2 * columns * hidden + columns + hidden
        total += 4 * hidden
    return total


def test_checkpoint_says_where_it_came_from(tmp_path: Path) -> None:
    checkpoint: Checkpoint = load_checkpoint(save(masked_model(), tmp_path))
    assert checkpoint.source.folder == tmp_path
    assert [path.name for path in checkpoint.weights_files] == ["model.safetensors"]
