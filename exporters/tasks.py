"""The names of the tasks, as optimum and transformers' pipelines have them."""

from __future__ import annotations

from typing import Literal, get_args

Task = Literal["question-answering", "text-classification", "token-classification", "feature-extraction", "fill-mask"]
TASKS: tuple[Task, ...] = get_args(Task)
