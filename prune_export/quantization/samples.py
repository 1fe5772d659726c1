"""The inputs on which ranges and losses are measured."""

from __future__ import annotations

from typing import Any

from exporters.encoder import Encoder
from prune_export.data.batches import collate, plan_batches
from prune_export.data.examples import Data
from prune_export.data.features import make_features, sequence_length
from prune_export.parity.inputs import Batch, cases

BATCH_TOKENS = 2048


def data_batches(data: Data, encoder: Encoder, config: dict[str, Any], tokenizer: Any) -> tuple[Batch, ...]:
    """Returns all of `data` as int64 arrays `[batch, sequence]` by input name, with little padding."""
    features = make_features(data, tokenizer, max_seq_length=sequence_length(config, data.task, None))
    plan = plan_batches([len(feature.input_ids) for feature in features], max_tokens=BATCH_TOKENS)
    batches = (collate([features[index] for index in rows], tokenizer) for rows in plan)
    return tuple({name: batch[name] for name in encoder.inputs} for batch in batches)


def text_batches(encoder: Encoder, tokenizer: Any, *, seed: int) -> tuple[Batch, ...]:
    """Returns the real text that parity uses, or its random tokens if there is no tokenizer: for exports without data."""
    all_cases = tuple(cases(encoder, tokenizer, samples=4, seed=seed))
    return tuple(case.inputs for case in all_cases if case.counts is not None) or tuple(
        case.inputs for case in all_cases
    )
