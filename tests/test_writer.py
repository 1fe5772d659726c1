"""The graph itself: operations, opsets, bytes, external data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from exporters import runtime
from exporters.encoder import ConstantBlock, Encoder
from exporters.errors import WriteError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save, weights_size
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import MAX_OPSET, MIN_OPSET, build
from exporters.tasks import TASKS, Task
from prune_export.verbs.inspect import inspect
from tests.comparing import FORMS, LIMITS, RUNNABLE, largest_difference, onnx_outputs, torch_outputs
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, linear, make_model
from tests.models import save as save_model

every_family = pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
every_target = pytest.mark.parametrize("target", TARGETS)
every_form = pytest.mark.parametrize(("target", "dtype"), FORMS)


def encoder_of(case: FamilyCase, folder: Path) -> Encoder:
    return inspect(save_model(make_model(case, case.task), folder)).slim


@every_family
@every_form
def test_files_are_valid_and_the_same_each_time(case: FamilyCase, target: str, dtype: str, tmp_path: Path) -> None:
    encoder = encoder_of(case, tmp_path / "one")
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    save(build(encoder, TARGETS[target], PRECISIONS[dtype]), first)
    again = encoder_of(case, tmp_path / "two")
    save(build(again, TARGETS[target], PRECISIONS[dtype]), second)
    assert first.read_bytes() == second.read_bytes()
    model = onnx.load(first)
    onnx.checker.check_model(model, full_check=TARGETS[target].name == "portable")
    assert model.SerializeToString(deterministic=True) != b""
    assert [value.name for value in model.graph.input] == list(encoder.inputs)
    assert [value.name for value in model.graph.output] == list(encoder.outputs)
    for value in (*model.graph.input, *model.graph.output):
        dimensions = [part.dim_param or part.dim_value for part in value.type.tensor_type.shape.dim]
        assert dimensions[:2] == ["batch_size", "sequence_length"]
        assert value.type.tensor_type.elem_type in (onnx.TensorProto.INT64, onnx.TensorProto.FLOAT)


def test_portable_holds_standard_operations_only(tmp_path: Path) -> None:
    for case in FAMILY_CASES:
        for task in {"question-answering", "fill-mask", "text-classification"} & set(case.tasks):
            found = inspect(save_model(make_model(case, task), tmp_path / f"{case}-{task}"))
            for dtype in PRECISIONS.values():
                model = build(found.slim, TARGETS["portable"], dtype)
                assert {node.domain for node in model.graph} == {""}
                assert set(model.opset_imports) == {""}


def test_targets_use_the_forms_that_they_say(tmp_path: Path) -> None:
    """Counts, so that no form silently falls back to another."""
    encoder = encoder_of(FAMILY_CASES[0], tmp_path)
    counts = {}
    for name, target in TARGETS.items():
        operations = [node.op_type for node in build(encoder, target, PRECISIONS["fp32"]).graph]
        counts[name] = {kind: operations.count(kind) for kind in set(operations)}
    assert counts["cuda"]["MultiHeadAttention"] == 3
    assert counts["cuda"]["SkipLayerNormalization"] == 6
    assert counts["cuda"]["Gelu"] == 3
    assert counts["cuda-packed"]["PackedMultiHeadAttention"] == 3
    assert counts["cuda-packed"]["SkipLayerNormalization"] == 6
    for name in ("portable", "cpu"):
        assert counts[name]["LayerNormalization"] == 7
        assert counts[name]["Erf"] == 3
    # Three projections, two products and one output a layer, two linears of the feed-forward block, one head.
    assert counts["portable"]["Softmax"] == 3
    assert counts["portable"]["MatMul"] == 3 * 8 + 1
    assert counts["cpu"]["Attention"] == 3
    assert counts["cpu"]["MatMul"] == 3 * 3 + 1


@pytest.mark.parametrize("opset", range(MIN_OPSET, MAX_OPSET + 1))
@every_form
def test_every_opset_answers_alike(opset: int, target: str, dtype: str, tmp_path: Path) -> None:
    model = make_model(FAMILY_CASES[1], "question-answering")
    encoder = inspect(save_model(model, tmp_path)).slim
    inputs = example_inputs(model)
    reference = torch_outputs(model, encoder, inputs)
    found = onnx_outputs(encoder, inputs, tmp_path, target=target, dtype=dtype, opset=opset)
    assert largest_difference(reference, found) < LIMITS[dtype]
    written = onnx.load(tmp_path / f"{target}-{dtype}.onnx")
    assert {entry.domain: entry.version for entry in written.opset_import}[""] == opset
    assert written.ir_version >= onnx.helper.find_min_ir_version_for(written.opset_import, ignore_unknown=True)


@pytest.mark.parametrize("opset", [MIN_OPSET - 1, MAX_OPSET + 1])
def test_other_opsets_are_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=f"opset {opset} is not supported; expected {MIN_OPSET} to {MAX_OPSET}"):
        build(encoder_of(FAMILY_CASES[0], tmp_path), TARGETS["cpu"], PRECISIONS["fp32"], opset=opset)


@every_form
def test_external_data_holds_the_same_network(target: str, dtype: str, tmp_path: Path) -> None:
    """What is used above 2 GB, with a smaller limit."""
    model = make_model(FAMILY_CASES[0], "fill-mask")
    encoder = inspect(save_model(model, tmp_path)).slim
    inputs = {name: value.numpy() for name, value in example_inputs(model).items()}
    single, external = tmp_path / "single" / "model.onnx", tmp_path / "external" / "model.onnx"
    answers = []
    for path, limit in ((single, 10**9), (external, 1000)):
        path.parent.mkdir()
        graph = build(encoder, TARGETS[target], PRECISIONS[dtype])
        size = weights_size(graph)
        files = save(graph, path, single_file_limit=limit)
        assert sum(file.stat().st_size for file in files) > size
        answers.append(runtime.run(runtime.create_session(path), inputs))
    assert sorted(path.name for path in external.parent.iterdir()) == ["model.onnx", "model.onnx_data"]
    assert external.with_name("model.onnx_data").stat().st_size > size / 3
    assert largest_difference(answers[0], answers[1]) == 0.0
    again = tmp_path / "again" / "model.onnx"
    again.parent.mkdir()
    save(build(encoder, TARGETS[target], PRECISIONS[dtype]), again, single_file_limit=1000)
    assert again.read_bytes() == external.read_bytes()
    assert again.with_name("model.onnx_data").read_bytes() == external.with_name("model.onnx_data").read_bytes()


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    encoder = encoder_of(FAMILY_CASES[0], tmp_path)
    for limit in (10**9, 1000):
        graph = build(encoder, TARGETS["cpu"], PRECISIONS["fp32"])
        size, steps = weights_size(graph), []
        save(graph, tmp_path / "model.onnx", progress=steps.append, single_file_limit=limit)
        # With external data the smallest tensors stay in the model file, uncounted.
        assert sum(steps) == size if limit > size else 0.9 * size < sum(steps) <= size


def test_fp16_refuses_weights_that_it_cannot_hold(tmp_path: Path) -> None:
    model = make_model(FAMILY_CASES[0], "question-answering")
    model.bert.encoder.layer[1].output.dense.weight.data[0, 0] = 1e5
    encoder = inspect(save_model(model, tmp_path)).slim
    with pytest.raises(WriteError, match=r"layer_1/feed_forward/down\.weight.*100000.*--dtype fp32"):
        save(build(encoder, TARGETS["cpu"], PRECISIONS["fp16"]), tmp_path / "model.onnx")


def test_cuda_head_sizes_are_multiples_of_eight(tmp_path: Path) -> None:
    encoder = encoder_of(FAMILY_CASES[0], tmp_path)  # heads of 6
    model = build(encoder, TARGETS["cuda"], PRECISIONS["fp32"])
    shapes = {name: value.shape for name, value in model.graph.initializers.items()}
    assert list(shapes["layer_0/attention/query.weight"]) == [24, 4 * 8]
    assert list(shapes["layer_0/attention/output.weight"]) == [4 * 8, 24]


@pytest.mark.parametrize("target", TARGETS)
def test_cuda_columns_are_multiples_of_eight(target: str, tmp_path: Path) -> None:
    model = make_model(FAMILY_CASES[0], "question-answering")
    linear(model, FAMILY_CASES[0], 0, "up").weight.data[:5] = 0
    linear(model, FAMILY_CASES[0], 0, "up").bias.data[:5] = 0
    encoder = inspect(save_model(model, tmp_path / "checkpoint")).slim
    (columns, hidden) = encoder.layers[0].feed_forward.up.weight.shape
    assert columns % 8
    graph = build(encoder, TARGETS[target], PRECISIONS["fp32"]).graph
    wide = columns + -columns % 8 if target.startswith("cuda") else columns
    assert list(graph.initializers["layer_0/feed_forward/up.weight"].shape) == [hidden, wide]
    assert list(graph.initializers["layer_0/feed_forward/down.weight"].shape) == [wide, hidden]
    if target in RUNNABLE:
        inputs = example_inputs(model)
        found = onnx_outputs(encoder, inputs, tmp_path, target=target)
        assert largest_difference(torch_outputs(model, encoder, inputs), found) < 1e-5


@pytest.mark.parametrize("target", ["cuda", "cuda-packed"])
@pytest.mark.parametrize("task", TASKS)
def test_the_residual_stream_of_cuda_is_never_cast(target: str, task: Task, tmp_path: Path) -> None:
    """In fp16; casts are of the mask at the start and of the outputs at the end."""
    encoder = inspect(save_model(make_model(FAMILY_CASES[0], task), tmp_path)).slim
    graph = build(encoder, TARGETS[target], PRECISIONS["fp16"]).graph
    casts = Counter(node.attributes["to"].as_int() for node in graph if node.op_type == "Cast")
    assert casts[ir.DataType.FLOAT] == 1
    # For classification the last attention asks for one token, and has a mask of its own.
    masks = 1 + (task == "text-classification") if target == "cuda" else 0
    assert casts[ir.DataType.FLOAT16] == masks
    assert all(value.dtype == ir.DataType.FLOAT for value in graph.outputs)


def test_every_sequence_and_batch_size_runs(tmp_path: Path) -> None:
    model = make_model(FAMILY_CASES[0], "question-answering")
    encoder = inspect(save_model(model, tmp_path)).slim
    for batch in (1, 2, 5, 8):
        for length in (1, 2, 7, 40):
            inputs = example_inputs(model, batch=batch, length=length)
            inputs["attention_mask"][:, 0] = 1
            reference = torch_outputs(model, encoder, inputs)
            for target in RUNNABLE:
                assert largest_difference(reference, onnx_outputs(encoder, inputs, tmp_path, target=target)) < 1e-5


def test_only_the_first_token_is_asked_for_where_only_it_is_read(tmp_path: Path) -> None:
    """Text classification: queries, output projection and feed-forward block of the last attention take one position."""
    inputs = {name: value.numpy() for name, value in example_inputs(make_model(FAMILY_CASES[0], "fill-mask")).items()}
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for task in ("text-classification", "token-classification"):
        encoder = inspect(save_model(make_model(FAMILY_CASES[0], task), tmp_path / task)).slim
        for target in RUNNABLE:
            graph = build(encoder, TARGETS[target], PRECISIONS["fp32"])
            products = {
                node.inputs[1].name: node.outputs[0]
                for node in graph.graph
                if node.op_type == "MatMul" and node.inputs[1] is not None and node.inputs[1].is_initializer()
            }
            for value in products.values():
                value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["a", "b"])
                graph.graph.outputs.append(value)
            save(graph, tmp_path / "model.onnx")
            found = runtime.run(runtime.create_session(tmp_path / "model.onnx", optimize=False), inputs)
            rows[task, target] = {
                name: found[value.name].size // found[value.name].shape[-1] for name, value in products.items()
            }
    batch, length = inputs["input_ids"].shape
    for target in RUNNABLE:
        narrow, wide = rows["text-classification", target], rows["token-classification", target]
        assert narrow["layer_2/attention/query.weight"] == batch, target
        for part in ("attention/output", "feed_forward/up", "feed_forward/down"):
            assert narrow[f"layer_2/{part}.weight"] == batch, (target, part)
            assert narrow[f"layer_1/{part}.weight"] == batch * length, (target, part)
            assert wide[f"layer_2/{part}.weight"] == batch * length, (target, part)
        assert narrow["layer_2/attention/key.weight"] == batch * length


@pytest.mark.parametrize("constant", [{2}, {1, 2}, {0, 1, 2}], ids=str)
def test_classifiers_whose_last_layers_lost_their_attention_answer_alike(constant: set[int], tmp_path: Path) -> None:
    model = make_model(FAMILY_CASES[0], "text-classification")
    for index in constant:
        model.bert.encoder.layer[index].attention.output.dense.weight.data.zero_()
    encoder = inspect(save_model(model, tmp_path)).slim
    assert {i for i, layer in enumerate(encoder.layers) if isinstance(layer.attention, ConstantBlock)} == constant
    inputs = example_inputs(model)
    reference = torch_outputs(model, encoder, inputs)
    for target, dtype in FORMS:
        found = onnx_outputs(encoder, inputs, tmp_path, target=target, dtype=dtype)
        assert largest_difference(reference, found) < LIMITS[dtype], (target, dtype)
