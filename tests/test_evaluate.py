"""`prune-export evaluate` and `Pipeline`: the same figures for every form of a model, files, exit codes, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import prune_export
from exporters.errors import CheckpointError, OutputError, UnsupportedError, UsageError
from exporters.tasks import Task
from prune_export.cli.main import main
from prune_export.data.examples import QuestionData, TextData, part_of
from prune_export.data.read import read_examples
from prune_export.evaluation.evaluate_network import evaluate_network
from prune_export.evaluation.prediction_files import short_names
from prune_export.evaluation.squad import squad_v2_scores
from prune_export.network.opening import open_network
from tests.models import FAMILY_CASES, make_model
from tests.tiny_tokenizers import bert_tokenizer, roberta_tokenizer, save_with_tokenizer

BERT, ROBERTA = FAMILY_CASES[0], FAMILY_CASES[1]
SENTENCE = "mira lives in oslo, by the sea. the fox sat on a log and saw the ships. "


def checkpoint(folder: Path, task: Task, *, case: Any = BERT, seed: int = 0, **changes: Any) -> Path:
    tokenizer = bert_tokenizer() if case is BERT else roberta_tokenizer()
    model = make_model(case, task, seed=seed, vocab_size=len(tokenizer), max_position_embeddings=80, **changes)
    return save_with_tokenizer(model, tokenizer, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A question-answering model as a masked checkpoint, a slim one and an ONNX folder, and data."""
    root = tmp_path_factory.mktemp("evaluate")
    tokenizer = bert_tokenizer()
    model = make_model(BERT, "question-answering", vocab_size=len(tokenizer), max_position_embeddings=80)
    model.bert.encoder.layer[0].attention.output.dense.weight.data[:, :6] = 0
    masked = save_with_tokenizer(model, tokenizer, root / "masked")
    prune_export.slim(masked).save_pretrained(root / "slim")
    tokenizer.save_pretrained(root / "slim")
    prune_export.export(masked, root / "onnx", target="cpu", verify=False)
    checkpoint(root / "roberta", "question-answering", case=ROBERTA)
    answers = [("oslo", 14), ("by the sea", 20), ("fox", 36), ("ships", 65), ("log", 47)]
    entries = [
        {"id": str(i), "question": f"where is the {text}?", "answers": [{"text": text, "answer_start": start}]}
        for i, (text, start) in enumerate(answers)
    ]
    (root / "v1.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": SENTENCE * 3, "qas": entries}]}]}))
    nothing = {"id": "n", "question": "why?", "answers": [], "is_impossible": True}
    paragraphs = [{"context": SENTENCE * 3, "qas": [*entries, nothing]}]
    (root / "v2.json").write_text(json.dumps({"version": "v2.0", "data": [{"paragraphs": paragraphs}]}))
    return root


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_form_of_a_model_gives_the_same(folder: Path) -> None:
    """Long contexts, so that there are windows; three batch sizes, so that padding differs."""
    models = [folder / "masked", folder / "slim", folder / "onnx", folder / "onnx" / "model.onnx"]
    found = prune_export.evaluate(models, folder / "v2.json", threads=1, doc_stride=16)
    assert isinstance(found, prune_export.Evaluation)
    assert [result.kind for result in found.results] == ["pytorch", "slim", "onnx", "onnx"]
    first = found.results[0]
    assert first.sequences > 6
    assert first.null_odds is not None
    for result in found.results[1:]:
        assert result.predictions == first.predictions
        assert result.metrics == pytest.approx(first.metrics, abs=1e-3)
        assert result.null_odds == pytest.approx(first.null_odds, abs=1e-3)
    assert first.metrics["total"] == 6
    for tokens in (1, 150, 100_000):
        again = prune_export.evaluate(folder / "onnx", folder / "v2.json", batch_tokens=tokens, doc_stride=16)
        assert again.results[0].predictions == first.predictions
    with pytest.raises(UsageError, match="--labels a b: question answering has no classes"):
        prune_export.evaluate(folder / "onnx", folder / "v2.json", labels=["a", "b"])
    another = prune_export.evaluate(folder / "roberta", folder / "v2.json", doc_stride=16)
    assert another.results[0].predictions != first.predictions


def test_answers_are_judged(folder: Path) -> None:
    """A model that knows: the data's answers are what it says, and one answer is taken away again."""
    data = read_examples(folder / "v1.json")
    assert isinstance(data, QuestionData)
    said = prune_export.evaluate(folder / "onnx", data).results[0].predictions
    learnt = tuple(replace(example, answers=(str(said[example.id]),)) for example in data.examples)
    sure = prune_export.evaluate(folder / "onnx", replace(data, examples=learnt)).results[0]
    assert sure.metrics["exact_match"] == 100
    wrong = (replace(learnt[0], answers=("zzz",)), *learnt[1:])
    assert prune_export.evaluate(folder / "onnx", replace(data, examples=wrong)).results[0].metrics == pytest.approx(
        {"exact_match": 80, "f1": 80}
    )


def test_null_threshold(folder: Path) -> None:
    """Below all odds nothing is answered; above all odds everything is, and the script's own threshold takes none back."""
    nothing = prune_export.evaluate(folder / "onnx", folder / "v2.json", null_threshold=-1e9).results[0]
    assert set(nothing.predictions.values()) == {""}
    assert (nothing.metrics["NoAns_f1"], nothing.metrics["HasAns_f1"]) == (100, 0)
    assert nothing.metrics["best_exact"] == pytest.approx(100 / 6)
    everything = prune_export.evaluate(folder / "onnx", folder / "v2.json", null_threshold=1e9).results[0]
    assert all(everything.predictions.values())
    texts = {identifier: str(text) for identifier, text in everything.predictions.items()}
    data = read_examples(folder / "v2.json")
    assert isinstance(data, QuestionData)
    assert everything.metrics.items() >= squad_v2_scores(data.examples, texts).items()
    only = prune_export.evaluate(folder / "onnx", folder / "v2.json", only_answerable=True).results[0]
    assert list(only.metrics) == ["exact_match", "f1"]
    assert only.metrics["f1"] == pytest.approx(everything.metrics["HasAns_f1"])


def glue_file(path: Path, labels: list[str]) -> Path:
    texts = ["a fox sat on a log", "oslo", "the sea by the ships", "a log", "mira saw it", "lives in it, the fox"]
    rows = [f"{i}\t{text}\tin oslo\t{label}" for i, (text, label) in enumerate(zip(texts, labels, strict=True))]
    path.write_text("\n".join(["index\tsentence1\tsentence2\tgold_label", *rows]) + "\n")
    return path


def test_classes_are_found_by_name(tmp_path: Path) -> None:
    """The same weights under other names of their classes give the predictions that these names mean."""
    names = ["contradiction", "neutral", "entailment"]
    plain = checkpoint(tmp_path / "plain", "text-classification", seed=3)
    named = checkpoint(
        tmp_path / "named", "text-classification", seed=3, id2label=dict(enumerate(map(str.upper, names)))
    )
    prune_export.export(named, tmp_path / "onnx", target="cpu", verify=False)
    path = glue_file(tmp_path / "dev.tsv", ["neutral"] * 6)
    found = prune_export.evaluate([plain, named, tmp_path / "onnx"], path, task="text-classification")
    official = ["entailment", "neutral", "contradiction"]
    by_index = [official.index(str(label)) for label in found.results[0].predictions.values()]
    assert len(set(by_index)) > 1
    for result in found.results[1:]:
        assert [names.index(str(label)) for label in result.predictions.values()] == by_index
    given = prune_export.evaluate(plain, path, labels=names).results[0]
    assert given.predictions == found.results[1].predictions
    learnt = glue_file(tmp_path / "learnt.tsv", list(map(str, given.predictions.values())))
    assert prune_export.evaluate(tmp_path / "onnx", learnt).results[0].metrics == {"accuracy": 100}


def test_regression_and_the_wrong_head(tmp_path: Path, folder: Path) -> None:
    path = glue_file(tmp_path / "dev.tsv", ["1.0", "2.5", "0", "4", "5", "3"])
    path.write_text(path.read_text().replace("gold_label", "score"))
    model = checkpoint(tmp_path / "model", "text-classification", num_labels=1)
    result = prune_export.evaluate(model, path).results[0]
    assert set(result.metrics) == {"pearson", "spearmanr"}
    assert len({float(value) for value in result.predictions.values()}) == 6
    with pytest.raises(UnsupportedError, match="needs the outputs logits; found start_logits, end_logits"):
        prune_export.evaluate(folder / "onnx", path)
    tokens = checkpoint(tmp_path / "tokens", "token-classification", num_labels=1)
    prune_export.export(tokens, tmp_path / "onnx", target="cpu", verify=False)
    with pytest.raises(UnsupportedError, match=r"stsb needs logits \[1\] for a text; found \[\d+, 1\]"):
        prune_export.evaluate(tmp_path / "onnx", path)


def test_a_model_that_gives_no_numbers(folder: Path) -> None:
    network = open_network(folder / "onnx")
    data = read_examples(folder / "v1.json")
    broken = replace(network, run=lambda batch: {name: v * np.nan for name, v in network.run(batch).items()})
    with pytest.raises(OutputError, match="start_logits holds numbers that are not finite"):
        evaluate_network(broken, data)


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table, JSON, files that the official scripts read, and an exit code for a model that is not good enough."""
    out = tmp_path / "out" / "answers.json"
    words = [
        "evaluate",
        "--model",
        str(folder / "masked"),
        "--model",
        str(folder / "onnx"),
        "--data",
        str(folder / "v2.json"),
    ]
    assert main([*words, "--predictions", str(out), "--fail-below", "f1=0", "--threads", "1"]) == 0
    shown = capsys.readouterr()
    for word in ("masked", "onnx", "SQuAD 2.0, 6 questions", "HasAns_f1", "best_f1_thresh"):
        assert word in shown.out, word
    assert "Running" in shown.err
    assert {path.name for path in out.parent.iterdir()} == {
        f"answers.{name}{odds}.json" for name in ("masked", "onnx") for odds in ("", ".null_odds")
    }
    predictions = json.loads((out.parent / "answers.onnx.json").read_text())
    assert set(predictions) == {"0", "1", "2", "3", "4", "n"}
    odds = json.loads((out.parent / "answers.onnx.null_odds.json").read_text())
    assert all((odds[key] > 0) == (predictions[key] == "") for key in odds)

    one = ["evaluate", "--model", str(folder / "onnx"), "--data", str(folder / "v1.json"), "--json", "--quiet"]
    limits = ["--fail-below", "f1=99.5", "--fail-below", "exact_match=0"]
    assert main([*one, "--limit", "2", *limits, "--predictions", str(out)]) == 4
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["examples"] == 2
    assert found["results"][0]["metrics"].keys() == {"exact_match", "f1"}
    assert found["predictions"] == [str(out)]
    assert len(json.loads(out.read_text())) == 2
    assert len(found["failures"]) == 1
    assert shown.err.count("\n") == 1
    assert "f1 is" in shown.err
    assert "below 99.5" in shown.err


BAD = [
    (["--fail-below", "f1"], 2, "--fail-below f1: expected METRIC=X"),
    (["--fail-below", "f1=nan"], 2, "expected METRIC=X with a number"),
    (["--fail-below", "accuracy=90"], 2, "gives exact_match, f1"),
    (["--fail-below", "f1=0.7"], 2, "metrics are percentages; for 0.7 say 70"),
    (["--limit", "0"], 2, "--limit 0: expected a whole number from 1 to"),
    (["--threads", "0"], 2, "--threads 0: expected a whole number from 1 to"),
    (["--batch-tokens", "0"], 2, "--batch-tokens 0"),
    (["--max-seq-length", "81"], 2, "--max-seq-length 81: expected 1 to 80"),
    (["--task", "text-classification"], 1, "is for question-answering; expected data for text-classification"),
    (["--data", "nowhere.json"], 1, "nowhere.json: no such file"),
    (["--model", "nowhere.onnx"], 1, "'nowhere.onnx': no such file"),
]


@pytest.mark.parametrize(("words", "code", "message"), BAD, ids=[" ".join(words) for words, _, _ in BAD])
def test_bad_input(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str) -> None:
    known = ["--model", str(folder / "onnx"), "--data", str(folder / "v1.json")]
    assert main(["evaluate", "--quiet", *known, *words]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_tokenizer_that_fits(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((folder / "onnx" / "model.onnx").read_bytes())
    (tmp_path / "config.json").write_text((folder / "onnx" / "config.json").read_text())
    with pytest.raises(CheckpointError, match="needs a tokenizer beside the model"):
        prune_export.evaluate(tmp_path, folder / "v1.json")
    roberta_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="its tokenizer has 261 tokens, and the model rows for 81"):
        prune_export.evaluate(tmp_path, folder / "v1.json")


def test_short_names() -> None:
    assert short_names(["a/x", "b/y"]) == ("x", "y")
    assert short_names(["a/x", "b/x"]) == ("a/x", "b/x")
    assert short_names(["a/x", "a/x"]) == ("x", "x-2")


# --- Pipeline -----------------------------------------------------------------------------------------------------------

TEXTS = [SENTENCE[: 5 + 7 * i] for i in (3, 0, 9, 1, 6, 2, 8)]


def test_pipeline_answers_in_the_order_given(folder: Path) -> None:
    pipeline = prune_export.Pipeline(folder / "onnx", batch_tokens=150)
    pairs = [("where?", text * 3) for text in TEXTS]
    together = pipeline(pairs)
    assert [answer["answer"] for answer in together] == [pipeline([pair])[0]["answer"] for pair in pairs]
    assert len({answer["answer"] for answer in together}) > 2
    for answer, (_, context) in zip(together, pairs, strict=True):
        assert context[answer["start"] : answer["end"]] == answer["answer"]
        assert 0 < answer["score"] <= 1
    mapped = pipeline([{"question": question, "context": context} for question, context in pairs])
    assert mapped == together
    assert prune_export.Pipeline(folder / "masked")(pairs)[0]["answer"] == together[0]["answer"]
    assert pipeline([]) == []


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "feature-extraction"])
@pytest.mark.parametrize("case", [BERT, ROBERTA], ids=str)
def test_pipeline_gives_what_the_model_gives(task: Task, case: Any, tmp_path: Path) -> None:
    """Beside the Hugging Face model, one text at a time."""
    path = checkpoint(tmp_path / "checkpoint", task, case=case)
    prune_export.export(path, tmp_path / "onnx", target="cpu", verify=False)
    found = prune_export.Pipeline(tmp_path / "onnx", batch_tokens=120)(TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer_type = bert_tokenizer() if case is BERT else roberta_tokenizer()
    model = make_model(case, task, vocab_size=len(tokenizer_type), max_position_embeddings=80)
    for text, ours in zip(TEXTS, found, strict=True):
        encoded = tokenizer(
            text, return_tensors="pt", truncation=True, max_length=78, return_token_type_ids=case is BERT
        )
        with torch.no_grad():
            output = model(**encoded)
        if task == "feature-extraction":
            np.testing.assert_allclose(ours, output.last_hidden_state[0].numpy(), atol=1e-4)
            continue
        probabilities = output.logits.softmax(-1)[0]
        if task == "text-classification":
            assert ours["label"] == f"LABEL_{int(probabilities.argmax())}"
            assert ours["score"] == pytest.approx(float(probabilities.max()), abs=1e-4)
        else:
            inner = probabilities[1:-1]
            assert [entity["entity"] for entity in ours] == [f"LABEL_{int(row.argmax())}" for row in inner]
            assert [entity["score"] for entity in ours] == pytest.approx(inner.max(-1).values.tolist(), abs=1e-4)
            assert all(text[entity["start"] : entity["end"]] == entity["word"] for entity in ours)


def test_pipeline_refuses(folder: Path, tmp_path: Path) -> None:
    pipeline = prune_export.Pipeline(folder / "onnx")
    with pytest.raises(UsageError, match="put the single one into a list"):
        pipeline("where?")
    with pytest.raises(UsageError, match=r"expected a pair of texts, \(question, context\); found 'where\?'$"):
        pipeline(["where?"])
    path = checkpoint(tmp_path / "checkpoint", "text-classification")
    with pytest.raises(UsageError, match="only single texts or only pairs"):
        prune_export.Pipeline(path)(["a", ("a", "b")])
    with pytest.raises(UnsupportedError, match="is for fill-mask"):
        prune_export.Pipeline(checkpoint(tmp_path / "mask", "fill-mask"))


# --- real models --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_minilm(shared: Path) -> None:
    """The first 50 questions of XQuAD: what `evaluate` gave when all 1,190 gave the published 69.84 / 55.46."""
    data = part_of(read_examples(shared / "data" / "qa" / "xquad-en.json"), 0, 50)
    found = prune_export.evaluate(shared / "models" / "minilm-qa-dense", data)
    assert found.results[0].metrics == pytest.approx({"exact_match": 72, "f1": 73}, abs=0.01)


def test_real_sentences(shared: Path, tmp_path: Path) -> None:
    """SST-2 and RTE with a tiny random classifier: every example is read and judged."""
    model = checkpoint(tmp_path / "model", "text-classification", num_labels=2)
    for name, count in (("SST-2", 872), ("RTE", 277)):
        data = read_examples(shared / "data" / "glue" / name)
        assert isinstance(data, TextData)
        result = prune_export.evaluate(model, data).results[0]
        assert len(result.predictions) == count
        labels = [data.glue.labels[int(example.label)] for example in data.examples]
        right = sum(a == b for a, b in zip(labels, result.predictions.values(), strict=True))
        assert result.metrics["accuracy"] == pytest.approx(100 * right / count)
