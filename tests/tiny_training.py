"""Everything that a training needs, tiny: a checkpoint with a tokenizer, questions whose answers can be learnt, a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prune_export.training.recipe import Recipe
from prune_export.training.recipe_file import recipe_from
from tests.models import FAMILY_CASES, FamilyCase, make_model
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer

BERT = FAMILY_CASES[0]
SIZES = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 24}


def checkpoint_folder(
    folder: Path, task: Any = "question-answering", *, case: FamilyCase = BERT, **changes: Any
) -> Path:
    """A network whose hidden size of 32 has 4 heads of 8, without dropout."""
    sizes = SIZES | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | changes
    return save_with_tokenizer(make_model(case, task, **sizes), bert_tokenizer(), folder)


def questions_file(path: Path, count: int = 48) -> Path:
    """SQuAD 1.1: the answer is the digit in the context. All are of one length, because transformers' loss sees padding."""
    paragraphs = []
    for index in range(count):
        digit, place = str(index % 10), index % 7
        context = "abcdefg"[:place] + f" {digit} " + "hijklmnop"[: 9 - place]
        answer = {"text": digit, "answer_start": context.index(digit)}
        paragraphs.append({"context": context, "qas": [{"id": f"q{index}", "question": "the?", "answers": [answer]}]})
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "digits", "paragraphs": paragraphs}]}))
    return path


def recipe_data(folder: Path, **sections: Any) -> dict[str, Any]:
    """A recipe as TOML would be parsed, of 6 steps; `sections` are merged into it."""
    model, questions = folder / "model", folder / "questions.json"
    if not model.is_dir():
        checkpoint_folder(model)
    if not questions.is_file():
        questions_file(questions)
    data: dict[str, Any] = {
        "model": str(model),
        "output": str(folder / "run"),
        "data": {"train": str(questions), "max_seq_length": 24, "doc_stride": 4},
        "schedule": {"steps": 6, "warmup": 0.0, "cooldown": 0.2},
        "optimiser": {"learning_rate": 1e-3, "score_learning_rate": 0.05, "batch_size": 4},
        "trainer": {"use_cpu": True},
    }
    for key, value in sections.items():
        data[key] = data[key] | value if isinstance(value, dict) and key in data else value
    if data.get("method", {}).get("kind") == "student" and "schedule" not in sections:
        del data["schedule"]["steps"]  # its trainings have lengths of their own
    return data


def tiny_recipe(folder: Path, **sections: Any) -> Recipe:
    """The same, read."""
    return recipe_from(recipe_data(folder, **sections))
