"""Windows, questions and batches against the tokenizer's own output and a few lines of NumPy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prune_export.data.answers import find_once
from prune_export.data.batches import collate, plan_batches
from prune_export.data.examples import Question, QuestionData, Text, TextData, joined, part_of
from prune_export.data.features import make_features, question_features, text_features
from prune_export.data.glue_tasks import GLUE_TASKS
from prune_export.data.read import read_examples
from tests.tiny_tokenizers import bert_tokenizer, roberta_tokenizer

WORDS = " ".join("abcdefghijklmnopqrstuvwxyz"[i % 26] for i in range(900))  # 900 tokens of one letter
QUESTION = " ".join("nopqrstuvw"[i % 10] for i in range(70))


def tokens(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def own_windows(tokenizer: Any, question: str, context: str, **options: Any) -> list[tuple[list[int], list[Any]]]:
    """Ids and context offsets of each window, as transformers' `run_qa.py` asks for them."""
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        **options,
    )
    found = []
    for index, ids in enumerate(encoded["input_ids"]):
        parts = encoded.sequence_ids(index)
        offsets = [
            place if part == 1 else (-1, -1)
            for place, part in zip(encoded["offset_mapping"][index], parts, strict=True)
        ]
        found.append((ids, offsets))
    return found


def check_windows(features: Any, expected: Any) -> None:
    assert [feature.input_ids.tolist() for feature in features] == [ids for ids, _ in expected]
    assert [[tuple(place) for place in feature.offsets.tolist()] for feature in features] == [
        where for _, where in expected
    ]


def test_by_default_windows_hold_384_tokens_and_share_128_and_questions_keep_64() -> None:
    """BERT's `run_squad.py` has --max_query_length 64, transformers' `run_qa.py` --max_seq_length 384 --doc_stride 128."""
    tokenizer = bert_tokenizer()
    data = QuestionData("test", "squad", (Question("1", QUESTION, WORDS, ("b",), ((2, 3),)),))
    features = make_features(data, tokenizer)
    short = " ".join(QUESTION.split()[:64])
    assert len(tokens(tokenizer, QUESTION)) == 70
    check_windows(features, own_windows(tokenizer, short, WORDS, max_length=384, stride=128))
    first, second = features[:2]
    assert len(first.input_ids) == len(second.input_ids) == 384
    assert first.input_ids[65] == tokenizer.sep_token_id
    inside = [set(map(tuple, feature.offsets[feature.offsets[:, 0] >= 0].tolist())) for feature in (first, second)]
    assert len(inside[0] & inside[1]) == 128
    assert len(inside[0]) == 384 - 64 - 3


@pytest.mark.parametrize("most", [1, 5, 69, 70, 71])
def test_questions_are_cut_after_so_many_tokens(most: int) -> None:
    tokenizer = bert_tokenizer()
    (feature,) = question_features([("  " + QUESTION, "a b c")], tokenizer, max_query_length=most)
    kept = tokens(tokenizer, QUESTION)[:most]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert feature.input_ids.tolist() == [cls, *kept, sep, *tokens(tokenizer, "a b c"), sep]
    assert feature.token_type_ids.tolist() == [0] * (len(kept) + 2) + [1] * 4


@pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer])
@pytest.mark.parametrize(("length", "stride"), [(40, 0), (40, 1), (41, 10), (64, 16), (1100, 128)])
def test_windows_are_the_tokenizers_own(make: Any, length: int, stride: int) -> None:
    tokenizer = make()
    pairs = [("who a?", WORDS[:160]), ("b?", WORDS[7:120]), ("who c?", "d e")]
    features = question_features(pairs, tokenizer, max_seq_length=length, doc_stride=stride)
    for index, (question, context) in enumerate(pairs):
        found = [feature for feature in features if feature.example == index]
        check_windows(found, own_windows(tokenizer, question, context, max_length=length, stride=stride))
        assert all(feature.cls == 0 and feature.words is None for feature in found)
    assert [feature.example for feature in features] == sorted(feature.example for feature in features)


def test_a_stride_is_at_most_half_of_the_room() -> None:
    """With 3 special tokens and a question of 2, 11 tokens leave room for 6 of context, of which 3 may be shared."""
    tokenizer = bert_tokenizer()
    features = question_features([("b?", WORDS[:60])], tokenizer, max_seq_length=11, doc_stride=128)
    check_windows(features, own_windows(tokenizer, "b?", WORDS[:60], max_length=11, stride=3))
    least = question_features([("b?", WORDS[:20])], tokenizer, max_seq_length=7, doc_stride=128)
    check_windows(least, own_windows(tokenizer, "b?", WORDS[:20], max_length=7, stride=1))


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_word_reaches_from_its_first_token_to_its_last_in_the_window(side: str) -> None:
    """The tokenizer cuts words into letters, so that the windows begin and end inside words."""
    tokenizer = bert_tokenizer(padding_side=side)
    context = "mira saw two foxes, and they saw her. then it rained for days."
    words = [found.span() for found in re.finditer(r"\w+|[.,]", context)]
    features = question_features([("who?", context)], tokenizer, max_seq_length=22, doc_stride=5, with_words=True)
    assert len(features) > 3
    for feature in features:
        assert feature.offsets is not None
        assert feature.words is not None
        tokens_there = [(int(a), int(b)) for a, b in feature.offsets if a >= 0]
        for (start, end), found in zip(feature.offsets.tolist(), feature.words.tolist(), strict=True):
            expected = [-1, -1]
            if start >= 0:
                first, last = next(word for word in words if word[0] <= start and end <= word[1])
                of_word = [token for token in tokens_there if first <= token[0] and token[1] <= last]
                expected = [of_word[0][0], of_word[-1][1]]
            assert found == expected


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_labels_of_a_window_are_the_tokens_that_the_answer_covers(side: str) -> None:
    """By search: the first and the last token of the context that overlap the answer; [CLS] where one is missing."""
    tokenizer = bert_tokenizer(padding_side=side)
    context = "aa bbb cc ddd ee fff gg hhh ii jjj kk lll"
    for start in range(0, len(context), 3):
        for end in range(start + 1, len(context) + 1, 4):
            if context[start] == " " or context[end - 1] == " ":
                continue
            question = Question("1", "b?", context, (context[start:end],), ((start, end),))
            data = QuestionData("test", "squad", (question,))
            for feature in make_features(data, tokenizer, max_seq_length=20, doc_stride=6, labelled=True):
                assert feature.offsets is not None
                inside = [i for i, (a, _) in enumerate(feature.offsets) if a >= 0]
                covers = [i for i in inside if feature.offsets[i, 0] < end and feature.offsets[i, 1] > start]
                whole = feature.offsets[inside[0], 0] <= start and feature.offsets[inside[-1], 1] >= end
                expected = (covers[0], covers[-1]) if whole else (feature.cls, feature.cls)
                assert (feature.start, feature.end) == expected
                assert feature.input_ids[feature.cls] == tokenizer.cls_token_id


def test_texts_have_128_tokens_by_default() -> None:
    tokenizer = bert_tokenizer()
    texts = (Text("1", WORDS, None, 1), Text("2", "a b", None, 0))
    features = make_features(TextData("test", GLUE_TASKS["sst2"], texts), tokenizer)
    for feature, text in zip(features, texts, strict=True):
        assert feature.input_ids.tolist() == tokenizer(text.text, truncation=True, max_length=128)["input_ids"]
        assert feature.label is None
        assert feature.offsets is None
    assert len(features[0].input_ids) == 128
    (pair,) = text_features([(WORDS[:40], WORDS[:60])], tokenizer, max_seq_length=20, with_offsets=True)
    expected = tokenizer(WORDS[:40], WORDS[:60], truncation="longest_first", max_length=20, return_offsets_mapping=True)
    assert pair.input_ids.tolist() == expected["input_ids"]
    assert pair.token_type_ids.tolist() == expected["token_type_ids"]
    assert pair.offsets is not None
    own = [
        place if part == 0 else (-1, -1)
        for place, part in zip(expected["offset_mapping"], expected.sequence_ids(0), strict=True)
    ]
    assert [tuple(place) for place in pair.offsets.tolist()] == own


def test_batches_fill_their_budget() -> None:
    """Longest first; a batch is full where one row more would pass the budget, or has all its rows."""
    lengths = [3, 10, 5, 5, 8, 2, 2, 2, 12]
    order = sorted(range(9), key=lambda index: -lengths[index])
    for budget in (1, 10, 20, 24, 200):
        for rows in (None, 1, 3):
            plan = plan_batches(lengths, max_tokens=budget, max_rows=rows)
            assert [index for batch in plan for index in batch] == order
            for batch, after in zip(plan, (*plan[1:], ()), strict=True):
                widest = lengths[batch[0]]
                assert len(batch) == 1 or widest * len(batch) <= budget
                if after:
                    assert widest * (len(batch) + 1) > budget or len(batch) == rows


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer])
def test_a_batch_is_what_the_tokenizer_pads(make: Any, side: str) -> None:
    tokenizer = make(padding_side=side)
    features = text_features([("a b c", None), ("a", None), ("d e", None)], tokenizer, max_seq_length=20)
    for length in (None, 12):
        batch = collate(features, tokenizer, length=length)
        rows = {"input_ids": [feature.input_ids.tolist() for feature in features]}
        padded = tokenizer.pad(
            rows, padding=True if length is None else "max_length", max_length=length, return_tensors="np"
        )
        for name in ("input_ids", "attention_mask"):
            np.testing.assert_array_equal(batch[name], padded[name])
            assert batch[name].dtype == np.int64
        assert batch["token_type_ids"].dtype == np.int64
        assert not batch["token_type_ids"].any()


# --- readers ------------------------------------------------------------------------------------------------------------


def test_joined_files_carry_both_names_and_all_examples() -> None:
    one, two = (
        QuestionData(f"/data/{name}.json", "squad", (Question(name, "q?", "a b", ("a",), ((0, 1),)),))
        for name in ("x", "y")
    )
    found = joined([one, two])
    assert (found.name, [example.id for example in found.examples]) == ("x.json, y.json", ["x", "y"])
    assert part_of(found, 1, 2) == QuestionData("x.json, y.json", "squad", two.examples)


def test_white_space_before_json_is_no_table(tmp_path: Path) -> None:
    answers = [{"text": "a", "answer_start": 0}]
    entry = {"id": "1", "question": "q?", "answers": answers}
    path = tmp_path / "x.json"
    path.write_text("\n\t " + json.dumps({"data": [{"paragraphs": [{"context": "a b", "qas": [entry]}]}]}) + "\n\n")
    assert read_examples(path).examples == (Question("1", "q?", "a b", ("a",), ((0, 1),)),)


def test_saved_splits_and_questions_without_ids(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"question": ["q?", "r?", "s?"], "context": ["a b", "c a", "a d a"]}
    # The second does not stand at its place, but once elsewhere; the third stands twice elsewhere.
    answers = [{"text": [text], "answer_start": [start]} for text, start in (("b", 2), ("a", 0), ("a", 1))]
    rows = datasets.Dataset.from_dict({**columns, "answers": answers})
    datasets.DatasetDict({"train": rows, "validation": rows.select([1])}).save_to_disk(tmp_path / "saved")
    train = read_examples(tmp_path / "saved", purpose="training")
    assert train.examples == (
        Question("0", "q?", "a b", ("b",), ((2, 3),)),
        Question("1", "r?", "c a", ("a",), ((2, 3),)),
        Question("2", "s?", "a d a", ("a",), ()),
    )
    assert (train.split, len(train.notes)) == ("train", 1)
    judged = read_examples(tmp_path / "saved")
    assert (judged.split, [example.id for example in judged.examples]) == ("validation", ["0"])


def test_an_answer_is_found_where_whole_words_are_it_once() -> None:
    """Every part of the context is asked for; a regular expression says where words begin and end."""
    context = "sea a, a log: the seal saw a log at sea or a lake"
    for start in range(len(context)):
        for end in range(start + 1, len(context) + 1):
            text = context[start:end]
            if not (text[0].isalpha() and text[-1].isalpha()):
                continue
            places = [found.start() for found in re.finditer(rf"(?=\b{text}\b)", context)]
            expected = (places[0], places[0] + len(text)) if len(places) == 1 else None
            assert find_once(context, text) == expected, text
