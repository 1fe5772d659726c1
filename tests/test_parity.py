"""Parity has teeth: it passes what is right and fails each kind of damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import prune_export
from exporters.errors import ParityError, UsageError
from prune_export.outputs.report import check_report
from prune_export.parity.inputs import MAX_BATCH, cases
from prune_export.parity.junit import write_junit
from prune_export.parity.tolerance import TOLERANCES, tolerance_for
from prune_export.tasks.classes import same_classes
from prune_export.tasks.question_answering import best_span, same_answers, span_scores
from prune_export.tasks.spec import Agreement
from tests.models import FAMILY_CASES, FamilyCase, make_model, save


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its export."""
    folder = tmp_path_factory.mktemp("parity")
    checkpoint = save(make_model(FAMILY_CASES[0], "question-answering"), folder / "checkpoint")
    prune_export.export(checkpoint, folder / "onnx", target="portable", samples=4)
    return checkpoint, folder / "onnx"


def damaged(source: Path, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of an exported folder with a changed graph."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")
    return folder


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def change_weight(name: str, amount: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = initializer(model, name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] += amount
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return change


def ignore_the_mask(model: onnx.ModelProto) -> None:
    """The additive mask becomes zero: only padded batches show it."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size == 1 and values < -1e38:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(values), tensor.name))
            return
    raise AssertionError("no mask constant")


def shorten_positions(model: onnx.ModelProto) -> None:
    """The last position row is another: only the longest inputs show it."""
    tensor = initializer(model, "embeddings/position.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[-1, 0] += 1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def swap_outputs(model: onnx.ModelProto) -> None:
    for output in model.graph.output:
        output.name = {"start_logits": "end_logits", "end_logits": "start_logits"}[output.name]
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = {"start_logits": "end_logits", "end_logits": "start_logits"}.get(name, name)


def other_epsilon(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 0.05


def test_the_right_model_passes(exported: tuple[Path, Path]) -> None:
    report = prune_export.verify(*exported)
    assert report.passed
    assert len(report.results) == 16
    assert max(absolute for absolute, _ in report.worst(report.comparisons()[0]).values()) < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        change_weight("layer_1/feed_forward/down.weight", 0.01),
        change_weight("layer_2/attention/query.weight", 0.05),
        change_weight("head/output.bias", 0.001),
        change_weight("layer_0/attention/norm.weight", float("nan")),
        ignore_the_mask,
        shorten_positions,
        swap_outputs,
        other_epsilon,
    ],
    ids=["weight", "query", "bias", "nan", "mask", "last position", "swapped", "epsilon"],
)
def test_damage_fails(exported: tuple[Path, Path], change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    checkpoint, onnx_folder = exported
    report = prune_export.verify(checkpoint, damaged(onnx_folder, tmp_path / "damaged", change))
    assert not report.passed
    assert report.failures
    assert "start_logits" in report.explain() or "end_logits" in report.explain()


def test_another_checkpoint_fails(exported: tuple[Path, Path], tmp_path: Path) -> None:
    other = save(make_model(FAMILY_CASES[0], "question-answering", seed=1), tmp_path)
    assert not prune_export.verify(other, exported[1]).passed


def test_an_export_that_fails_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is made wrong on purpose: the attention scale is lost."""
    from exporters.onnx import attention

    right = attention.project

    def wrong(*arguments: object, **options: object) -> object:
        return right(*arguments, **(options | {"constant_scale": 1.0}))  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "project", wrong)
    checkpoint = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path / "checkpoint")
    with pytest.raises(ParityError, match="nothing was written"):
        prune_export.export(checkpoint, tmp_path / "out" / "model.onnx", target="portable", samples=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]
    result = prune_export.export(checkpoint, tmp_path / "out", target="portable", verify=False)
    assert result.record["parity"] is None
    assert json.loads((tmp_path / "out" / "prune_export.json").read_text())["parity"] is None


def test_a_wrong_surgeon_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropping value biases without folding them (nn_pruning's mistake) fails both comparisons."""
    monkeypatch.setattr("prune_export.surgeon.operation.fold_value_bias", lambda block: replace(block, value_bias=None))
    checkpoint = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path / "checkpoint")
    with pytest.raises(ParityError, match="slim PyTorch: ") as caught:
        prune_export.export(checkpoint, tmp_path / "out", target="cpu", samples=4)
    assert "ONNX: " in str(caught.value)


def test_tolerances_have_reasons_and_atol_replaces_them() -> None:
    assert set(TOLERANCES) == {"fp32", "fp16", "int8", "int8, metric judged", "slim"}
    assert TOLERANCES["fp32"].limit == 1e-4
    assert all(len(tolerance.reason) > 20 for tolerance in TOLERANCES.values())
    assert tolerance_for("fp32", 0.5).limit == 0.5
    assert tolerance_for("int8").limit < tolerance_for("int8", metric_judged=True).limit
    assert tolerance_for("fp32", metric_judged=True) is TOLERANCES["fp32"]
    assert TOLERANCES["fp32"].allows(9e-5, 0.1)
    assert not TOLERANCES["fp32"].allows(2e-4, 0.1)
    assert TOLERANCES["fp32"].allows(9e-4, 10.0)
    assert not TOLERANCES["fp32"].allows(float("nan"), 1.0)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"atol.*: expected a number"):
            prune_export.verify("nowhere", "nowhere", atol=wrong)


def test_a_tighter_atol_fails_the_same_model(exported: tuple[Path, Path]) -> None:
    assert not prune_export.verify(*exported, atol=1e-12).passed


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_inputs_cover_what_they_should(case: FamilyCase, tmp_path: Path) -> None:
    found = prune_export.inspect(save(make_model(case, case.task), tmp_path))
    batches = list(cases(found.slim, None, samples=24, seed=0))
    assert len(batches) == 24
    sizes = {batch.inputs["input_ids"].shape for batch in batches}
    longest = found.slim.embeddings.max_length
    assert (1, 1) in sizes
    assert (1, longest) in sizes
    assert {1, MAX_BATCH} <= {size[0] for size in sizes}
    kinds = {batch.name.rsplit(" ", 1)[1] for batch in batches}
    assert kinds == {"none", "right", "left"}
    pad = found.slim.embeddings.pad_token_id
    for batch in batches:
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert set(batch.inputs) == set(found.slim.inputs)
        assert mask.sum(axis=1).min() >= 1
        assert np.array_equal(ids != pad, mask == 1)
        if batch.name.endswith("right"):
            assert (np.diff(mask, axis=1) <= 0).all()
        if batch.name.endswith("left"):
            assert (np.diff(mask, axis=1) >= 0).all()
    again = list(cases(found.slim, None, samples=24, seed=0))
    other = list(cases(found.slim, None, samples=24, seed=1))
    assert all(
        np.array_equal(a.inputs["input_ids"], b.inputs["input_ids"]) for a, b in zip(batches, again, strict=True)
    )
    assert not all(
        a.inputs["input_ids"].shape == b.inputs["input_ids"].shape for a, b in zip(batches, other, strict=True)
    )
    with pytest.raises(UsageError, match="--samples 3: expected a whole number from 4 to"):
        prune_export.verify("nowhere", "nowhere", samples=3)


def test_best_span_obeys_its_rules() -> None:
    context = np.array([False, True, True, True, False])
    start = np.array([9.0, 0.0, 2.0, 1.0, 9.0], dtype=np.float32)
    end = np.array([9.0, 3.0, 0.0, 1.0, 9.0], dtype=np.float32)
    # Best pairs inside the context: (1, 1) 3.0; (2, 3) 3.0; (2, 1) would give 5.0 but runs backwards. First of a tie.
    assert best_span(span_scores(start, end, context)) == (1, 1)
    end[3] = 1.5
    assert best_span(span_scores(start, end, context)) == (2, 3)
    long_start, long_end = np.zeros(60, dtype=np.float32), np.zeros(60, dtype=np.float32)
    long_start[0] = long_end[30] = 5.0
    assert best_span(span_scores(long_start, long_end, np.ones(60, dtype=bool))) in {
        (0, 0),
        (1, 30),
    }  # 0 to 30 is 31 tokens


def agreement_of_spans(one: Any, two: Any, context: Any, **limits: float) -> Agreement:
    return same_answers(*({"start_logits": start, "end_logits": end} for start, end in (one, two)), context, **limits)


def agreement_of_classes(one: Any, two: Any, mask: Any, **limits: float) -> Agreement:
    return same_classes({"logits": one}, {"logits": two}, mask, **limits)


def test_answers_agree_only_where_the_reference_ties() -> None:
    context = np.ones((2, 4), dtype=bool)
    start = np.array([[1, 0, 0, 0], [0, 1, 0, 0]], dtype=np.float32)
    end = np.array([[0, 0, 1, 0], [0, 1, 0, 0]], dtype=np.float32)
    same = agreement_of_spans((start, end), (start, end), context, tie=1e-3)
    assert (same.questions, same.same, same.enough) == (2, 2, True)
    moved = end.copy()
    moved[0] = [0, 0, 0, 2]
    assert agreement_of_spans((start, end), (start, moved), context, tie=1e-3).same == 1
    assert agreement_of_spans((start, end), (start, moved), context, tie=1.0).same == 2


def test_labels_agree_where_the_reference_chooses_them_or_ties() -> None:
    by_text = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.499]], dtype=np.float32)
    everything = np.ones((3, 4), dtype=bool)
    assert agreement_of_classes(by_text, by_text[:, ::-1], everything, tie=0.0).same == 0
    assert agreement_of_classes(by_text, by_text[:, ::-1], everything, tie=0.01).same == 1
    half = agreement_of_classes(by_text[:2], by_text[[0, 0]], everything, tie=0.0, least=0.5)
    assert (half.questions, half.same, half.enough) == (2, 1, True)
    assert not agreement_of_classes(by_text[:2], by_text[[0, 0]], everything, tie=0.0, least=0.6).enough
    by_token = np.stack([by_text, by_text[::-1]])  # [2, 3, 2]
    moved = by_token.copy()
    moved[0, 0] = [0.0, 1.0]
    mask = np.ones((2, 3), dtype=bool)
    assert (
        agreement_of_classes(by_token, moved, mask, tie=0.0).questions,
        agreement_of_classes(by_token, moved, mask, tie=0.0).same,
    ) == (
        6,
        5,
    )
    mask[0, 0] = False  # padding
    assert agreement_of_classes(by_token, moved, mask, tie=0.0).enough


def test_junit_names_what_failed(exported: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, onnx_folder = exported
    wrong = damaged(onnx_folder, tmp_path / "damaged", change_weight("head/output.bias", 1.0))
    report = prune_export.verify(checkpoint, wrong, samples=5)
    check_report(tmp_path / "reports" / "parity.xml")
    write_junit(report, tmp_path / "reports" / "parity.xml")
    suite = ElementTree.parse(tmp_path / "reports" / "parity.xml").getroot()[0]
    assert suite.get("tests") == "5"
    assert suite.get("failures") == "5"
    assert "start_logits differs by" in str(suite[0][0].get("message"))
    passed = prune_export.verify(checkpoint, onnx_folder, samples=5)
    write_junit(passed, tmp_path / "parity.xml")
    assert ElementTree.parse(tmp_path / "parity.xml").getroot()[0].get("failures") == "0"


def test_a_model_that_needs_its_plan_says_so(tmp_path: Path) -> None:
    checkpoint = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path / "checkpoint")
    layer = {"heads": "0,2", "columns": "0-9"}
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"format": "prune-export/plan", "version": 1, "layers": [layer] * 3}))
    result = prune_export.export(checkpoint, tmp_path / "out", plan=plan, target="cpu", samples=4)
    assert [layer.after.heads for layer in result.summary.layers] == [2, 2, 2]
    assert [layer.after.columns for layer in result.summary.layers] == [10, 10, 10]
    assert result.record["plan_given"] is True
    with pytest.raises(UsageError, match="was exported with --plan; give the same --plan"):
        prune_export.verify(checkpoint, tmp_path / "out")
    assert prune_export.verify(checkpoint, tmp_path / "out", plan=plan, samples=4).passed
    whole = {"heads": "0-3", "columns": "0-19"}
    record = tmp_path / "out" / "prune_export.json"  # holds the plan, and serves as one
    assert prune_export.verify(checkpoint, tmp_path / "out", plan=record, samples=4).passed
    plan.write_text(json.dumps({"format": "prune-export/plan", "version": 1, "layers": [whole] * 3}))
    assert not prune_export.verify(checkpoint, tmp_path / "out", plan=plan, samples=4).passed


def test_the_oracle_runs_without_gradients(exported: tuple[Path, Path]) -> None:
    assert torch.is_grad_enabled()
    prune_export.verify(*exported, samples=4)
    assert torch.is_grad_enabled()
