"""Readers, features and batches: what is read, what is refused, what a network would get."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from exporters.errors import CheckpointError, DataError, MissingDependencyError, UnsupportedError, UsageError
from prune_export.checkpoint.tokenizer import longest_input, open_tokenizer
from prune_export.data.batches import collate, plan_batches
from prune_export.data.examples import Question, QuestionData, Text, TextData, answerable, part_of, sample
from prune_export.data.features import make_features, question_features, text_features
from prune_export.data.glue_tasks import GLUE_TASKS
from prune_export.data.model_classes import class_order
from prune_export.data.read import read_examples
from tests.tiny_tokenizers import bert_tokenizer, roberta_tokenizer

# --- question answering -------------------------------------------------------------------------------------------------


def entry(identifier: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    found = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": identifier, "question": f"question {identifier}?", "answers": found, **more}


def squad(*entries: dict[str, Any], context: str = "Mira lives in Oslo, by the sea.", **more: Any) -> dict[str, Any]:
    return {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(entries)}]}], **more}


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_squad_1(tmp_path: Path) -> None:
    """Several answers stay; an answer that is not where the file says is a gold text, but no span to train on."""
    data = read_examples(
        write(tmp_path / "any.name", squad(entry("1", ("Oslo", 14), ("Oslo, by the sea", 14), ("Oslo", 3))))
    )
    assert isinstance(data, QuestionData)
    assert (data.style, data.task) == ("squad", "question-answering")
    (question,) = data.examples
    assert question.answers == ("Oslo", "Oslo, by the sea", "Oslo")
    assert [question.context[start:end] for start, end in question.spans] == ["Oslo", "Oslo, by the sea"]


def test_squad_2(tmp_path: Path) -> None:
    """Plausible answers are no answers, wherever they stand."""
    plausible = {"is_impossible": True, "plausible_answers": [{"text": "Oslo", "answer_start": 14}]}
    content = squad(
        entry("1", ("Mira", 0), is_impossible=False),
        entry("2", **plausible),
        entry("3", ("sea", 27), is_impossible=True),
    )
    data = read_examples(write(tmp_path / "v2.json", content), task="question-answering")
    assert isinstance(data, QuestionData)
    assert data.style == "squad_v2"
    assert [question.answers for question in data.examples] == [("Mira",), (), ()]
    kept = answerable(data)
    assert kept.style == "squad"
    assert [question.id for question in kept.examples] == ["1"]
    by_version = read_examples(write(tmp_path / "v2b.json", squad(entry("1"), version="v2.0")))
    assert isinstance(by_version, QuestionData)
    assert by_version.style == "squad_v2"
    with pytest.raises(DataError, match="no question in it has an answer"):
        answerable(by_version)


def mrqa_lines(*lines: dict[str, Any]) -> str:
    return "\n".join(json.dumps(line) for line in ({"header": {"dataset": "X", "split": "dev"}}, *lines)) + "\n"


def mrqa_line(char_spans: list[list[int]], answers: tuple[str, ...] = ("Oslo", "in Oslo")) -> dict[str, Any]:
    detected = [{"text": "Oslo", "char_spans": char_spans, "token_spans": [[3, 3]]}]
    question = {"qid": "q", "question": "Where?", "answers": list(answers), "detected_answers": detected}
    return {"id": "", "context": "Mira lives in Oslo.", "qas": [question]}


@pytest.mark.parametrize("compress", [True, False])
def test_mrqa_spans_include_their_last_character(tmp_path: Path, compress: bool) -> None:
    content = mrqa_lines(mrqa_line([[14, 17]])).encode()
    path = tmp_path / "X.jsonl.gz"  # the content decides, not the name
    path.write_bytes(gzip.compress(content) if compress else content)
    data = read_examples(path)
    assert isinstance(data, QuestionData)
    assert data.style == "mrqa"
    (question,) = data.examples
    assert question.answers == ("Oslo", "in Oslo")  # what the metric takes, not `detected_answers`
    assert [question.context[start:end] for start, end in question.spans] == ["Oslo"]


ENTRY = entry("1", ("Oslo", 14))
BAD = [
    pytest.param("", "is empty", id="empty"),
    pytest.param(" \n", "is empty", id="blank"),
    pytest.param("hello", "neither JSON nor tab-separated", id="prose"),
    pytest.param(b"\xff\xfe\x00", "no UTF-8 text", id="binary"),
    pytest.param('{"data": [', "not readable as JSON", id="cut off"),
    pytest.param("[" * 100_000, "not readable as JSON", id="deep"),
    pytest.param("[1]", "expected an object; found list", id="a list"),
    pytest.param({"1": "an answer"}, "has no 'data'; found 1", id="predictions"),
    pytest.param({"data": {}}, r"data: expected a list; found dict", id="data is no list"),
    pytest.param({"data": []}, "no question in it", id="no question"),
    pytest.param({"data": [{"paragraphs": [{"qas": [ENTRY]}]}]}, r"paragraphs\[0\]: has no 'context'", id="no context"),
    pytest.param(squad({"id": "1", "question": "?"}), r"qas\[0\]: has no 'answers'", id="a test set"),
    pytest.param(squad(ENTRY, ENTRY), "the id '1' stands there twice", id="an id twice"),
    pytest.param(squad(ENTRY, entry("2")), "question '2' has no answer", id="no answer"),
    pytest.param(
        squad({**ENTRY, "answers": [{"text": "Oslo", "answer_start": "14"}]}),
        "expected a whole number",
        id="a place as text",
    ),
    pytest.param(squad({**ENTRY, "question": None}), "question: expected a string; found NoneType", id="no text"),
    pytest.param(mrqa_lines(mrqa_line([[14, 19]])), "outside the context of 19 characters", id="MRQA span outside"),
    pytest.param(mrqa_lines(mrqa_line([[14]])), "pairs of whole numbers", id="MRQA half a span"),
    pytest.param(mrqa_lines(mrqa_line([[14, 17]], ())), "question 'q' has no answer", id="MRQA no answer"),
    pytest.param(mrqa_lines(), r"no question|has no", id="MRQA header only"),
    pytest.param(mrqa_lines(*[mrqa_line([[14, 17]])] * 2), "the id 'q' stands there twice", id="MRQA an id twice"),
    pytest.param(mrqa_lines(mrqa_line([[14, 17]])) + "{", "line 3: not readable as JSON", id="MRQA cut off"),
    pytest.param(gzip.compress(b"x" * 1000)[:-12], "damaged or cut off", id="gzip cut off"),
    pytest.param("a\tb\n1\t2\n", "not the heading of a GLUE task: a | b".replace("|", r"\|"), id="another TSV"),
    pytest.param("index\tsentence\n0\tGood.\n", "no labels", id="GLUE test set"),
    pytest.param("sentence\tlabel\nGood.\t2\n", "line 2: the label '2' is none of sst2's", id="GLUE unknown label"),
    pytest.param("sentence\tlabel\nGood.\n", "line 2 has 1 columns; sst2 needs 2", id="GLUE short line"),
    pytest.param("sentence\tlabel\n", "no example in it", id="GLUE nothing"),
    pytest.param("sentence1\tsentence2\tscore\na\tb\tnan\n", "the score 'nan' is no number", id="GLUE score"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "data"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write(path, content)
    with pytest.raises(DataError, match=message) as found:
        read_examples(path)
    assert "\n" not in str(found.value)
    assert str(path) in str(found.value)


def test_gzip_may_hold_so_many_bytes_and_not_one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prune_export.data.read._BEFORE_RATIO", 200_000)
    content = json.dumps(squad(ENTRY)).encode()
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(content.ljust(200_000)))
    assert 100 * path.stat().st_size < 200_000
    assert len(read_examples(path).examples) == 1
    path.write_bytes(gzip.compress(content.ljust(200_001)))
    with pytest.raises(DataError, match=r"bytes of gzip hold more than 200,00\d; no text does that"):
        read_examples(path)


def test_json_may_hold_so_many_values_and_not_one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins after a comma or a bracket."""
    path = write(tmp_path / "x.json", squad(ENTRY))
    values = sum(letter in ",[{" for letter in path.read_text())
    monkeypatch.setattr("prune_export.data.read._MOST_VALUES", values)
    assert len(read_examples(path).examples) == 1
    monkeypatch.setattr("prune_export.data.read._MOST_VALUES", values - 1)
    with pytest.raises(DataError, match=f"{values} values in one piece of JSON; at most {values - 1} are read"):
        read_examples(path)


def test_what_is_not_there_or_for_another_task(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.json", "nowhere/none.json", "./none"):
        with pytest.raises(DataError, match="no such file or folder"):
            read_examples(missing)
    with pytest.raises(DataError, match="expected a file, a GLUE task's folder"):
        read_examples(tmp_path)
    path = write(tmp_path / "q.json", squad(ENTRY))
    with pytest.raises(DataError, match="is for question-answering; expected data for text-classification"):
        read_examples(path, task="text-classification")
    with pytest.raises(UsageError, match="--task fill-mask"):
        read_examples(path, task="fill-mask")
    with pytest.raises(UsageError, match="--dataset rte is for GLUE"):
        read_examples(path, dataset="rte")
    with pytest.raises(DataError, match="NAME:CONFIG:SPLIT"):
        read_examples("a:b:c:d")


# --- GLUE ---------------------------------------------------------------------------------------------------------------

MNLI_HEADER = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
)
GLUE_FILES = {
    "cola": ("gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tSailors the rode.\n", ("The sailors rode.", None, 1)),
    "sst2": ('sentence\tlabel\na "quoted\u2028 film \t1\nbad \t0\n', ('a "quoted\u2028 film ', None, 1)),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tHe said.\tHe spoke.\r\n",
        ("He said.", "He spoke.", 1),
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tcut off\n1\t3\t4\tHow?\tWhy?\t0\n",
        ("How?", "Why?", 0),
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tg\tf\t2012\t1\tn\tn\tA man.\tA boy.\t3.800\n",
        ("A man.", "A boy.", 3.8),
    ),
    "mnli": (
        "\t".join(f"{MNLI_HEADER} sentence1 sentence2 label1 label2 label3 label4 label5 gold_label".split())
        + "\n0\t1\t2\tfiction\t(a)\t(b)\t(c)\t(d)\tIt rains.\tIt is wet.\tneutral"
        + "\tcontradiction" * 4
        + "\tcontradiction\n",
        ("It rains.", "It is wet.", 2),
    ),
    "qnli": ("index\tquestion\tsentence\tlabel\n0\tWhen?\tIn May.\tnot_entailment\n", ("When?", "In May.", 1)),
    "rte": (
        "index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tentailment\n",
        ("It rains.", "It is wet.", 0),
    ),
    "wnli": ("index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\t1\n", ("It rains.", "It is wet.", 1)),
}


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_every_glue_task_is_recognised(name: str, tmp_path: Path) -> None:
    content, (text, pair, label) = GLUE_FILES[name]
    path = tmp_path / "dev.tsv"
    path.write_bytes(content.encode())
    if name == "wnli":
        for source in (path, tmp_path):
            with pytest.raises(DataError, match=r"headings that rte and wnli share.*say which with --dataset"):
                read_examples(source)
    told = [read_examples(source, dataset=name.upper()) for source in (path, tmp_path)]
    for data in told if name == "wnli" else (*told, read_examples(path), read_examples(tmp_path)):
        assert isinstance(data, TextData)
        assert (data.glue.name, data.task) == (name, "text-classification")
        found = data.examples[0]
        assert (found.text, found.pair, found.label) == (text, pair, label)


def test_glue_folders_and_names(tmp_path: Path) -> None:
    row, _ = GLUE_FILES["mnli"]
    (tmp_path / "dev_matched.tsv").write_text(row)
    (tmp_path / "dev_mismatched.tsv").write_text(row.replace("It rains.", "It snows."))
    matched, mismatched = read_examples(tmp_path), read_examples(tmp_path, dataset="MNLI-mm")
    assert isinstance(matched, TextData)
    assert isinstance(mismatched, TextData)
    assert (matched.examples[0].text, mismatched.examples[0].text) == ("It rains.", "It snows.")
    with pytest.raises(UsageError, match="--dataset snli: expected one of cola, sst2"):
        read_examples(tmp_path, dataset="snli")
    with pytest.raises(DataError, match="no column 'label', 'sentence', which sst2 has"):
        read_examples(tmp_path / "dev_matched.tsv", dataset="sst2")


def test_saved_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    answers = [{"text": ["Oslo"], "answer_start": [14]}, {"text": [], "answer_start": []}]
    rows = {
        "id": ["1", "2"],
        "question": ["Where?", "Why?"],
        "context": ["Mira lives in Oslo."] * 2,
        "answers": answers,
    }
    datasets.DatasetDict(validation=datasets.Dataset.from_dict(rows)).save_to_disk(tmp_path / "squad")
    data = read_examples(tmp_path / "squad")
    assert isinstance(data, QuestionData)
    assert data.style == "squad_v2"
    assert data.examples[0] == Question("1", "Where?", "Mira lives in Oslo.", ("Oslo",), ((14, 18),))

    # Labels are matched by their names where the data set has names.
    features = datasets.Features(
        premise=datasets.Value("string"),
        hypothesis=datasets.Value("string"),
        label=datasets.ClassLabel(names=["contradiction", "neutral", "entailment"]),
    )
    columns = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 2]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "nli")
    nli = read_examples(tmp_path / "nli")
    assert isinstance(nli, TextData)
    assert (nli.glue.name, [example.label for example in nli.examples]) == ("mnli", [2, 0])

    datasets.Dataset.from_dict({"sentence": ["a"], "label": [1]}).save_to_disk(tmp_path / "one")
    with pytest.raises(DataError, match="fit several tasks; say which with --dataset: cola, sst2"):
        read_examples(tmp_path / "one")
    chosen = read_examples(tmp_path / "one", dataset="sst2")
    assert isinstance(chosen, TextData)
    assert chosen.glue.name == "sst2"
    datasets.Dataset.from_dict({"words": ["a"]}).save_to_disk(tmp_path / "other")
    with pytest.raises(DataError, match="has the columns words; expected those of SQuAD"):
        read_examples(tmp_path / "other")

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'prune-export\[evaluate\]'"):
        read_examples(tmp_path / "one")


MNLI, SST2, STSB = GLUE_TASKS["mnli"], GLUE_TASKS["sst2"], GLUE_TASKS["stsb"]


@pytest.mark.parametrize(
    ("task", "id2label", "labels", "order"),
    [
        (MNLI, {"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"}, None, (2, 1, 0)),
        (MNLI, {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, None, (0, 1, 2)),
        (MNLI, {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, ["neutral", "entailment", "contradiction"], (1, 0, 2)),
        (SST2, {"1": "NEG", "0": "POS"}, None, (1, 0)),
        (SST2, None, None, (0, 1)),
        (GLUE_TASKS["rte"], {"0": "not entailment", "1": "entailment"}, None, (1, 0)),
        (STSB, {"0": "LABEL_0"}, None, ()),
    ],
)
def test_class_order(task: Any, id2label: Any, labels: Any, order: tuple[int, ...]) -> None:
    assert class_order(task, {} if id2label is None else {"id2label": id2label}, labels=labels) == order


@pytest.mark.parametrize(
    ("task", "id2label", "labels", "error", "message"),
    [
        (
            SST2,
            {"0": "a", "1": "b", "2": "c"},
            None,
            UnsupportedError,
            "has 2 labels .* the model has 3 classes: a, b, c",
        ),
        (SST2, {"0": "toxic", "1": "fine"}, None, UnsupportedError, "called toxic, fine.*--labels"),
        (
            SST2,
            {"0": "toxic", "1": "fine"},
            ["bad", "good"],
            UsageError,
            "--labels bad good: expected .* negative, positive",
        ),
        (
            STSB,
            {"0": "a", "1": "b"},
            None,
            UnsupportedError,
            "a regression, which needs a model with one output; found 2",
        ),
    ],
)
def test_class_order_refuses(task: Any, id2label: Any, labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        class_order(task, {"id2label": id2label}, labels=labels)


@pytest.mark.parametrize("id2label", [{"1": "negative", "2": "positive"}, {"0": "negative", "2": "positive"}], ids=str)
def test_classes_are_numbered_from_zero_without_gaps(id2label: dict[str, str]) -> None:
    with pytest.raises(
        UnsupportedError, match=f"expected the numbers 0 to 1 in id2label.* found {', '.join(id2label)}"
    ):
        class_order(SST2, {"id2label": id2label})


def test_longest_input() -> None:
    assert longest_input({"model_type": "bert", "max_position_embeddings": 512}) == 512
    assert longest_input({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}) == 512
    assert longest_input({"model_type": "xlm-roberta", "max_position_embeddings": 514}) == 512


# --- features -----------------------------------------------------------------------------------------------------------

CONTEXT = "the fox sat on a log. " * 12 + "mira lives in oslo, by the sea. " + "the fox sat on a log. " * 6
ANSWER = CONTEXT.index("oslo")
QUESTIONS = QuestionData(
    "test",
    "squad_v2",
    (
        Question("1", "  where does mira live?", CONTEXT, ("oslo", "sea"), ((ANSWER, ANSWER + 4), (0, 3))),
        Question("2", "why?", "the fox sat.", (), ()),
        Question("3", "x" * 50, CONTEXT[:30], ("fox",), ((4, 7),)),
    ),
)


@pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer])
@pytest.mark.parametrize("side", ["right", "left"])
def test_windows(make: Any, side: str) -> None:
    """Every window has the question, windows cover the context and share what was asked for, texts come back exactly."""
    tokenizer = make(padding_side=side)
    features = make_features(QUESTIONS, tokenizer, max_seq_length=64, doc_stride=16, max_query_length=20)
    windows = [feature for feature in features if feature.example == 0]
    assert len(windows) > 5
    assert [feature.example for feature in features] == sorted(feature.example for feature in features)
    covered = np.zeros(len(CONTEXT), dtype=bool)
    before = -1
    for feature in windows:
        assert feature.offsets is not None
        assert len(feature.input_ids) <= 64
        assert feature.input_ids[feature.cls] == tokenizer.cls_token_id
        inside = feature.offsets[:, 0] >= 0
        for start, end in feature.offsets[inside]:
            covered[start:end] = True
        if before >= 0:
            shared = (feature.offsets[inside, 0] <= before).sum()
            assert shared == 16
        before = int(feature.offsets[inside, 0].max())
        question = [int(token) for token, context in zip(feature.input_ids, inside, strict=True) if not context]
        expected = tokenizer("where does mira live?", add_special_tokens=False)["input_ids"]
        expected = expected[:20]
        assert any(question[i : i + len(expected)] == expected for i in range(len(question)))
    assert covered[[i for i, letter in enumerate(CONTEXT) if letter != " "]].all()
    if side == "left":
        assert windows[0].offsets is not None
        assert windows[0].offsets[1, 0] == 0  # the context comes first
    has_types = "token_type_ids" in tokenizer.model_input_names
    assert any(feature.token_type_ids.any() for feature in features) == has_types
    long = next(feature for feature in features if feature.example == 2)
    assert len(long.input_ids) < 64  # 20 tokens of the question's 50, and 30 characters


@pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer])
@pytest.mark.parametrize("side", ["right", "left"])
def test_labelled_windows(make: Any, side: str) -> None:
    tokenizer = make(padding_side=side)
    features = make_features(QUESTIONS, tokenizer, max_seq_length=64, doc_stride=16, max_query_length=20, labelled=True)
    found = 0
    for feature in features:
        example = QUESTIONS.examples[feature.example]
        assert feature.offsets is not None
        assert feature.start is not None
        assert feature.end is not None
        places = feature.offsets[feature.offsets[:, 0] >= 0]
        whole = bool(example.spans) and places[0, 0] <= example.spans[0][0] and places[-1, 1] >= example.spans[0][1]
        if not whole:
            assert feature.start == feature.end == feature.cls
            continue
        text = example.context[feature.offsets[feature.start, 0] : feature.offsets[feature.end, 1]]
        assert text.strip() == example.answers[0]
        found += 1
    assert found >= 2
    batch = collate(features, tokenizer, length=70)
    for row, feature in enumerate(features):
        assert feature.start is not None
        token = batch["input_ids"][row, batch["start_positions"][row]]
        assert token == feature.input_ids[feature.start]


def test_lengths_that_cannot_be() -> None:
    tokenizer = bert_tokenizer()
    with pytest.raises(
        UsageError, match="--max-seq-length 20: a question of 18 tokens and 3 special ones leave no room"
    ):
        make_features(part_of(QUESTIONS, 0, 1), tokenizer, max_seq_length=20)
    with pytest.raises(UsageError, match="--doc-stride -1"):
        question_features([("a", "b")], tokenizer, doc_stride=-1)
    with pytest.raises(UsageError, match="--max-seq-length 2: expected 3 or more"):
        text_features([("a", None)], tokenizer, max_seq_length=2)
    # A stride that is wider than the room for context shrinks with it, and windows still move on.
    narrow = make_features(part_of(QUESTIONS, 0, 1), tokenizer, max_seq_length=24, doc_stride=128)
    assert len(narrow) > 100


def test_text_features() -> None:
    tokenizer = bert_tokenizer()
    data = TextData("test", MNLI, (Text("1", "a fox", "a log", 0), Text("2", "the fox " * 20, "b", 2)))
    features = make_features(data, tokenizer, max_seq_length=16, labelled=True, classes=(2, 1, 0))
    assert [len(feature.input_ids) for feature in features] == [11, 16]
    assert [feature.label for feature in features] == [2, 0]
    batch = collate(features, tokenizer)
    assert batch["labels"].tolist() == [2, 0]
    assert batch["attention_mask"].sum(axis=1).tolist() == [11, 16]
    scores = TextData("test", STSB, (Text("1", "a", "b", 2.5),))
    assert collate(make_features(scores, tokenizer, labelled=True), tokenizer)["labels"].dtype == np.float32


def test_samples_are_seeded() -> None:
    data = TextData("test", SST2, tuple(Text(str(i), "a", None, 0) for i in range(100)))
    one = sample(data, 10, seed=3)
    assert one == sample(data, 10, seed=3)
    assert one != sample(data, 10, seed=4)
    assert len({example.id for example in one.examples}) == 10
    assert len(sample(data, 1000, seed=3).examples) == 100
    for wrong in (lambda: sample(data, 0, seed=0), lambda: sample(data, 1, seed=-1)):
        with pytest.raises(UsageError):
            wrong()


@pytest.mark.parametrize("tokens", [None, "tokenizer.json"])
@pytest.mark.parametrize("vocabulary", ["vocab.txt", "spiece.model", "sentencepiece.bpe.model"])
def test_sentencepiece_is_asked_for_where_only_it_could_read_the_tokenizer(
    tokens: str | None, vocabulary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither file can be read here; sentencepiece would have helped where there is no tokenizer.json."""
    if int(transformers.__version__.split(".")[0]) >= 5 and tokens is None and vocabulary != "spiece.model":
        pytest.skip("transformers 5 makes a tokenizer without words of a file that is not ALBERT's")
    monkeypatch.setattr("prune_export.checkpoint.tokenizer.find_spec", {"sentencepiece": None}.__getitem__)
    for name in filter(None, (tokens, vocabulary)):
        (tmp_path / name).write_bytes(b"\xff")
    (tmp_path / "config.json").write_text('{"model_type": "albert"}')
    with pytest.raises(CheckpointError, match="needs a tokenizer beside the model") as found:
        open_tokenizer(tmp_path)
    asked = "pip install 'prune-export[sentencepiece]'" in str(found.value)
    assert asked == (tokens is None and vocabulary != "vocab.txt")


# --- batches ------------------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 400), max_size=60),
    max_tokens=st.integers(1, 2000),
    max_rows=st.none() | st.integers(1, 9),
)
def test_batches_hold_everything_once_within_the_budget(
    lengths: list[int], max_tokens: int, max_rows: int | None
) -> None:
    batches = plan_batches(lengths, max_tokens=max_tokens, max_rows=max_rows)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) * max(lengths[index] for index in batch) <= max_tokens or len(batch) == 1
        assert max_rows is None or len(batch) <= max_rows
    in_order = [lengths[index] for batch in batches for index in batch]
    assert in_order == sorted(lengths, reverse=True)


def test_sorting_saves_padding() -> None:
    lengths = np.random.default_rng(0).integers(10, 384, 500).tolist()

    def padded(batches: Any) -> int:
        return sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)

    fixed = [range(start, min(start + 8, 500)) for start in range(0, 500, 8)]
    assert padded(plan_batches(lengths, max_tokens=2048)) < 1.05 * sum(lengths) < 1.5 * sum(lengths) < padded(fixed)
    with pytest.raises(UsageError, match="--batch-tokens 0"):
        plan_batches(lengths, max_tokens=0)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_on_the_tokenizers_side(side: str) -> None:
    tokenizer = bert_tokenizer(padding_side=side)
    features = text_features([("a fox", None), ("a", None)], tokenizer, max_seq_length=32)
    batch = collate(features, tokenizer)
    assert {array.dtype for array in batch.values()} == {np.dtype("int64")}
    expected = [1, 1, 1, 0, 0, 0] if side == "right" else [0, 0, 0, 1, 1, 1]
    assert batch["attention_mask"].tolist() == [[1] * 6, expected]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()


def test_real_data(shared: Path) -> None:
    folder = shared / "data"
    counts = {"qa/xquad-en.json": 1190, "qa/squad-v2-dev-8-articles.json": 2917, "glue/SST-2": 872, "glue/RTE": 277}
    styles = []
    for name, count in counts.items():
        data = read_examples(folder / name)
        assert len(data.examples) == count, name
        styles.append(data.style if isinstance(data, QuestionData) else data.glue.name)
    assert styles == ["squad", "squad_v2", "sst2", "rte"]
    squad_v2 = read_examples(folder / "qa" / "squad-v2-dev-8-articles.json")
    assert isinstance(squad_v2, QuestionData)
    assert sum(not example.answers for example in squad_v2.examples) == 1477
    assert all(
        example.context[start:end] in example.answers for example in squad_v2.examples for start, end in example.spans
    )
