"""The inputs of a thorough comparison: every batch size and length, both kinds of padding, and real text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exporters.encoder import Encoder
from exporters.errors import CheckpointError
from prune_export.checkpoint.tokenizer import check_fast, load_tokenizer
from prune_export.parity.texts import QUESTIONS, SENTENCES
from prune_export.tasks import SPECS

Batch = dict[str, NDArray[np.int64]]
Padding = Literal["none", "right", "left"]

MAX_BATCH = 8
# The most tokens of a batch: the longest inputs at the largest batch would take minutes for a large network and show nothing
# more. The longest length comes with the batches that fit.
MAX_TOKENS = 2048
LONGEST_TEXT = 384
# The longest input: attention's scores grow with its square, for a network of base size by 0.8 GB at 4,096 tokens.
LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Case:
    """One batch, int64 arrays `[batch, sequence]`.

    Real text has answers: `counts`, `[batch, sequence]`, marks the tokens that an answer may hold: those of the context for
    question answering, of the text otherwise.
    """

    name: str
    inputs: Batch
    counts: NDArray[np.bool_] | None = None

    @property
    def tokens(self) -> int:
        """Counts the tokens of the batch, padding included."""
        return int(self.inputs["input_ids"].size)

    @property
    def length(self) -> int:
        return int(self.inputs["input_ids"].shape[1])


def count_cases(samples: int, tokenizer: Any) -> int:
    """Counts the cases that `cases` yields."""
    return samples + (1 if tokenizer is not None else 0)


def cases(encoder: Encoder, tokenizer: Any, *, samples: int, seed: int) -> Iterator[Case]:
    """Yields `samples` batches of random tokens, then one batch of real text if there is a tokenizer.

    The first four cover the corners (length 1, the model's maximum up to `LONGEST`, right and left padding in a batch of
    8); the rest draw batch size, length and padding at random.
    """
    longest = min(encoder.embeddings.max_length, LONGEST)
    random = np.random.default_rng(seed)
    short = min(longest, MAX_TOKENS // MAX_BATCH)
    corners: list[tuple[int, int, Padding]] = [
        (1, 1, "none"),
        (1, longest, "none"),
        (MAX_BATCH, short, "right"),
        (MAX_BATCH, max(1, short // 2), "left"),
    ]
    for index in range(samples):
        if index < len(corners):
            batch, length, padding = corners[index]
        else:
            length = int(random.integers(1, longest + 1))
            batch = int(random.integers(1, max(1, min(MAX_BATCH, MAX_TOKENS // length)) + 1))
            padding = ("none", "right", "left")[int(random.integers(3))]
        yield random_case(encoder, random, batch, length, padding)
    if tokenizer is not None:
        yield text_case(encoder, tokenizer)


def random_case(encoder: Encoder, random: np.random.Generator, batch: int, length: int, padding: Padding) -> Case:
    """Returns `batch` rows of `length` random tokens; with padding, each row keeps a random number of them, at least one."""
    vocabulary, pad = encoder.embeddings.word.shape[0], encoder.embeddings.pad_token_id
    mask = np.ones((batch, length), dtype=np.int64)
    if padding != "none":
        for row in range(batch):
            absent = int(random.integers(0, length))  # at least one token stays
            mask[row, slice(length - absent, None) if padding == "right" else slice(0, absent)] = 0
    # Any token but padding: RoBERTa counts positions from padding tokens.
    ids = random.integers(0, max(1, vocabulary - 1), (batch, length), dtype=np.int64)
    ids = np.where(ids >= pad, ids + 1, ids) % vocabulary
    inputs = {"input_ids": np.where(mask == 1, ids, pad), "attention_mask": mask}
    types = encoder.embeddings.token_types
    if types is not None:
        inputs["token_type_ids"] = random.integers(0, types, (batch, length), dtype=np.int64)
    return Case(f"batch {batch}, length {length}, padding {padding}", inputs)


def text_case(encoder: Encoder, tokenizer: Any, *, longest: int = LONGEST_TEXT) -> Case:
    """Returns eight rows of real text, cut to `longest` tokens: questions and contexts, or sentences."""
    length = min(encoder.embeddings.max_length, longest)
    pairs = SPECS[encoder.task].takes_questions
    texts: dict[str, Any] = {"text": [question for question, _ in QUESTIONS] if pairs else list(SENTENCES)}
    if pairs:
        texts["text_pair"] = [context for _, context in QUESTIONS]
    encoded = tokenizer(
        **texts,
        truncation=True,  # of pairs the longer text, the context: a tokenizer of letters may give long questions, too
        max_length=length,
        padding=True,
        return_tensors="np",
    )
    inputs = {name: np.asarray(encoded[name], dtype=np.int64) for name in ("input_ids", "attention_mask")}
    if "token_type_ids" in encoder.inputs:
        types = encoded.get("token_type_ids", np.zeros_like(inputs["input_ids"]))
        inputs["token_type_ids"] = np.asarray(types, dtype=np.int64)
    counts = inputs["attention_mask"] == 1
    if pairs:
        rows = [encoded.sequence_ids(row) for row in range(len(QUESTIONS))]
        counts = np.array([[part == 1 for part in row] for row in rows])
    name = "question and context pairs" if pairs else "sentences"
    return Case(name, inputs, counts)


def text_tokenizer(folder: Path, encoder: Encoder) -> tuple[Any | None, str | None]:
    """Loads the tokenizer in `folder` for real text.

    Returns:
        The tokenizer and None, or None and the reason why parity has to do without real text.
    """
    try:
        tokenizer = load_tokenizer(folder)
        if SPECS[encoder.task].takes_questions:
            check_fast(tokenizer)
    except CheckpointError as error:
        return None, str(error)
    return tokenizer, None
