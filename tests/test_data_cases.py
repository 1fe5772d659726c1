"""Data as people have them: label names, splits, misplaced answers, flat SQuAD, tables of texts: right, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import prune_export
from exporters.errors import DataError, PruneExportError, UnsupportedError, UsageError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.cli.main import main
from prune_export.data.examples import Question, QuestionData, Text, TextData, joined, trainable
from prune_export.data.model_classes import new_classes, with_classes
from prune_export.data.read import read_examples
from prune_export.data.splits import without_split
from prune_export.options.prune import CalibrationData
from prune_export.pruning.calibration import read_calibration
from prune_export.training.features import training_features
from prune_export.training.recipe import DataSection
from tests.models import FAMILY_CASES, make_model
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer
from tests.tiny_training import checkpoint_folder, tiny_recipe

BERT = FAMILY_CASES[0]
NLI = ("entailment", "neutral", "contradiction")
THREE = {"0": "contradiction", "1": "entailment", "2": "neutral"}
CONTEXT = "Mira lives in Oslo, by the sea. The sea is cold."


def classifier(folder: Path, id2label: dict[int, str] | int, **changes: Any) -> Path:
    """A tiny model with random weights and these classes."""
    tokenizer = bert_tokenizer()
    options: dict[str, Any] = {"num_labels": id2label} if isinstance(id2label, int) else {"id2label": id2label}
    options.setdefault("num_labels", len(options.get("id2label", ())))
    model = make_model(
        BERT, "text-classification", vocab_size=len(tokenizer), max_position_embeddings=80, **options, **changes
    )
    return save_with_tokenizer(model, tokenizer, folder)


def texts(source: Any, **options: Any) -> TextData:
    found = read_examples(source, **options)
    assert isinstance(found, TextData)
    return found


def questions(source: Any, **options: Any) -> QuestionData:
    found = read_examples(source, **options)
    assert isinstance(found, QuestionData)
    return found


def classes(data: TextData, names: Any, labels: Any = None) -> list[int]:
    """What the model of these classes has to say for each example."""
    config = {"id2label": dict(enumerate(names))} if not isinstance(names, int) else {"num_labels": names}
    bound, order = with_classes(data, config, labels=labels)
    return [order[int(example.label)] for example in bound.examples]


def saved(folder: Path, columns: dict[str, list[Any]], **kinds: Any) -> Path:
    datasets = pytest.importorskip("datasets")
    found = datasets.Dataset.from_dict(columns)
    for column, names in kinds.items():
        found = found.cast_column(column, datasets.ClassLabel(names=names))
    found.save_to_disk(folder)
    return folder


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode())
    return path


# --- labels -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [["Contradiction", "Entailment", "Neutral"], ["ENTAILMENT", " neutral", "Contra-diction"]]
)
def test_names_of_classes_are_compared_loosely(tmp_path: Path, names: list[str]) -> None:
    columns = {"premise": ["a", "b", "c"], "hypothesis": ["d"] * 3, "label": [0, 1, 2]}
    data = texts(saved(tmp_path / "nli", columns, label=names))
    plain = [name.strip().lower().replace("-", "") for name in names]
    assert data.glue.name == "mnli"
    assert [NLI[int(example.label)] for example in data.examples] == plain
    assert classes(data, ["contradiction", "entailment", "neutral"]) == [
        ["contradiction", "entailment", "neutral"].index(name) for name in plain
    ]


def test_figures_with_names_in_another_case(tmp_path: Path) -> None:
    """A model judged by its own answers under the names that it gives them has 100 %, whatever the order in the data."""
    model = classifier(tmp_path / "model", {0: "contradiction", 1: "entailment", 2: "neutral"}, seed=3)
    rows = [["a fox", "a log", "oslo", "mira saw it", "the sea by the ships"], ["in it"] * 5]
    data = TextData(
        "x",
        texts(write(tmp_path / "t.tsv", "sentence1\tsentence2\tgold_label\na\tb\tneutral\n")).glue,
        tuple(Text(str(i), *pair, 0) for i, pair in enumerate(zip(*rows, strict=True))),
    )
    said = [str(label) for label in prune_export.evaluate(model, data).results[0].predictions.values()]
    assert len(set(said)) > 1
    names = ["Neutral", "Contradiction", "Entailment"]
    columns = {"premise": rows[0], "hypothesis": rows[1], "label": [names.index(word.title()) for word in said]}
    found = prune_export.evaluate(model, saved(tmp_path / "nli", columns, label=names))
    assert found.results[0].metrics == {"accuracy": 100}
    with pytest.raises(UnsupportedError, match=r"maybe, yes are none of the model's classes.*--labels"):
        prune_export.evaluate(model, saved(tmp_path / "foreign", columns, label=["yes", "no", "maybe"]))
    own = saved(tmp_path / "own", columns, label=["Nein", "Vielleicht", "Ja"])
    labelled = prune_export.evaluate(model, own, labels=["vielleicht", "ja", "nein"])
    assert labelled.results[0].metrics == {"accuracy": 100}
    assert labelled.metric == "classification"


def test_two_labels_and_a_model_of_three_classes(tmp_path: Path) -> None:
    """HANS has "non-entailment", which a model of MNLI does not know."""
    columns = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]}
    hans = texts(saved(tmp_path / "hans", columns, label=["entailment", "non-entailment"]))
    with pytest.raises(UnsupportedError, match="non-entailment are none of the model's classes"):
        classes(hans, NLI)
    assert classes(hans, ["not_entailment", "ENTAILMENT"]) == [1, 0]
    with pytest.raises(DataError, match="are mnli's, but the labels only 0, 1; say with --dataset"):
        texts(saved(tmp_path / "numbers", columns))
    three = texts(saved(tmp_path / "three", {"premise": ["a"] * 3, "hypothesis": ["b"] * 3, "label": [2, 0, 1]}))
    assert (three.glue.name, classes(three, NLI)) == ("mnli", [2, 0, 1])
    text = "gold_label\tsentence1\tsentence2\tpairID\nnon-entailment\ta\tb\tex0\nentailment\tc\td\tex1\n"
    tsv = texts(write(tmp_path / "heuristics.txt", text))
    assert classes(tsv, ["non-entailment", "entailment"]) == [0, 1]
    with pytest.raises(UnsupportedError, match="the model has 3 classes"):
        classes(tsv, NLI)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (["1", "0"], ["NEGATIVE", "POSITIVE"], [1, 0]),
        ([1, 0], 2, [1, 0]),
        (["1.0", "0.0"], 2, [1, 0]),
        ([True, False], 2, [1, 0]),
        (["LABEL_1", "label_0"], 2, [1, 0]),
        (["Positive", "NEG"], ["NEGATIVE", "POSITIVE"], [1, 0]),
        (["positive", "negative"], ["POSITIVE", "NEGATIVE"], [0, 1]),
        (["card arrival", "Lost-Card"], ["lost_card", "other", "card_arrival"], [2, 0]),
        ([5, 1], ["1", "2", "3", "4", "5"], [4, 0]),
        (["true", "false"], ["True", "False"], [0, 1]),
        (["none", "a"], ["a", "none"], [1, 0]),
        (["a-b", "a_b"], ["a_b", "a-b"], [1, 0]),  # to the letter goes before loosely
        (["cafe\u0301", "the\u0301"], ["th\u00e9", "Caf\u00e9"], [1, 0]),  # decomposed letters
        (["POS", "negative"], ["negative", "neutral", "positive"], [2, 0]),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl", "tsv", "json"])
def test_labels_of_a_table(tmp_path: Path, form: str, labels: list[Any], names: Any, expected: list[int]) -> None:
    rows = [{"text": f"text {label}", "label": label} for label in labels]
    contents = {
        "csv": "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows),
        "tsv": "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in rows),
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "json": json.dumps(rows),
    }
    data = texts(write(tmp_path / f"x.{form}", contents[form]))
    assert classes(data, names) == expected
    assert classes(joined([data, data]), names) == expected * 2


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (
            ["good", "bad"],
            ["NEGATIVE", "POSITIVE"],
            "good, bad are none of the model's classes: NEGATIVE, POSITIVE.*--labels",
        ),
        (["good", "NEGATIVE"], ["NEGATIVE", "POSITIVE"], "labels good are none of the model's classes"),
        (["positive", "negative"], 2, "none of the model's classes: LABEL_0, LABEL_1"),
        ([0, 1, 2], ["NEGATIVE", "POSITIVE"], "numbers 0, 1, 2; the model has 2 classes"),
        ([0, 1], ["negative", "neutral", "positive"], "numbers 0, 1; the model has 3 classes.*--dataset own"),
        ([1, 2, 3, 4], ["1", "2", "3", "4", "5"], "names of the model's classes and their numbers as well"),
        ([True, False], ["toxic", "fine"], "true, false are none of the model's classes"),
        ([0.5, 2.5], 3, "none of the model's classes.*needs a model with one output"),
        (["a", "b"], 1, "one output, for numbers; .* has the labels a, b"),
        (["a b", "x"], ["a-b", "a_b", "x"], "labels a b are none"),
    ],
)
def test_labels_that_the_model_lacks(tmp_path: Path, labels: list[Any], names: Any, message: str) -> None:
    rows = "".join(json.dumps({"text": "a", "label": label}) + "\n" for label in labels)
    with pytest.raises(UnsupportedError, match=message) as found:
        classes(texts(write(tmp_path / "x.jsonl", rows)), names)
    assert "\n" not in str(found.value)


def test_own_numbers_when_told(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "text,label\na,1\nb,0\n")
    assert classes(texts(path, dataset="own"), ["negative", "neutral", "positive"]) == [1, 0]
    pairs = write(tmp_path / "p.csv", "sentence1,sentence2,label\na,b,1\nb,c,0\n")
    with pytest.raises(DataError, match="fit several tasks; say which with --dataset: mrpc, rte, wnli, or own"):
        texts(pairs)
    official = write(tmp_path / "x.tsv", "sentence\tlabel\na\t1\nb\t0\n")  # SST-2's form
    assert classes(texts(official, dataset="own"), ["negative", "neutral", "positive"]) == [1, 0]
    model = ["not_entailment", "entailment"]
    for dataset, expected in (("rte", [0, 1]), ("wnli", [1, 0]), ("own", [1, 0])):
        assert classes(texts(pairs, dataset=dataset), model) == expected
    with pytest.raises(UsageError, match=r"--dataset snli: expected one of cola, .*, own"):
        texts(pairs, dataset="snli")


def test_a_tsv_with_the_columns_of_the_hub(tmp_path: Path) -> None:
    """MRPC's official file has the headings Quality, #1 String and #2 String, the hub's has these; 1 is equivalent."""
    path = write(tmp_path / "x.tsv", "sentence1\tsentence2\tlabel\nHe said.\tHe spoke.\t1\nA.\tB.\t0\n")
    data = texts(path, dataset="mrpc")
    assert [(text.text, text.pair, text.label) for text in data.examples] == [
        ("He said.", "He spoke.", 1),
        ("A.", "B.", 0),
    ]
    assert classes(data, ["equivalent", "not_equivalent"]) == [0, 1]


@pytest.mark.parametrize("label", ["label", "labels", "category", "Label"])
@pytest.mark.parametrize("text", ["text", "sentence"])
@pytest.mark.parametrize("words", [("joy", "anger"), ("0", "1")])
def test_headings(tmp_path: Path, text: str, label: str, words: tuple[str, str]) -> None:
    names = ["Joy", "Anger"]
    header, rows = [text, label, "source"], [["well", words[0], "x"], ["oh", words[1], "y"]]
    for separator in (",", "\t", ";"):
        table = "\r\n".join(separator.join(row) for row in (header, *rows)) + "\r\n"
        if separator == "\t" and (text, label) == ("sentence", "label") and words == ("0", "1"):
            continue  # SST-2's official form
        assert classes(texts(write(tmp_path / "x.txt", "\ufeff" + table)), names) == [0, 1]
    lines = "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows)
    assert classes(texts(write(tmp_path / "x.jsonl", lines)), names) == [0, 1]
    columns = {name: list(values) for name, values in zip(header, zip(*rows, strict=True), strict=True)}
    if text == "text" or words[0] == "joy":
        assert classes(texts(saved(tmp_path / "saved", columns)), names) == [0, 1]


def test_quotes(tmp_path: Path) -> None:
    quoted = 'text,label\n"He said ""no"", then\nleft",b\n"a, b",a\n'
    for content in (quoted, quoted.replace(",b\n", "\tb\n").replace(",a\n", "\ta\n").replace("text,", "text\t")):
        data = texts(write(tmp_path / "x", content))
        assert [example.text for example in data.examples] == ['He said "no", then\nleft', "a, b"]
    official = texts(write(tmp_path / "y", 'text\tlabel\n"no" he said\tb\na "b"\ta\n'))
    assert [example.text for example in official.examples] == ['"no" he said', 'a "b"']


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,b,c\n", "row that ends in line 2 has 3 cells; the headings are 2"),
        ('text,label\n"a,b\n', "not readable as CSV"),
        ("review,sentiment\ngood,pos\n", "CSV without headings that are known; expected question, context and answers"),
        ("text,text,label\na,b,c\n", "the heading 'text' stands there twice"),
        ("text,Text,label\na,b,c\n", "have one name"),
        ("text,label,category\na,b,c\n", "labels may be label or category; leave one"),
        ("text,sentence1,sentence2,label\na,b,c,d\n", "texts may be sentence1 and sentence2 or text"),
        ("text,label\na,\nb,-1\n", "no row has a label"),
        ("text,label\n", "no example in it"),
        ("a,b\nc,d\n", "CSV without headings"),
        (
            '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": ["x"]}\n',
            r"expected one label; found \['x', 'y'\]",
        ),
        ('{"text": 3, "label": "x"}\n{"text": "b", "label": "y"}\n', "text: expected a text; found 3"),
        ('{"text": "a", "label": "x"}\n[1]\n', "line 2: expected an object; found list"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as found:
        read_examples(write(tmp_path / "x.csv", content))
    assert "\n" not in str(found.value)


def test_rows_without_a_label_are_counted(tmp_path: Path) -> None:
    columns = {"premise": ["a", "b", "c", "d"], "hypothesis": ["x"] * 4, "label": [0, -1, 2, 1]}
    nli = texts(saved(tmp_path / "nli", columns, label=list(NLI)))
    assert [example.text for example in nli.examples] == ["a", "c", "d"]
    assert nli.notes == ("1 of 4 rows left out: they have no label",)
    missing = {"text": ["a", "b", "c"], "label": [1, None, 0]}
    named = texts(saved(tmp_path / "missing", missing, label=["bad", "good"]))
    assert [(example.text, example.label) for example in named.examples] == [("a", "good"), ("c", "bad")]
    assert named.notes == ("1 of 3 rows left out: they have no label",)
    lines = [{"text": "a", "label": "x"}, {"text": "b", "label": None}, {"text": "c"}, {"text": "d", "label": ""}]
    lines += [{"text": "e", "label": -1}, {"text": None, "label": "x"}]
    data = texts(write(tmp_path / "x.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    assert [example.text for example in data.examples] == ["a"]
    assert data.notes == ("4 of 6 rows left out: they have no label", "1 of 6 rows left out: they have no text")
    glue = texts(write(tmp_path / "dev.tsv", "sentence1\tsentence2\tgold_label\na\tb\t-\nc\td\tneutral\n"))
    assert (len(glue.examples), glue.notes) == (1, ("1 of 2 rows left out: they have no label",))
    with pytest.raises(DataError, match=r"no row has a label .*use the dev set"):
        texts(write(tmp_path / "test.tsv", "sentence\tlabel\na\t-1\nb\t-1\n"))


def test_labels_in_the_models_order(tmp_path: Path) -> None:
    """What the user says of the model's classes goes before what config.json says, and before their numbers."""
    stars = texts(write(tmp_path / "x.csv", "text,label\na,1\nb,2\n"))
    assert classes(stars, 5, ["1", "2", "3", "4", "5"]) == [0, 1]
    moods = texts(write(tmp_path / "y.csv", "sentence,label\na,good\nb,bad\n"))
    assert classes(moods, ["NEGATIVE", "POSITIVE"], ["bad", "good"]) == [1, 0]
    with pytest.raises(UsageError, match="--labels bad: expected 2"):
        classes(moods, ["NEGATIVE", "POSITIVE"], ["bad"])


def test_classes_without_names_are_noted(tmp_path: Path) -> None:
    data = texts(write(tmp_path / "dev.tsv", "sentence\tlabel\na\t1\nb\t0\n"))
    for names, expected in (
        (2, "the model's classes have no names; taken for negative, positive"),
        (["POS", "NEG"], ""),
    ):
        config = {"id2label": dict(enumerate(names))} if not isinstance(names, int) else {"num_labels": names}
        notes = with_classes(data, config)[0].notes
        assert notes[0] == "labels are read as sst2's: 0 = negative, 1 = positive"
        assert "".join(notes[1:]).startswith(expected)
        assert len(notes) == 1 + bool(expected)


def test_a_regression(tmp_path: Path) -> None:
    """Numbers are what a model with one output predicts, without headings, too; -1 is one beside other negative numbers."""
    path = write(
        tmp_path / "sts.csv", 'A man.,"A boy, too.",3.8\nRain.,Snow.,5.0\nA.,B.,0\nA fox.,A log.,-1\nC.,D.,-0.5\n'
    )
    data = texts(path)
    assert (data.examples[0].text, data.examples[0].pair) == ("A man.", "A boy, too.")
    assert data.notes == ("no headings; the columns are taken for text1, text2, label",)
    bound, order = with_classes(data, {"num_labels": 1})
    assert ([example.label for example in bound.examples], order) == ([3.8, 5, 0, -1, -0.5], ())
    model = classifier(tmp_path / "model", 1)
    found = prune_export.evaluate(model, path, fail_below={"pearson": -101})
    assert set(found.results[0].metrics) == {"pearson", "spearmanr"}
    assert found.metric == "regression"
    with pytest.raises(UsageError, match=r"--fail-below accuracy: .* gives pearson, spearmanr"):
        prune_export.evaluate(model, path, fail_below={"accuracy": 50})
    other = classifier(tmp_path / "other", 6)
    whole = write(tmp_path / "whole.csv", "text,score\na,0\nb,5\n")
    with pytest.raises(UsageError, match=r"is judged by classification, .* by regression; evaluate them one by one"):
        prune_export.evaluate([model, other], whole)


def test_a_new_head_has_the_classes_of_the_data(tmp_path: Path) -> None:
    for content, expected in (
        ("text,label\na,joy\nb,anger\nc,Joy\n", ("Joy", "anger")),
        ("text,label\na,0\nb,2\n", 3),
        ("text,label\na,0.5\nb,2\n", 1),
    ):
        assert new_classes(texts(write(tmp_path / "x.csv", content))) == expected
    with pytest.raises(UnsupportedError, match=r"2 numbers up to 999999|2 numbers up to 999,999"):
        new_classes(texts(write(tmp_path / "x.csv", "text,label\na,0\nb,999999\n")))


# --- splits -------------------------------------------------------------------------------------------------------------


def parts(folder: Path, *names: str) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"text": [f"of {name}"], "label": ["x"]}) for name in names}
    ).save_to_disk(folder)
    return folder


@pytest.mark.parametrize(
    "name", ["validation", "valid", "val", "dev", "development", "eval", "Validation", "validation_matched", "test"]
)
def test_the_part_for_evaluation(tmp_path: Path, name: str) -> None:
    folder = parts(tmp_path / "data", "train", name)
    data = texts(folder)
    assert (data.examples[0].text, data.split, data.name) == (f"of {name}", name, f"{folder}:{name}")
    for asked in (texts(folder, split="train"), texts(f"{folder}:train"), texts(folder, purpose="training")):
        assert (asked.examples[0].text, asked.split) == ("of train", "train")
    if name != "test":
        assert texts(folder, split="validation").split == name


def test_training_parts_are_not_evaluated_unasked(tmp_path: Path) -> None:
    folder = parts(tmp_path / "data", "train", "fold_2")
    with pytest.raises(
        DataError, match=r"no split for evaluation, found train, fold_2; say which with --split, or .*:SPLIT"
    ):
        texts(folder)
    assert texts(folder, split="fold_2").split == "fold_2"
    with pytest.raises(DataError, match="has no split 'dev'; found train, fold_2"):
        texts(folder, split="dev")
    with pytest.raises(DataError, match="has no split for training, found dev"):
        texts(parts(tmp_path / "dev", "dev"), purpose="training")
    assert texts(tmp_path / "dev", purpose="calibration").split == "dev"
    datasets = pytest.importorskip("datasets")
    alone = datasets.Dataset.from_dict({"text": ["a"], "label": ["x"]}, split="train")
    alone.save_to_disk(tmp_path / "alone")
    found = texts(tmp_path / "alone")
    assert found.split == "train"
    assert found.notes[0].startswith("it calls itself the split 'train'")


def test_a_folder_of_files_by_split(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write(tmp_path / f"{name}.csv", f"text,category\nof {name},x\n")
    assert (texts(tmp_path).examples[0].text, texts(tmp_path).split) == ("of test", "test")
    assert texts(f"{tmp_path}:train").name == f"{tmp_path}:train"
    write(tmp_path / "damaged" / "dev.csv", "text,label\na,b,c\n")
    with pytest.raises(DataError, match=r"damaged/dev\.csv: the row that ends in line 2 has 3 cells"):
        texts(tmp_path / "damaged")
    write(tmp_path / "test.jsonl", '{"text": "a", "label": "x"}\n')
    with pytest.raises(DataError, match=r"has test\.csv and test\.jsonl; give the one that is meant"):
        texts(tmp_path)


def test_a_column_that_says_the_split(tmp_path: Path) -> None:
    rows = [("a", "train"), ("b", "Train"), ("c", "dev"), ("d", "test"), ("e", "")]
    for separator in (",", "\t"):
        table = [["text", "label", "split"], *([text, "x", part] for text, part in rows)]
        path = write(tmp_path / "x.csv", "".join(separator.join(row) + "\n" for row in table))
        data = texts(path)
        assert ([example.text for example in data.examples], data.split) == (["c"], "dev")
        assert data.notes == ("1 of 5 rows have 'dev' as their split",)
        assert [example.text for example in texts(path, split="test").examples] == ["d"]
        assert [example.text for example in texts(f"{path}:train").examples] == ["a"]
        assert texts(path, purpose="training").split == "train"
    with pytest.raises(DataError, match="no split for evaluation, found train"):
        texts(write(tmp_path / "x.csv", "text,label,split\na,x,train\n"))
    with pytest.raises(DataError, match="has no parts, so no split 'dev'"):
        texts(write(tmp_path / "x.csv", "text,label\na,x\n"), split="dev")
    columns = {"text": ["a", "b"], "label": ["x", "y"], "split": [1, 0]}
    named = texts(saved(tmp_path / "named", columns, split=["train", "dev"]))
    assert ([example.text for example in named.examples], named.split) == (["a"], "dev")
    glue = write(tmp_path / "x.tsv", "sentence\tlabel\tSplit\na\t1\ttrain\nb\t0\tdev\n")
    assert [example.text for example in texts(glue).examples] == ["b"]


def test_the_file_in_front_of_a_split(tmp_path: Path) -> None:
    """A split is cut off where a file stands in front of it, and no file has the whole as its name."""
    folder = tmp_path / "of 10:30"
    folder.mkdir()
    path, whole = folder / "x.csv", f"{folder / 'x.csv'}:dev"
    assert without_split("squad:validation") == "squad:validation"
    assert without_split(whole) == whole
    path.touch()
    assert without_split(whole) == str(path)
    assert without_split(path) == str(path)
    Path(whole).touch()
    assert without_split(whole) == whole


# --- questions ----------------------------------------------------------------------------------------------------------


def flat(*answers: Any, context: str = CONTEXT, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "question": "Where?", "context": context, "answers": found, **more}
        for i, found in enumerate(answers)
    ]


LISTS = {"text": ["Oslo"], "answer_start": [14]}
OBJECTS = [{"text": "Oslo", "answer_start": 14}]


def forms(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {
        "data": json.dumps({"version": "1.1", "data": rows}),
        "list": json.dumps(rows, indent=1),
        "lines": "".join(json.dumps(row) + "\n" for row in rows),
        "single": json.dumps(rows[0]),
    }


@pytest.mark.parametrize("answers", [LISTS, OBJECTS, OBJECTS[0]])
@pytest.mark.parametrize("form", ["data", "list", "lines", "single"])
def test_flat_questions(tmp_path: Path, answers: Any, form: str) -> None:
    data = questions(write(tmp_path / "x.json", forms(flat(answers, answers))[form]))
    expected = Question("0", "Where?", CONTEXT, ("Oslo",), ((14, 18),))
    assert (data.examples[0], data.style, data.notes) == (expected, "squad", ())
    assert len(data.examples) == (1 if form == "single" else 2)


def test_saved_questions_with_answers_as_objects(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    answer = {"text": datasets.Value("string"), "answer_start": datasets.Value("int64")}
    kinds = {name: datasets.Value("string") for name in ("id", "question", "context")}
    features = datasets.Features({**kinds, "answers": datasets.List(answer)})
    datasets.Dataset.from_list(flat(OBJECTS, OBJECTS), features=features).save_to_disk(tmp_path / "data")
    assert [question.spans for question in questions(tmp_path / "data").examples] == [((14, 18),)] * 2


def test_flat_questions_without_an_answer(tmp_path: Path) -> None:
    """SQuAD 2.0 where the data say so, or where some have answers and others none; rows that say nothing are left out."""
    path = tmp_path / "x.json"
    empty: dict[str, list[Any]] = {"text": [], "answer_start": []}
    data = questions(write(path, json.dumps(flat(LISTS, empty, []))))
    assert [question.answers for question in data.examples] == [("Oslo",), (), ()]
    assert (data.style, data.notes) == ("squad_v2", ("2 of 3 questions have no answer; judged as SQuAD 2.0",))
    told = questions(write(path, json.dumps({"version": "v2.0", "data": flat(LISTS, empty)})))
    assert (told.style, told.notes) == ("squad_v2", ())
    marked = questions(write(path, json.dumps(flat(LISTS, is_impossible=True))))
    assert (marked.style, marked.examples[0].answers, marked.notes) == ("squad_v2", (), ())
    without = questions(write(path, json.dumps(flat(LISTS, None))))
    assert (len(without.examples), without.style) == (1, "squad")
    assert without.notes == ("1 of 2 questions left out: nothing says what their answers are",)
    for content, message in (
        (json.dumps(flat(empty, empty)), "2 of 2 questions have no answer"),
        (json.dumps({"version": "1.1", "data": flat(LISTS, empty)}), "1 of 2 questions have no answer"),
        (json.dumps(flat(None)), "no question in it has answers"),
        (json.dumps([{"question": "?", "context": "c"}]), "no 'answers'"),
        (json.dumps(flat({"text": ["a"], "answer_start": [0, 1]})), "two lists of one length"),
        (json.dumps(flat("Oslo")), "two lists of one length"),
        (
            json.dumps(flat({"text": ["a"], "answer_start": ["0"]})),
            "the character at which it starts; found 'a' and '0'",
        ),
        (json.dumps(flat(LISTS, is_impossible="perhaps")), "is_impossible: expected true or false; found 'perhaps'"),
    ):
        with pytest.raises(DataError, match=message):
            questions(write(path, content))
    with pytest.raises(UsageError, match="--dataset rte is for classification"):
        questions(write(path, json.dumps(flat(LISTS))), dataset="rte")


def placed(*answers: tuple[str, int]) -> QuestionData:
    rows = flat(*({"text": [text], "answer_start": [start]} for text, start in answers))
    return joined([read_rows(rows)])  # type: ignore[return-value]


def read_rows(rows: list[dict[str, Any]]) -> QuestionData:
    from prune_export.data.rows import rows_data

    found = rows_data(rows, "rows")
    assert isinstance(found, QuestionData)
    return found


@pytest.mark.parametrize("start", [0, 13, 15, 400, -1, 14 - len(CONTEXT)])
def test_misplaced_answers(start: int) -> None:
    """One that stands once in its context is found there; one that stands twice, nowhere or inside a word is not. A place
    before the context's begin is none, though Python counts from the end there."""
    data = placed(("Oslo", start), ("sea", start), ("Bergen", start), ("old", start), (" Oslo,\n", start))
    assert [question.spans for question in data.examples] == [((14, 18),), (), (), (), ((14, 19),)]
    assert data.notes == ("answers that do not stand where the data say, and were found once in their contexts: 2",)
    kept = trainable(data)
    assert [question.id for question in kept.examples] == ["0", "4"]
    assert kept.notes[1] == "3 of 5 questions left out: their answers do not stand where the data say"
    with pytest.raises(DataError, match="no question in it has an answer that is found"):
        trainable(placed(("Bergen", start)))


def test_an_empty_answer_is_none(tmp_path: Path) -> None:
    data = placed(("Oslo", 14), ("", -1), (" ", 0))
    assert [question.answers for question in data.examples] == [("Oslo",), (), ()]
    assert (data.style, data.notes) == ("squad_v2", ("2 of 3 questions have no answer; judged as SQuAD 2.0",))
    nested = {"question": "Where?", "id": "1", "answers": [{"text": "", "answer_start": 0}]}
    paragraph = {"context": CONTEXT, "qas": [nested]}
    path = write(tmp_path / "x.json", json.dumps({"version": "1.1", "data": [{"paragraphs": [paragraph]}]}))
    with pytest.raises(DataError, match="has no answer"):
        questions(path)


def test_a_quote_at_each_end_of_many_rows_swallows_none(tmp_path: Path) -> None:
    """One row begins with a quote, a later one ends its text with one; each line by itself is a row."""
    rows = [f"text {number}\t{number % 2}" for number in range(20)]
    rows[3], rows[17] = '"so he said\t1', 'and that was it"\t0'
    for heading in ("sentence\tlabel", "text\tlabel"):
        data = read_examples(write(tmp_path / "x.tsv", "\n".join([heading, *rows]) + "\n"))
        assert len(data.examples) == 20
    quoted = 'text\tlabel\n"two\nlines"\t1\n"a\ttab"\t0\nplain\t1\n'
    data = read_examples(write(tmp_path / "y.tsv", quoted))
    assert [example.text for example in data.examples] == ["two\nlines", "a\ttab", "plain"]  # type: ignore[union-attr]


NAMELESS = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}


@pytest.mark.parametrize(
    ("words", "config", "message"),
    [
        (("-1", "1"), {"id2label": {"0": "-1", "1": "1"}}, "the label '-1' were taken for unlabelled.* a class"),
        (("-1", "1"), NAMELESS, "the label '-1' were taken for unlabelled.* a class"),
        (("-", "+"), {"id2label": {"0": "-", "1": "+"}}, "the label '-' were taken for unlabelled"),
        (("null", "some"), {"id2label": {"0": "null", "1": "some"}}, "the label 'null' were taken"),
        (("-1", "0", "1"), {"num_labels": 1}, "the label '-1' were taken for unlabelled.* a score"),
        (("-1", "0", "1"), {"num_labels": 3}, "the label '-1' were taken for unlabelled.* a class"),
        (("-1", "0", "1"), NAMELESS, None),
        (("-1", "0.5", "1"), {"num_labels": 1}, None),
    ],
)
def test_a_class_that_is_written_like_no_label(
    words: tuple[str, ...], config: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    lines = ["text,label", *(f"words,{word}" for word in words)]
    data = read_examples(write(tmp_path / "x.csv", "\n".join(lines)))
    data = joined([data, data])
    assert isinstance(data, TextData)
    if message is None:
        assert len(with_classes(data, config)[0].examples) == 2 * (len(words) - (config == NAMELESS))
    else:
        with pytest.raises(UnsupportedError, match=message):
            with_classes(data, config)


def test_classes_whose_names_are_other_numbers_than_their_places() -> None:
    """As `class_encode_column` sorts them: by letters."""
    from prune_export.data.rows import rows_data

    names = ("0", "1", "10", "2")
    rows = [{"text": "words", "label": place} for place in range(4)]
    data = rows_data(rows, "rows", class_names={"label": names})
    assert isinstance(data, TextData)
    with pytest.raises(UnsupportedError, match="are called 0, 1, 10, 2, in this order"):
        with_classes(data, {"num_labels": 11})
    bound, _ = with_classes(data, {"num_labels": 4}, labels=names)
    assert [example.label for example in bound.examples] == [0, 1, 2, 3]


def test_places_in_bytes() -> None:
    context = "Ærlig talt, Åse bor i Bodø. Bodø er kaldt. Ole bor i Oslo."
    answers = [("Åse", 12), ("Oslo", len(context.encode()) - 5), ("Bodø", context.index("Bodø") + 2)]
    rows = flat(*({"text": [text], "answer_start": [start]} for text, start in answers), context=context)
    found = [[context[a:b] for a, b in question.spans] for question in read_rows(rows).examples]
    assert found == [["Åse"], ["Oslo"], []]


def test_places_that_are_whole_floats() -> None:
    """As pandas writes them beside missing ones. The word stands twice, so that its place alone says which is meant."""
    first, second = (place for place in range(len(CONTEXT)) if CONTEXT.startswith("sea", place))
    rows = flat(*({"text": ["sea"], "answer_start": [float(place)]} for place in (first, second)))
    found = read_rows(rows)
    assert [question.spans for question in found.examples] == [((first, first + 3),), ((second, second + 3),)]
    assert found.notes == ()


def squad_file(path: Path, starts: list[int], word: str = "oslo") -> Path:
    context = "mira lives in oslo, by the sea. the fox sat on a log and saw the sea."
    qas = [
        {"id": str(i), "question": "where?", "answers": [{"text": word, "answer_start": start}]}
        for i, start in enumerate(starts)
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}))
    return path


def test_training_and_calibration_leave_misplaced_answers_out(tmp_path: Path) -> None:
    """None is learnt as "no answer"; evaluation judges by the text, and says so."""
    tokenizer = bert_tokenizer()
    model = make_model(BERT, "question-answering", vocab_size=len(tokenizer), max_position_embeddings=80)
    folder = save_with_tokenizer(model, tokenizer, tmp_path / "model")
    checkpoint = load_checkpoint(resolve(str(folder)))
    path = squad_file(tmp_path / "x.json", [27, 65, 20, 30], "sea")
    left_out = "2 of 4 questions left out: their answers do not stand where the data say"
    features = training_features(DataSection(train=(str(path),)), checkpoint, seed=0)
    assert [feature.start != feature.cls for feature in features.features] == [True, True]
    assert features.notes == (left_out,)
    calibration = read_calibration(CalibrationData(path, samples=100, seed=0), checkpoint)
    assert (calibration.samples, calibration.notes) == (2, (left_out,))
    starts = torch.cat([batch["start_positions"] for batch in calibration.batches])
    assert (starts > 0).all()
    found = prune_export.evaluate(folder, path)
    assert found.examples == 4
    assert found.notes == ("the answers of 2 of 4 questions do not stand where the data say; judged by their text",)
    assert prune_export.evaluate(folder, squad_file(tmp_path / "y.json", [0, 1])).notes == (
        "answers that do not stand where the data say, and were found once in their contexts: 2",
    )


def test_mrqa_without_places(tmp_path: Path) -> None:
    detected = [{"text": "Mira", "char_spans": [[14, 17]]}]  # Oslo stands there
    qas = [
        {"qid": "1", "question": "?", "answers": ["Oslo"]},
        {"qid": "2", "question": "?", "answers": ["Mira"], "detected_answers": detected},
        {"qid": "3", "question": "?", "answers": ["Bergen"]},
    ]
    data = questions(
        write(tmp_path / "x", json.dumps({"header": {}}) + "\n" + json.dumps({"context": CONTEXT, "qas": qas}))
    )
    assert [question.spans for question in data.examples] == [((14, 18),), ((0, 4),), ()]
    assert len(trainable(data).examples) == 2


# --- what is printed and recorded ---------------------------------------------------------------------------------------


def test_outputs_name_split_seed_and_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"text": [f"a fox {i}" for i in range(30)], "label": [str(i % 2) for i in range(29)] + [""]}
    folder = tmp_path / "data"
    datasets.DatasetDict(train=datasets.Dataset.from_dict(rows), valid=datasets.Dataset.from_dict(rows)).save_to_disk(
        folder
    )
    model = classifier(tmp_path / "model", {0: "NEGATIVE", 1: "POSITIVE"})
    words = ["evaluate", "--model", str(model), "--data", str(folder), "--quiet"]
    assert main([*words, "--limit", "5", "--seed", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {key: found[key] for key in ("data", "split", "examples", "total", "seed")} == {
        "data": f"{folder}:valid",
        "split": "valid",
        "examples": 5,
        "total": 29,
        "seed": 3,
    }
    assert found["notes"] == ["1 of 30 rows left out: they have no label"]
    assert found["results"][0]["notes"] == [
        "labels are read as the numbers of the model's classes: 0 = NEGATIVE, 1 = POSITIVE"
    ]
    assert main([word for word in words if word != "--quiet"] + ["--limit", "5"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("split valid", "5 of 29 texts, drawn by seed 0", "1 of 30 rows left out", "0 = NEGATIVE"):
        assert part in shown, part
    assert main([*words, "--split", "train", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "train"


def test_limit_means_one_thing(tmp_path: Path) -> None:
    """`evaluate` and `verify` take the same examples for the same limit and seed, and all where the limit is larger."""
    model = classifier(tmp_path / "model", {0: "x", 1: "y"}, seed=5)
    path = write(tmp_path / "x.csv", "text,label\n" + "".join(f"fox {'a' * i},{'xy'[i % 2]}\n" for i in range(40)))
    prune_export.export(model, tmp_path / "onnx", target="cpu", verify=False)
    one = prune_export.evaluate(model, path, limit=7, seed=2)
    report = prune_export.verify(model, tmp_path / "onnx", data=path, limit=7, seed=2, samples=4)
    assert report.quality is not None
    assert (report.quality.examples, report.quality.reference) == (7, one.results[0].metrics["accuracy"])
    drawn = list(one.results[0].predictions)
    assert drawn != [str(number) for number in range(7)]
    assert list(prune_export.evaluate(model, path, limit=7, seed=2).results[0].predictions) == drawn
    assert list(prune_export.evaluate(model, path, limit=7, seed=3).results[0].predictions) != drawn
    whole, large = prune_export.evaluate(model, path), prune_export.evaluate(model, path, limit=1000)
    assert whole.results[0].metrics == large.results[0].metrics
    assert (whole.seed, large.seed, large.examples, large.total) == (None, 0, 40, 40)
    quality = report.to_json()["quality"]
    assert (quality["split"], quality["notes"]) == (None, [])


def test_data_with_a_split_are_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.csv", "text,label,split\na,x,dev\nb,y,train\n")
    model = classifier(tmp_path / "model", {0: "x", 1: "y"})
    words = ["evaluate", "--model", str(model), "--data", f"{path}:dev", "--quiet"]
    assert main([*words, "--predictions", str(path), "--overwrite"]) == 1
    assert "is read by this command" in capsys.readouterr().err
    assert main(words) == 0


def test_training_on_texts_of_ones_own(tmp_path: Path) -> None:
    """A new head has the data's classes, `eval` is the part for it, and the record says what was left out."""
    moods = ["joy", "anger", "Fear"]
    rows = [f"{'abc'[i % 3] * 9},{moods[i % 3]}" for i in range(24)]
    for name, more in (("train", "x,\ny,\n"), ("valid", "")):
        write(tmp_path / "data" / f"{name}.csv", "text,category\n" + "\n".join(rows) + "\n" + more)
    checkpoint_folder(tmp_path / "model", "feature-extraction")
    data = {"train": str(tmp_path / "data"), "eval": str(tmp_path / "data"), "eval_samples": 10}
    recipe = tiny_recipe(tmp_path, task="text-classification", data=data, schedule={"steps": 20})
    found = prune_export.train(recipe)
    config = json.loads((found.final / "config.json").read_text())
    assert list(config["id2label"].values()) == ["Fear", "anger", "joy"]
    assert found.record["data"]["name"] == "data:train"
    assert found.record["data"]["notes"] == ["2 of 26 rows left out: they have no label"]
    assert found.evaluation is not None
    assert (found.evaluation.split, found.evaluation.examples, found.evaluation.total) == ("valid", 10, 24)
    assert found.evaluation.seed == recipe.seed
    again = prune_export.evaluate(found.final, tmp_path / "data", limit=10, seed=recipe.seed, max_seq_length=24)
    assert again.results[0].predictions == found.evaluation.results[0].predictions
    assert set(again.results[0].predictions.values()) <= {"Fear", "anger", "joy"}


# --- the files of the field ---------------------------------------------------------------------------------------------

CASES: dict[str, Callable[[Any], object]] = {
    "nli-labels-capitalised": lambda data: (data.glue.name, len(data.examples)) == ("mnli", 100),
    "dict-train-valid": lambda data: data.split == "valid",
    "squad-misplaced-answers.json": lambda data: (
        sum(not question.spans for question in data.examples) == 1 and len(trainable(data).examples) == 39
    ),
    "squad-flat.json": lambda data: (len(data.examples), data.style) == (40, "squad"),
    "squad-flat.jsonl": lambda data: (len(data.examples), data.style) == (40, "squad"),
    "squad-answers-as-structs": lambda data: all(question.spans for question in data.examples),
    "cls.csv": lambda data: classes(data, ["NEGATIVE", "POSITIVE"])[:3] == [1, 0, 1],
    "cls.jsonl": lambda data: classes(data, ["NEGATIVE", "POSITIVE"])[:3] == [1, 0, 1],
    "saved-text-label": lambda data: classes(data, 2)[:3] == [1, 0, 1],
    "nli-unlabelled": lambda data: data.notes == ("4 of 40 rows left out: they have no label",),
}


@pytest.mark.parametrize("name", CASES)
def test_real_cases(shared: Path, name: str) -> None:
    if not (shared / "cases" / name).exists():
        pytest.skip(f"{shared / 'cases' / name} is not there")
    assert CASES[name](read_examples(shared / "cases" / name))


def test_the_real_wnli(shared: Path) -> None:
    path = shared / "cases" / "wnli" / "dev.tsv"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    for source in (path, path.parent):
        with pytest.raises(PruneExportError, match="say which with --dataset"):
            read_examples(source)
        data = texts(source, dataset="wnli")
        assert [data.glue.labels[int(example.label)] for example in data.examples[:2]] == [
            "not_entailment",
            "entailment",
        ]


def test_real_tables(shared: Path) -> None:
    intents, scores = (texts(shared / "data" / name) for name in ("intent/banking77", "sts/stsb-en"))
    assert (len(intents.examples), len(intents.words), intents.split) == (3080, 77, "test")
    assert (len(scores.examples), scores.split) == (1500, "dev")
    assert [example.label for example in with_classes(scores, {"num_labels": 1})[0].examples[:2]] == [5, 4.75]
