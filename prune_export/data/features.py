"""Features: examples as token ids, question answering in sliding windows.

Long contexts are cut as in transformers' `examples/pytorch/question-answering/run_qa.py`: windows of at most
`max_seq_length` tokens, each with the whole question, neighbours sharing `doc_stride` tokens of context. (In BERT's
`run_squad.py` the same name is the distance between windows; at 384 / 128 that makes more of them.) As in `run_squad.py` a
question keeps `max_query_length` tokens. Where the tokenizer pads left, the context comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import UsageError
from exporters.tasks import Task
from prune_export.checkpoint.tokenizer import check_fast, longest_input
from prune_export.data.examples import Data, Question, QuestionData, TextData
from prune_export.options.evaluate import DOC_STRIDE
from prune_export.tasks import SPECS
from prune_export.tasks.question_answering import QUESTION_ANSWERING

MAX_QUERY_LENGTH = 64
_LEAST_CONTEXT = 2  # tokens of context in a window; with fewer, windows that overlap would not move on

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One sequence for the network, without padding.

    `example` is the index of its example. `input_ids` and `token_type_ids` are `[length]`. For question answering,
    `offsets` `[length, 2]` are character ranges in the context, (-1, -1) for other tokens, and `cls` is the position of the
    token for "no answer"; `words` `[length, 2]`, on request, are the ranges of the whole words that tokens belong to,
    (-1, -1) if there is none. The rest is for training, None otherwise: `start` and `end`, the answer's first and last
    token (both `cls` if the window does not hold the answer), or `label`, the model's class or a number.
    """

    example: int
    input_ids: Ids
    token_type_ids: Ids
    offsets: Ids | None = None
    cls: int = 0
    start: int | None = None
    end: int | None = None
    label: int | float | None = None
    words: Ids | None = None


def sequence_length(config: Mapping[str, Any], task: Task, limit: int | None) -> int:
    """Returns the most tokens of a sequence: `limit`, or the task's usual length as far as the model has positions.

    Raises:
        UsageError: `limit` is more than the model has positions for, or below 1.
    """
    longest = longest_input(dict(config))
    if limit is None:
        return SPECS[task].length_for(longest)
    if not 1 <= limit <= longest:
        raise UsageError(f"--max-seq-length {limit}: expected 1 to {longest}, for which the model has positions")
    return limit


def make_features(
    data: Data,
    tokenizer: Any,
    *,
    max_seq_length: int | None = None,
    doc_stride: int = DOC_STRIDE,
    max_query_length: int = MAX_QUERY_LENGTH,
    labelled: bool = False,
    classes: Sequence[int] = (),
) -> tuple[Feature, ...]:
    """Returns all features of `data`, in the order of its examples: one or more per question, one per text.

    `tokenizer` is a fast tokenizer (a slow one will do for texts). `max_seq_length` is in tokens (None: 384 for question
    answering, 128 for texts); longer texts are cut, contexts go on in further windows. `labelled` adds what training needs;
    `classes` is the model's class for each label of the task (`class_order`; empty: the same).

    Raises:
        UsageError: a length is out of range, or leaves no room for a context.
    """
    if isinstance(data, QuestionData):
        features = question_features(
            [(example.question, example.context) for example in data.examples],
            tokenizer,
            max_seq_length=max_seq_length or SPECS[data.task].usual_length,
            doc_stride=doc_stride,
            max_query_length=max_query_length,
        )
        return tuple(_with_span(f, data.examples[f.example]) for f in features) if labelled else features
    pairs = [(example.text, example.pair) for example in data.examples]
    features = text_features(pairs, tokenizer, max_seq_length=max_seq_length or SPECS[data.task].usual_length)
    if not labelled:
        return features
    labels = [_model_label(data, index, classes) for index in range(len(features))]
    return tuple(replace(feature, label=label) for feature, label in zip(features, labels, strict=True))


def text_features(
    texts: Sequence[tuple[str, str | None]], tokenizer: Any, *, max_seq_length: int, with_offsets: bool = False
) -> tuple[Feature, ...]:
    """Returns one feature per text or pair, cut at `max_seq_length` tokens (of a pair, the longer text first).

    `with_offsets`: with the character ranges of the (first) text's tokens.

    Raises:
        UsageError: `max_seq_length` leaves no room for a token of each text.
    """
    if not texts:
        return ()
    if with_offsets:
        check_fast(tokenizer)
    paired = texts[0][1] is not None
    least = tokenizer.num_special_tokens_to_add(pair=paired) + (2 if paired else 1)
    if max_seq_length < least:
        raise UsageError(f"--max-seq-length {max_seq_length}: expected {least} or more")
    encoded = tokenizer(
        [text for text, _ in texts],
        [pair for _, pair in texts] if paired else None,
        truncation="longest_first",
        max_length=max_seq_length,
        return_token_type_ids=True,
        return_attention_mask=False,
        return_offsets_mapping=with_offsets,
    )
    types = _token_types(encoded, tokenizer)
    offsets = [_offsets(encoded, index, 0) if with_offsets else None for index in range(len(texts))]
    return tuple(
        Feature(index, _ids(ids), _ids(types[index]), offsets[index]) for index, ids in enumerate(encoded["input_ids"])
    )


def question_features(
    pairs: Sequence[tuple[str, str]],
    tokenizer: Any,
    *,
    max_seq_length: int = QUESTION_ANSWERING.usual_length,
    doc_stride: int = DOC_STRIDE,
    max_query_length: int = MAX_QUERY_LENGTH,
    with_words: bool = False,
) -> tuple[Feature, ...]:
    """Returns the windows of questions with their contexts, in order; `with_words`: with the ranges of words.

    Raises:
        UsageError: a length is out of range, or leaves no room for a context.
    """
    check_fast(tokenizer)
    if doc_stride < 0 or max_query_length < 1:
        raise UsageError(f"--doc-stride {doc_stride}, question length {max_query_length}: expected 0 and 1 or more")
    if not pairs:
        return ()
    questions = _short_questions([question for question, _ in pairs], tokenizer, max_query_length)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    # Room for context differs with the question's length, and the shared part must be smaller than the room.
    by_stride: dict[int, list[int]] = {}
    for index, (_, length) in enumerate(questions):
        room = max_seq_length - special - length
        if room < _LEAST_CONTEXT:
            raise UsageError(
                f"--max-seq-length {max_seq_length}: a question of {length} tokens and {special} special ones leave no room "
                f"for a context; expected {special + length + _LEAST_CONTEXT} or more"
            )
        by_stride.setdefault(min(doc_stride, room // 2), []).append(index)
    windows_of: list[list[Feature]] = [[] for _ in pairs]
    for stride, indices in by_stride.items():
        texts = [(questions[index][0], pairs[index][1]) for index in indices]
        for feature in _windows(texts, tokenizer, max_seq_length, stride, with_words=with_words):
            index = indices[feature.example]
            windows_of[index].append(replace(feature, example=index))
    return tuple(feature for windows in windows_of for feature in windows)


def _short_questions(questions: Sequence[str], tokenizer: Any, most: int) -> list[tuple[str, int]]:
    """Returns each question, cut after `most` tokens, with its number of tokens."""
    # Leading white space would count as tokens with some tokenizers; run_qa.py strips it too.
    stripped = [question.lstrip() for question in questions]
    encoded = tokenizer(
        stripped, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    shortened = []
    for question, ids, offsets in zip(stripped, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if len(ids) > most:
            question = question[: offsets[most - 1][1]]
        shortened.append((question, min(len(ids), most)))
    return shortened


def _windows(
    pairs: list[tuple[str, str]], tokenizer: Any, length: int, stride: int, *, with_words: bool
) -> list[Feature]:
    right = tokenizer.padding_side == "right"
    firsts, seconds = [question for question, _ in pairs], [context for _, context in pairs]
    if not right:
        firsts, seconds = seconds, firsts
    encoded = tokenizer(
        firsts,
        seconds,
        truncation="only_second" if right else "only_first",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        return_attention_mask=False,
    )
    types = _token_types(encoded, tokenizer)
    features = []
    for index, ids in enumerate(encoded["input_ids"]):
        offsets = _offsets(encoded, index, 1 if right else 0)
        cls = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
        example = encoded["overflow_to_sample_mapping"][index]
        words = _words(encoded.word_ids(index), offsets) if with_words else None
        features.append(Feature(example, _ids(ids), _ids(types[index]), offsets, cls, words=words))
    return features


def _offsets(encoded: Any, index: int, part: int) -> Ids:
    """Returns the character ranges `[length, 2]` of the tokens of text number `part`, (-1, -1) for all others."""
    inside = np.array([text == part for text in encoded.sequence_ids(index)])
    return np.where(inside[:, None], _ids(encoded["offset_mapping"][index]).reshape(-1, 2), -1)


def _words(word_ids: Sequence[int | None], offsets: Ids) -> Ids:
    """Returns the character ranges `[length, 2]` of the words that the tokens with `offsets` belong to, or (-1, -1)."""
    numbers = np.array([-1 if number is None else number for number in word_ids])
    ranges = np.full_like(offsets, -1)
    tokens = np.flatnonzero((offsets[:, 0] >= 0) & (numbers >= 0))
    _, first, which = np.unique(numbers[tokens], return_index=True, return_inverse=True)
    last = len(tokens) - 1 - np.unique(numbers[tokens][::-1], return_index=True)[1]
    ranges[tokens, 0] = offsets[tokens[first], 0][which]
    ranges[tokens, 1] = offsets[tokens[last], 1][which]
    return ranges


def _token_types(encoded: Any, tokenizer: Any) -> Any:
    """Returns zeros if the tokenizer's models take no token types: RoBERTa has one row, whatever the tokenizer says."""
    if "token_type_ids" in tokenizer.model_input_names:
        return encoded["token_type_ids"]
    return [[0] * len(ids) for ids in encoded["input_ids"]]


def _with_span(feature: Feature, example: Question) -> Feature:
    """Adds the tokens of the example's first answer (`prepare_train_features` in run_qa.py)."""
    assert feature.offsets is not None
    nothing = replace(feature, start=feature.cls, end=feature.cls)
    tokens = np.flatnonzero(feature.offsets[:, 0] >= 0)
    if not example.spans or not len(tokens):
        return nothing
    first, last = example.spans[0]
    starts, ends = feature.offsets[tokens, 0], feature.offsets[tokens, 1]
    if starts[0] > first or ends[-1] < last:
        return nothing
    # The last token that begins at or before the answer, and the first that ends at or after its end.
    start = tokens[np.searchsorted(starts, first, side="right") - 1]
    end = tokens[np.searchsorted(ends, last, side="left")]
    return replace(feature, start=int(start), end=int(end))


def _model_label(data: TextData, index: int, classes: Sequence[int]) -> int | float:
    label = data.examples[index].label
    if isinstance(label, str):
        raise TypeError(f"the label {label!r} is a word; with_classes comes first")
    return classes[int(label)] if classes and data.glue.labels else label


def _ids(values: Any) -> Ids:
    return np.asarray(values, dtype=np.int64)
