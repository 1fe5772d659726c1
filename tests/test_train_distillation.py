"""Distillation: losses by hand, hidden states against transformers' own, teachers, students of fewer layers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import prune_export
from exporters.errors import CheckpointError, UsageError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.facts.even_layers import even_layers
from prune_export.tasks import SPECS
from prune_export.training.distillation import check_map, even_map, hidden_loss
from prune_export.training.methods.student import write_student
from prune_export.training.run import train
from prune_export.training.teacher import HiddenStates, layers_of, load_teacher, segments
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, make_model, save
from tests.tiny_tokenizers import bert_tokenizer
from tests.tiny_training import checkpoint_folder, tiny_recipe

ONE = torch.ones(1, 2, dtype=torch.int64)


NOTHING = {"intermediate_steps": 0, "prediction_steps": 0, "fine_tuning_steps": 0}

# --- losses --------------------------------------------------------------------------------------------------------------


def span(start: list[list[float]], end: list[list[float]]) -> dict[str, torch.Tensor]:
    return {"start_logits": torch.tensor(start), "end_logits": torch.tensor(end)}


def test_span_logits_by_hand() -> None:
    """T² · Σ p log(p / q), p and q softmax of the logits over T; the mean of start and end."""
    temperature = 2.0
    student, teacher = span([[0.0, 0.0]], [[1.0, 0.0]]), span([[2 * math.log(3), 0.0]], [[1.0, 0.0]])
    p = 0.75  # softmax of (log 3, 0)
    divergence = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    found = SPECS["question-answering"].divergence(student, teacher, ONE, temperature)
    assert found.item() == pytest.approx(4 * divergence / 2, rel=1e-5)  # the ends agree


def test_padding_has_no_part() -> None:
    mask = torch.tensor([[1, 1, 0]])
    student, teacher = span([[0.0, 1.0, 9.0]], [[0.0, 1.0, -9.0]]), span([[1.0, 0.0, -5.0]], [[1.0, 0.0, 5.0]])
    found = SPECS["question-answering"].divergence(student, teacher, mask, 1.0)
    short = [{name: value[:, :2] for name, value in one.items()} for one in (student, teacher)]
    assert found.item() == pytest.approx(SPECS["question-answering"].divergence(*short, ONE, 1.0).item())
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [7.0, -7.0]]])
    others = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [-7.0, 7.0]]])
    found = SPECS["token-classification"].divergence({"logits": tokens}, {"logits": others}, mask, 1.0)
    second = SPECS["text-classification"].divergence({"logits": tokens[:, 1]}, {"logits": others[:, 1]}, mask, 1.0)
    assert found.item() == pytest.approx(second.item() / 2)  # the first token agrees, the third is padding


def test_the_gradient_is_that_of_soft_cross_entropy() -> None:
    """Hinton et al. 2015, section 2: T² · (q - p) / T for one distribution."""
    student = torch.tensor([[0.3, -1.0, 0.7]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -2.0]])
    SPECS["text-classification"].divergence({"logits": student}, {"logits": teacher}, ONE, 3.0).backward()
    expected = 3.0 * ((student / 3).softmax(1) - (teacher / 3).softmax(1))
    assert torch.allclose(student.grad, expected.detach(), atol=1e-6)  # type: ignore[arg-type]


def test_hidden_states_by_hand() -> None:
    mask = torch.tensor([[1, 0]])
    student = [torch.tensor([[[1.0, 3.0], [100.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [5.0, 5.0]]])]
    teacher = [torch.zeros(1, 2, 2), torch.ones(1, 2, 2), torch.full((1, 2, 2), 2.0)]
    # Embeddings: (1 + 9) / 2; the layer against the teacher's second: (4 + 4) / 2. Padding counts nothing.
    assert hidden_loss(student, teacher, (0, 2), mask).item() == pytest.approx((5 + 4) / 2)
    assert hidden_loss(student, teacher, (-1, 2), mask).item() == pytest.approx(4)
    projection = nn.Linear(2, 2, bias=False)
    projection.weight.data = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    assert hidden_loss(student, teacher, (0, 2), mask, projection).item() == pytest.approx((4 / 2 + 4) / 2)


def test_layers_at_even_distances() -> None:
    """TinyBERT: g(m) = m · 12 / 6; its 4 layers take every third."""
    assert even_map(6, 12) == (0, 2, 4, 6, 8, 10, 12)
    assert even_map(4, 12) == (0, 3, 6, 9, 12)
    assert even_layers(6, 12) == (1, 3, 5, 7, 9, 11)
    assert even_layers(12, 12) == tuple(range(12))
    assert even_map(4, 6)[-1] == 6
    assert even_layers(4, 6)[-1] == 5
    assert check_map((0, -1, 3), 2, 3) == (0, -1, 3)
    for wrong in ((0, 1), (0, 1, 4), (0, -2, 1), (-1, -1, -1)):
        with pytest.raises(UsageError, match="expected 3 numbers"):
            check_map(wrong, 2, 3)


# --- networks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_hidden_states_are_transformers_own(case: FamilyCase, tmp_path: Path) -> None:
    original = make_model(case, case.task)
    checkpoint = load_checkpoint(save(original, tmp_path))
    model = load_reference_model(checkpoint)
    inputs = example_inputs(model)
    slim = prune_export.slim(tmp_path)
    with torch.no_grad():
        *states, last = model(**inputs, output_hidden_states=True).hidden_states
        final_norm = getattr(getattr(model, checkpoint.family.prefix), "final_norm", None)
        if final_norm is not None and transformers.__version__ < "5":  # version 5 gives the last state after it
            last = final_norm(last)
        expected = (*states, last)
        for network in (model, slim):
            kept = HiddenStates(network, layers_of(checkpoint, network))
            network(**inputs)
            network(**inputs)  # only the last pass counts
            assert len(kept.states) == len(expected)
            tokens = inputs["attention_mask"].bool() | (not checkpoint.encoder.has_windows)
            for found, state in zip(kept.states, expected, strict=True):
                torch.testing.assert_close(found[tokens], state[tokens], atol=1e-4, rtol=0)
            kept.remove()
            network(**inputs)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in slim.modules())


def test_a_bert_teaches_a_distilbert_as_it_reads_itself(tmp_path: Path) -> None:
    """A DistilBERT is given no token types; its teacher tells the segments apart all the same."""
    case = next(case for case in FAMILY_CASES if case.model_type == "distilbert")
    student = load_checkpoint(checkpoint_folder(tmp_path / "student", case=case))
    teacher = load_teacher(str(checkpoint_folder(tmp_path / "teacher")), student, device="cpu", with_states=False)
    tokenizer = bert_tokenizer()
    batch = dict(tokenizer(["the?", "a b c"], ["abc", "x y"], padding=True, return_tensors="pt"))
    types = batch.pop("token_type_ids")
    attended = batch["attention_mask"].bool()
    assert torch.equal(segments(batch["input_ids"], tokenizer.sep_token_id)[attended], types[attended])
    assert types.any()
    with torch.no_grad():
        expected = teacher.model(**batch, token_type_ids=types)
        without = teacher.model(**batch)
    found = teacher(batch)
    assert torch.allclose(found.start_logits[attended], expected.start_logits[attended], atol=1e-6)
    assert not torch.allclose(found.start_logits[attended], without.start_logits[attended], atol=1e-4)


def test_a_teachers_classes_may_have_another_order(tmp_path: Path) -> None:
    names = {0: "contradiction", 1: "Entailment", 2: "neutral"}
    folders = [
        checkpoint_folder(tmp_path / place, "text-classification", id2label=labels)
        for place, labels in (("student", {0: "entailment", 1: "neutral", 2: "contradiction"}), ("teacher", names))
    ]
    student = load_checkpoint(folders[0])
    teacher = load_teacher(str(folders[1]), student, device="cpu", with_states=False)
    inputs = example_inputs(teacher.model)
    with torch.no_grad():
        own = teacher.model(**inputs).logits
    assert torch.equal(teacher(inputs).logits, own[:, [1, 2, 0]])


def test_a_teacher_is_only_asked(tmp_path: Path) -> None:
    student = load_checkpoint(checkpoint_folder(tmp_path / "student"))
    teacher = load_teacher(str(checkpoint_folder(tmp_path / "teacher")), student, device="cpu", with_states=True)
    found = teacher(example_inputs(teacher.model) | {"start_positions": torch.zeros(3, dtype=torch.int64)})
    assert found.loss is None
    assert not found.start_logits.requires_grad
    assert not teacher.model.training
    assert teacher.states is not None
    assert len(teacher.states.states) == 3
    other = checkpoint_folder(tmp_path / "other")
    words = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(words.replace('"a"', '"another"', 1))
    with pytest.raises(CheckpointError, match="has another vocabulary"):
        load_teacher(str(other), student, device="cpu", with_states=False)


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_a_student_is_the_network_without_its_other_layers(case: FamilyCase, tmp_path: Path) -> None:
    original = make_model(case, case.task)
    checkpoint = load_checkpoint(save(original, tmp_path / "teacher"))
    write_student(checkpoint, (0, 2), tmp_path / "student")
    student = load_checkpoint(tmp_path / "student")
    assert len(student.encoder.layers) == 2
    model, inputs = load_reference_model(student), example_inputs(original)
    layers = [
        original.get_submodule(path) for path in checkpoint.family.layer_paths(original.config, task=checkpoint.task)
    ]
    if case.model_type == "albert":
        original.config.num_hidden_layers = original.albert.encoder.config.num_hidden_layers = 2
    else:  # the other layers hand on what they are given
        handles = [
            layer.register_forward_hook(
                lambda _module, inputs, output: (
                    inputs[0] if isinstance(output, torch.Tensor) else (inputs[0], *output[1:])
                )
            )
            for layer in (layers[1], *layers[3:])
        ]
    with torch.no_grad():
        expected, found = original(**inputs)[0], model(**inputs)[0]
        if case.model_type != "albert":
            for handle in handles:
                handle.remove()
            assert not torch.allclose(original(**inputs)[0], found, atol=1e-3)
    tokens = inputs["attention_mask"].bool() | (not checkpoint.encoder.has_windows)
    assert torch.allclose(found[tokens], expected[tokens], atol=1e-5)


def test_a_layer_stays_of_its_kind(tmp_path: Path) -> None:
    """ModernBERT's first layer has no norm before its attention, and every third one has no window."""
    case = next(case for case in FAMILY_CASES if case.model_type == "modernbert")
    checkpoint = load_checkpoint(save(make_model(case, case.task), tmp_path / "teacher"))
    for keep in ((1, 2), (0, 3), (2, 0)):
        with pytest.raises(UsageError, match="another kind of attention or other norms"):
            write_student(checkpoint, keep, tmp_path / "student")
    write_student(checkpoint, (0, 2, 1, 3), tmp_path / "student")
    assert len(load_checkpoint(tmp_path / "student").encoder.layers) == 4


# --- whole trainings -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_student_in_three_trainings(tmp_path: Path) -> None:
    """TinyRoBERTa's order: hidden states, then logits, then the task alone."""
    pytest.importorskip("accelerate")
    checkpoint_folder(tmp_path / "model", num_hidden_layers=4)
    steps: dict[str, Any] = {f"{name}_steps": 3 for name in ("intermediate", "prediction", "fine_tuning")}
    recipe = tiny_recipe(tmp_path, method={"kind": "student", "layers": 2, "intermediate_learning_rate": 1e-2} | steps)
    result = train(recipe, keep_checkpoints=True)
    runs = tmp_path / "run/stages"
    teacher, first, second, last = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "model", runs / "01-intermediate", runs / "02-prediction", result.final)
    )
    head, layer = "qa_outputs.weight", "bert.encoder.layer.{}.output.dense.weight"
    assert torch.equal(first[head], teacher[head])  # hidden states say nothing about the head
    start = load_file(runs / "01-intermediate-start/model.safetensors")
    assert torch.equal(start[layer.format(1)], teacher[layer.format(3)])
    assert not torch.equal(first[layer.format(1)], start[layer.format(1)])
    assert not torch.equal(second[head], first[head])
    assert not torch.equal(last[head], second[head])
    assert layer.format(2) not in last
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(result.final)
    assert model.config.num_hidden_layers == 2
    assert prune_export.export(result.final, tmp_path / "onnx", samples=4).parity.passed  # type: ignore[union-attr]


def test_a_wider_teacher_through_a_learnt_projection(tmp_path: Path) -> None:
    """The projection is trained, is in the run's checkpoints, and not in the result; heads and layers differ too."""
    pytest.importorskip("accelerate")
    teacher = checkpoint_folder(
        tmp_path / "teacher", hidden_size=48, num_attention_heads=6, num_hidden_layers=4, intermediate_size=40
    )
    recipe = tiny_recipe(tmp_path, teacher=str(teacher), distillation={"weight": 0.5, "hidden_weight": 1.0})
    result = train(recipe, keep_checkpoints=True)
    saved = load_file(tmp_path / "run/checkpoints/01-training/checkpoint-6/model.safetensors")
    assert saved["distillation_projection.weight"].shape == (48, 32)
    final = load_file(result.final / "model.safetensors")
    assert set(final) == set(load_file(tmp_path / "model/model.safetensors"))


def test_distillation_brings_the_student_nearer_to_its_teacher(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    checkpoint_folder(tmp_path / "teacher", num_hidden_layers=4)
    settings = {"weight": 1.0, "temperature": 1.0}
    teacher = str(tmp_path / "teacher")
    train(tiny_recipe(tmp_path, teacher=teacher, distillation=settings, schedule={"steps": 40}))
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = [line["loss_logits"] for line in lines if "loss_logits" in line]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"distillation": {"weight": 1.5}}, "distillation.weight: expected a number from 0 to 1; found 1.5"),
        ({"distillation": {"temperature": 0.0}}, "distillation.temperature: expected a number above 0; found 0.0"),
        ({"distillation": {"hidden_weight": 1.0, "layer_map": [0, 1]}}, "expected 3 numbers"),
        ({"method": {"kind": "student", "layers": 9}}, "method.layers: expected 1 to 2"),
        ({"method": {"kind": "student", "keep": [1, 1]}}, "method.keep: expected different layers from 0 to 1"),
        ({"method": {"kind": "student"} | NOTHING}, "all trainings of the student are of 0 steps"),
    ],
)
def test_bad_recipes(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    with pytest.raises(UsageError, match=message):
        train(tiny_recipe(tmp_path, **sections))
