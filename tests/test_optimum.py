"""Exported folders in optimum, as they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import prune_export
from exporters.tasks import Task
from tests.comparing import largest_difference, of_tokens, torch_outputs
from tests.models import FAMILY_CASES, FAMILY_TASKS, FamilyCase, example_inputs, make_model, save

optimum = pytest.importorskip("optimum.onnxruntime", reason="optimum-onnx is not installed (it needs transformers 4)")

CLASSES: dict[Task, str] = {
    "question-answering": "ORTModelForQuestionAnswering",
    "text-classification": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
    "feature-extraction": "ORTModelForFeatureExtraction",
    "fill-mask": "ORTModelForMaskedLM",
}


@pytest.mark.parametrize(("case", "task"), FAMILY_TASKS, ids=str)
def test_optimum_runs_every_task_of_every_family(case: FamilyCase, task: Task, tmp_path: Path) -> None:
    model = make_model(case, task)
    checkpoint = save(model, tmp_path / "checkpoint")
    result = prune_export.export(checkpoint, tmp_path / "out", target="cpu", samples=4)
    loaded = getattr(optimum, CLASSES[task]).from_pretrained(tmp_path / "out")
    inputs = example_inputs(model)
    encoder = prune_export.inspect(checkpoint).slim
    found = loaded(**inputs)
    reference = torch_outputs(model, encoder, inputs)
    answers = {name: found[name].numpy() for name in result.parity.worst(result.parity.comparisons()[0])}  # type: ignore[union-attr]
    assert largest_difference(reference, of_tokens(answers, encoder, inputs)) < 1e-5


def test_an_int8_folder_answers_as_in_our_session(tmp_path: Path) -> None:
    model = make_model(FAMILY_CASES[0], "question-answering")
    checkpoint = save(model, tmp_path / "checkpoint")
    prune_export.export(checkpoint, tmp_path / "out", dtype="int8", samples=4)
    inputs = example_inputs(model)
    found = optimum.ORTModelForQuestionAnswering.from_pretrained(tmp_path / "out")(**inputs)
    ours = prune_export.load_session(tmp_path / "out").run({name: value.numpy() for name, value in inputs.items()})
    assert largest_difference(ours, {name: found[name].numpy() for name in ours}) < 1e-5


def test_a_model_by_another_name_loads(tmp_path: Path) -> None:
    checkpoint = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path / "checkpoint")
    prune_export.export(checkpoint, tmp_path / "out" / "bert.onnx", target="cpu", samples=4)
    assert optimum.ORTModelForQuestionAnswering.from_pretrained(tmp_path / "out", file_name="bert.onnx") is not None


def test_the_real_network_answers_a_question(shared: Path, tmp_path: Path) -> None:
    """The pipeline of optimum, on the folder as it is."""
    from optimum.onnxruntime import pipeline

    prune_export.export(shared / "models" / "minilm-qa-masked", tmp_path / "out", target="cpu", samples=4)
    answer = pipeline("question-answering", model=str(tmp_path / "out"))(
        question="Where does Mira live?", context="My name is Mira. I live in Oslo, and I work for a shipping company."
    )
    assert answer["answer"].strip(" .,") == "Oslo"
    original = transformers.pipeline("question-answering", model=str(shared / "models" / "minilm-qa-masked"))(
        question="Where does Mira live?", context="My name is Mira. I live in Oslo, and I work for a shipping company."
    )
    assert original["answer"] == answer["answer"]
    assert answer["score"] == pytest.approx(original["score"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", [pytest.param("masked", marks=pytest.mark.matrix), "hub"])
def test_answers_on_all_of_xquad_are_pytorchs(form: str, shared: Path, tmp_path: Path) -> None:
    """Every question, loaded by ORTModelForQuestionAnswering: the same answer as the untouched model, text for text."""
    masked = shared / "models" / "minilm-qa-masked"
    oracle = transformers.AutoModelForQuestionAnswering.from_pretrained(masked).eval()
    checkpoint = masked
    if form == "hub":
        checkpoint = tmp_path / "hub"
        prune_heads_like_the_hub(oracle, checkpoint)
        transformers.AutoTokenizer.from_pretrained(masked).save_pretrained(checkpoint)
        oracle = transformers.AutoModelForQuestionAnswering.from_pretrained(checkpoint).eval()
    prune_export.export(checkpoint, tmp_path / "out", target="cpu", samples=4)
    exported = optimum.ORTModelForQuestionAnswering.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    articles = json.loads((shared / "data" / "qa" / "xquad-en.json").read_text())["data"]
    pairs = [
        (question["question"], paragraph["context"])
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    assert len(pairs) == 1190
    pairs.sort(key=lambda pair: len(pair[1]))  # batches with little padding
    answers: dict[str, list[str]] = {"pytorch": [], "onnx": []}
    for start in range(0, len(pairs), 16):
        part = pairs[start : start + 16]
        encoded = tokenizer(
            [question for question, _ in part],
            [context for _, context in part],
            truncation="only_second",
            max_length=384,
            stride=128,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding=True,
            return_tensors="pt",
        )
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        with torch.no_grad():
            outputs = {"pytorch": oracle(**inputs), "onnx": exported(**inputs)}
        for name, output in outputs.items():
            answers[name].extend(decode(encoded, part, output.start_logits, output.end_logits))
    assert answers["onnx"] == answers["pytorch"]
    assert len(answers["onnx"]) == 1190
    assert sum(bool(answer) for answer in answers["onnx"]) > 1100


def prune_heads_like_the_hub(model: transformers.PreTrainedModel, folder: Path) -> None:
    """Heads whose query, key and value rows are zero go, by transformers' own prune_heads."""
    pruned = {}
    for index, layer in enumerate(model.bert.encoder.layer):
        block = layer.attention.self
        weights = torch.stack([part.weight for part in (block.query, block.key, block.value)])
        zero = ~weights.unflatten(1, (model.config.num_attention_heads, -1)).ne(0).any(dim=3).any(dim=2).any(dim=0)
        pruned[index] = torch.nonzero(zero).flatten().tolist()
    assert any(pruned.values())
    model.prune_heads(pruned)
    model.save_pretrained(folder)


def decode(
    encoded: transformers.BatchEncoding, pairs: list[tuple[str, str]], starts: torch.Tensor, ends: torch.Tensor
) -> list[str]:
    """The best span of each question over its windows, at most 30 tokens long."""
    best: dict[int, tuple[float, str]] = {}
    for row, question in enumerate(encoded["overflow_to_sample_mapping"].tolist()):
        inside = np.array([part == 1 for part in encoded.sequence_ids(row)])
        scores = starts[row].numpy()[:, None] + ends[row].numpy()[None, :]
        scores = np.where(inside[:, None] & inside[None, :], scores, -np.inf)
        scores = np.where(np.tril(np.triu(np.ones_like(scores)), 29) > 0, scores, -np.inf)
        first, last = np.unravel_index(scores.argmax(), scores.shape)
        if question not in best or scores[first, last] > best[question][0]:
            offsets = encoded["offset_mapping"][row]
            text = pairs[question][1][int(offsets[first][0]) : int(offsets[last][1])]
            best[question] = (float(scores[first, last]), text)
    return [best[question][1] for question in range(len(pairs))]
