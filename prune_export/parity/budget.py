"""The inputs of the parity check in an export: a small budget of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from exporters.encoder import Encoder
from prune_export.parity.inputs import MAX_BATCH, Case, Padding, random_case, text_case

TOKENS = 1024  # over all cases: a second of PyTorch for BERT-base on two cores, four for BERT-large
SMALL = 64  # the most tokens of a small case
# Tokens per row of text: eight rows leave 512 tokens, the length that most models take, for the longest row.
TEXT_ROW = 44


def budget_cases(encoder: Encoder, tokenizer: Any, *, seed: int) -> tuple[Case, ...]:
    """Returns cases of at most `TOKENS` tokens.

    They are one token, 8 rows padded right, 8 rows padded left, real text if there is a tokenizer, and one row as long as
    the model and the rest of the budget allow.
    """
    random = np.random.default_rng(seed)
    limit = encoder.embeddings.max_length
    sizes: list[tuple[int, int, Padding]] = [
        (1, 1, "none"),
        (MAX_BATCH, min(limit, SMALL // MAX_BATCH), "right"),
        (MAX_BATCH, min(limit, SMALL // MAX_BATCH), "left"),
    ]
    texts = [] if tokenizer is None else [text_case(encoder, tokenizer, longest=TEXT_ROW)]
    left = TOKENS - sum(batch * length for batch, length, _ in sizes) - sum(case.tokens for case in texts)
    sizes.append((1, min(limit, left), "none"))
    return (*(random_case(encoder, random, *size) for size in sizes), *texts)
