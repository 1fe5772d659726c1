"""Tasks: every one has a spec, its formulas are those of transformers and NumPy, and nothing else tells tasks apart."""

from __future__ import annotations

import ast
import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import transformers

import prune_export
from exporters.encoder import TaskHead
from exporters.onnx.precision import FP32
from exporters.onnx.serialize import save as save_onnx
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.session import Session
from exporters.tasks import TASKS, Task
from prune_export.families import FAMILIES
from prune_export.parity.reference import load_reference
from prune_export.parity.run import run_parity
from prune_export.parity.tolerance import TOLERANCES
from prune_export.progress import SILENT
from prune_export.pruning.gates import hugging_face_layers
from prune_export.pruning.scores import gate_gradients
from prune_export.slim_model.model import slim_module
from prune_export.tasks import LABELLED, SPECS, usual_length
from tests.models import FAMILY_CASES, example_inputs, make_model, save
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer

BERT = FAMILY_CASES[0]
PACKAGES = Path(prune_export.__file__).parents[1]


def test_every_task_has_a_spec_and_every_head_a_task() -> None:
    assert tuple(SPECS) == TASKS
    assert all(name == spec.name for name, spec in SPECS.items())
    assert {spec.head for spec in SPECS.values()} == set(get_args(TaskHead))
    assert len({spec.suffix for spec in SPECS.values()}) == len(TASKS)
    assert LABELLED == ("question-answering", "text-classification")


@pytest.mark.parametrize("task", TASKS)
def test_a_spec_describes_transformers_class(task: Task, tmp_path: Path) -> None:
    spec, model = SPECS[task], make_model(BERT, task)
    for family in (FAMILIES[case.model_type] for case in FAMILY_CASES if task in case.tasks):
        takes = inspect.signature(getattr(transformers, family.class_name(task)).forward).parameters
        assert set(spec.label_names) == {"start_positions", "end_positions", "labels"} & set(takes)
    assert hasattr(model, FAMILIES["bert"].prefix) != spec.base_model
    inputs = example_inputs(model)
    slim = prune_export.slim(save(model, tmp_path))
    with torch.no_grad():
        expected, found = model(**inputs), slim(**inputs)
    assert type(found).__name__ == spec.output_class
    assert type(found) is type(expected) or spec.base_model
    assert tuple(found) == spec.head.outputs
    for name in spec.head.outputs:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)
    by_token = expected[spec.head.outputs[0]].shape[:2] == inputs["input_ids"].shape
    assert spec.head.answers_per_token == by_token


# --- formulas (the loss: test_training.py; that of each sample: test_formulas_pruning.py) -----------------------------


def numpy_divergence(student: Any, teacher: Any, temperature: float) -> float:
    p, q = (np.exp(logits / temperature) / np.exp(logits / temperature).sum() for logits in (teacher, student))
    return float(temperature**2 * (p * np.log(p / q)).sum())


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("task", TASKS)
def test_the_divergence_is_numpys(task: Task, temperature: float) -> None:
    """The Kullback-Leibler divergence times T²; padding has no part."""
    spec, generator = SPECS[task], np.random.default_rng(0)
    mask = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
    if task == "question-answering":
        shape, pick = (3, 4), lambda values: [row[real == 1] for row, real in zip(values, mask, strict=True)]
    elif not spec.head.answers_per_token:
        shape, pick = (3, 5), list
    else:
        shape, pick = (3, 4, 5), lambda values: list(values[mask == 1])
    student, teacher = ({name: generator.normal(scale=2, size=shape) for name in spec.head.outputs} for _ in range(2))
    expected = np.mean(
        [
            numpy_divergence(one, other, temperature)
            for name in spec.head.outputs
            for one, other in zip(pick(student[name]), pick(teacher[name]), strict=True)
        ]
    )
    if task == "feature-extraction":
        expected = 0.0  # hidden states are no logits
    tensors = [{name: torch.from_numpy(values).float() for name, values in one.items()} for one in (student, teacher)]
    found = spec.divergence(*tensors, torch.from_numpy(mask), temperature)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert spec.divergence(tensors[1], tensors[1], torch.from_numpy(mask), temperature).item() == pytest.approx(0.0)


def test_a_regression_is_taught_by_squared_error() -> None:
    student, teacher = torch.tensor([[1.0], [4.0]]), torch.tensor([[0.5], [2.0]])
    found = SPECS["text-classification"].divergence({"logits": student}, {"logits": teacher}, torch.ones(2, 3), 3.0)
    assert found.item() == pytest.approx((0.25 + 4.0) / 2)


def test_features_are_scored_by_noise() -> None:
    """The product of features and noise, whose gradient is the noise; the mean over tokens that are no padding."""
    states, mask = (
        torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)),
        torch.tensor([[1, 1, 0], [1, 1, 1]]),
    )
    batch = {"attention_mask": mask}
    spec = SPECS["feature-extraction"]
    found = spec.sample_losses({"last_hidden_state": states}, batch, torch.Generator().manual_seed(5))
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(5)).numpy()
    products = (states.numpy() * noise).sum(axis=2)
    np.testing.assert_allclose(found.numpy(), [products[0, :2].mean(), products[1].mean()], rtol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_the_usual_length_is_the_tasks_where_the_model_takes_it(task: Task, tmp_path: Path) -> None:
    usual = 384 if task == "question-answering" else 128
    for positions in (40, 400):
        folder = save(make_model(BERT, task, max_position_embeddings=positions), tmp_path / str(positions))
        assert usual_length(prune_export.inspect(folder).slim) == min(usual, positions)
        assert SPECS[task].length_for(positions) == min(usual, positions)


# --- nothing else tells tasks apart -------------------------------------------------------------------------------------


def test_a_made_up_task_needs_its_spec_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sixth task on a head that is there: the slim model, scores, the graph and parity ask its spec."""

    def loss(outputs: Any, labels: Any, _config: Any) -> Any:
        return (outputs["logits"].sum(dim=1) - labels["wanted"]).square().mean() if "wanted" in labels else None

    def sample_losses(outputs: Any, batch: Any, _generator: Any) -> Any:
        return (outputs["logits"].sum(dim=1) - batch["wanted"]).square()

    counted: list[int] = []
    usual = SPECS["text-classification"]

    def agree(*outputs: Any, **limits: float) -> Any:
        counted.append(1)
        assert usual.agree is not None
        return usual.agree(*outputs, **limits)

    made_up: Any = "sum-of-logits"
    spec = replace(usual, name=made_up, usual_length=11, loss=loss, sample_losses=sample_losses, agree=agree)
    monkeypatch.setitem(SPECS, made_up, spec)
    tokenizer = bert_tokenizer()
    model = make_model(BERT, "text-classification", vocab_size=len(tokenizer))
    inspected = prune_export.inspect(save_with_tokenizer(model, tokenizer, tmp_path / "checkpoint"))
    encoder = replace(inspected.slim, task=made_up)
    checkpoint = replace(inspected.checkpoint, task=made_up, encoder=encoder)
    assert usual_length(encoder) == 11
    inputs, wanted = example_inputs(model), torch.tensor([1.0, -1.0, 0.5])
    slim = slim_module(checkpoint, encoder)
    with torch.no_grad():
        expected = (model(**inputs).logits.sum(dim=1) - wanted).square()
        assert slim(**inputs, wanted=wanted).loss.item() == pytest.approx(expected.mean().item(), rel=1e-4)
        assert slim(**inputs).loss is None
    layers = hugging_face_layers(checkpoint, model)
    (gradients, *_) = gate_gradients(model, layers, made_up, encoder.inputs, [inputs | {"wanted": wanted}])
    assert gradients.heads.shape == (3, 4)
    assert gradients.heads.any()
    save_onnx(build(encoder, TARGETS["cpu"], FP32), tmp_path / "model.onnx")
    run = Session(tmp_path / "model.onnx").run
    for change, passes in ((0.0, True), (0.1, False)):
        candidates = {"ONNX": (lambda batch, by=change: {"logits": run(batch)["logits"] + by}, TOLERANCES["fp32"])}
        with ThreadPoolExecutor(1) as pool:
            reference = load_reference(checkpoint, pool, samples=4, seed=0, goal=None, progress=SILENT)
            report = run_parity(reference, candidates, provider="cpu", padding=True, progress=SILENT)
        assert report.passed == passes
    assert len(counted) == 2  # real text, once for each


# A task's spec, the families' tables, what a data set is for, and a network without a head.
_MAY_NAME_TASKS = (
    "exporters/tasks.py",
    "prune_export/tasks/",
    "prune_export/families/",
    "prune_export/data/examples.py",
    "prune_export/pruning/block_networks.py",
)


def test_no_other_module_names_a_task() -> None:
    found = []
    for package in ("exporters", "prune_export"):
        for path in sorted((PACKAGES / package).rglob("*.py")):
            name = path.relative_to(PACKAGES).as_posix()
            if name.startswith(_MAY_NAME_TASKS):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and node.value in TASKS:
                    found.append(f"{name}:{node.lineno}: {node.value}")
    assert not found
