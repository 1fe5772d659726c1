"""Parity's formulas against a few lines of NumPy: what is compared, what is allowed, where answers may lie."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import prune_export
from exporters.errors import DataError, OutputError, UsageError
from exporters.session import DEFAULT_SETTINGS
from exporters.tasks import Task
from prune_export.cli.tables.export import parity_table
from prune_export.data.examples import Question, QuestionData, TextData
from prune_export.evaluation.result import ModelResult
from prune_export.network.opening import Network
from prune_export.options.parity import QualityOptions
from prune_export.parity.check import compare, one_ahead
from prune_export.parity.inputs import Case, cases, count_cases, text_tokenizer
from prune_export.parity.junit import write_junit
from prune_export.parity.quality import Quality, QualityGoal, judge, read_goal
from prune_export.parity.reference import load_reference
from prune_export.parity.rounding import rounded_runs
from prune_export.parity.run import run_parity
from prune_export.parity.texts import QUESTIONS, SENTENCES
from prune_export.parity.tolerance import TOLERANCES, Tolerance, tolerance_for
from prune_export.parity.verdict import CaseResult, OutputResult, ParityReport
from prune_export.progress import SILENT
from prune_export.tasks import SPECS
from prune_export.tasks.classes import same_classes
from prune_export.tasks.feature_extraction import FEATURE_EXTRACTION
from prune_export.tasks.question_answering import QUESTION_ANSWERING, best_span, same_answers, span_scores
from prune_export.tasks.spec import Agreement, TaskSpec
from prune_export.tasks.text_classification import TEXT_CLASSIFICATION
from prune_export.tasks.token_classification import TOKEN_CLASSIFICATION
from tests.models import FAMILY_CASES, make_model, save
from tests.test_packed import runner
from tests.tiny_tokenizers import bert_tokenizer, roberta_tokenizer, save_with_tokenizer

BERT, ROBERTA = FAMILY_CASES[0], FAMILY_CASES[1]
LOOSE = Tolerance(0.1, "a test", agreement=0.5, tie=0.25)
MASK = np.array([[1, 1, 0], [0, 1, 1]])
CASE = Case("two rows", {"attention_mask": MASK}, MASK == 1)


# --- what an error may be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [0.0, 0.5, 1.0, 2.0, 40.0])
@pytest.mark.parametrize("limit", [1e-4, 0.3])
def test_an_error_may_be_the_limit_times_the_larger_of_1_and_the_reference(limit: float, largest: float) -> None:
    tolerance = Tolerance(limit, "a test")
    allowed = limit * (largest if largest > 1 else 1.0)
    assert tolerance.allowed(largest) == pytest.approx(allowed, rel=1e-12)
    assert tolerance.allows(allowed, largest)
    assert not tolerance.allows(allowed * 1.001, largest)


def test_limits_that_are_given() -> None:
    assert tolerance_for("int8") is TOLERANCES["int8"]
    assert tolerance_for("int8", metric_judged=True) is TOLERANCES["int8, metric judged"]
    assert tolerance_for("int8", 0.5) == replace(TOLERANCES["int8"], limit=0.5, reason="given by --atol")
    assert tolerance_for("int8", 1e-9, metric_judged=True).agreement == TOLERANCES["int8, metric judged"].agreement


def run_check(
    reference: Any,
    found: Any,
    *,
    spec: TaskSpec = FEATURE_EXTRACTION,
    tolerance: Tolerance = LOOSE,
    case: Case = CASE,
    **options: Any,
) -> CaseResult:
    (result,) = compare(
        one_ahead(lambda _: reference, [case]), {"ONNX": (lambda _: found, tolerance)}, spec=spec, **options
    )
    return result


def test_the_error_of_an_output_is_the_largest_anywhere() -> None:
    reference = {"last_hidden_state": np.array([[-4.0, 2.0], [1.0, 0.0]], dtype=np.float32)}
    found = {"last_hidden_state": np.array([[-4.0, 2.0], [1.25, -0.125]], dtype=np.float32)}
    result = run_check(reference, found)
    (output,) = result.outputs
    assert (result.comparison, result.case, result.problem, result.agreement) == ("ONNX", "two rows", None, None)
    assert output == OutputResult("last_hidden_state", 0.25, 0.0625, 4.0, pytest.approx(0.4), True)
    found["last_hidden_state"][0, 0] = np.nan
    assert not run_check(reference, found).passed
    nothing = {"last_hidden_state": np.zeros((2, 2), dtype=np.float32)}
    (output,) = run_check(nothing, {"last_hidden_state": nothing["last_hidden_state"] + np.float32(0.5)}).outputs
    assert (output.max_absolute, output.max_relative, output.passed) == (0.5, 0.5, False)
    # float32 cannot tell these apart: the difference is taken in float64
    big = {"last_hidden_state": np.full((1, 1), 1.0, dtype=np.float16)}
    (output,) = run_check(big, {"last_hidden_state": np.full((1, 1), 1 + 2**-10, dtype=np.float16)}).outputs
    assert output.max_absolute == 2**-10


@pytest.mark.parametrize(
    ("error", "own_error", "passes"),
    [
        (0.9e-3, 0.0, True),
        (1.5e-3, 0.0, False),
        (1.5e-3, 0.5e-3, True),
        (2.1e-3, 0.5e-3, False),
        (np.nan, 0.5e-3, False),
        (0.9e-2, 1.0, True),
        (1.1e-2, 1.0, False),
    ],
)
def test_roundings_of_the_reference_are_allowed_some_times(error: float, own_error: float, passes: bool) -> None:
    """The limit is 1e-3 and the largest value 1; ten times the limit is never exceeded."""
    values = np.array([[1.0, -0.5]], dtype=np.float64)
    reference: Any = {"last_hidden_state": values}
    found: Any = {"last_hidden_state": values + np.array([0, error])}
    asked: list[Any] = []

    def roundings(batch: Any) -> Any:
        asked.append(batch)
        return [{"last_hidden_state": values + np.array([off, 0])} for off in (0.0, own_error / 2, -own_error)]

    tolerance = Tolerance(1e-3, "made up", roundings=4.0)
    result = run_check(reference, found, tolerance=tolerance, roundings=roundings)
    assert result.passed is passes
    assert result.outputs[0].by_rounding is bool(asked)
    report = parity_report((result,))
    exceeds = passes and error > 1e-3
    assert report.by_rounding("ONNX") == report.to_json()["comparisons"]["ONNX"].get("by_rounding", 0) == exceeds
    caption = parity_table(report).caption
    assert caption == (
        "Above the limit of 0.1, by what roundings alone do to the original: ONNX in 1" if exceeds else None
    )
    assert bool(asked) is (1e-3 < error < 1e-2)  # only where a limit is exceeded, and by no more than tenfold
    without = replace(tolerance, roundings=0.0)
    assert run_check(reference, found, tolerance=without, roundings=roundings).passed is (error < 1e-3)


def test_roundings_change_every_weight_by_as_much_as_float32_does() -> None:
    """y = w x with w = 1: three draws differ, each by about 2^-24, and the model is left as it was."""
    linear = torch.nn.Linear(1, 5000, bias=False)
    torch.nn.init.ones_(linear.weight)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, input_ids: torch.Tensor) -> Any:
            return {"logits": 2.0**24 * (self.linear(input_ids.to(self.linear.weight)) - 1)}

    run = rounded_runs(Model, ("input_ids",), ("logits",))
    for _ in range(2):
        exact, *rounded = run({"input_ids": np.ones((1, 1), dtype=np.int64)})
        assert np.abs(exact["logits"]).max() < 1e-6
        assert len(rounded) == 3
        for found in rounded:
            assert found["logits"].std() == pytest.approx(1, rel=0.05)
        assert np.abs(np.corrcoef([found["logits"].ravel() for found in rounded])[0, 1:]).max() < 0.1


def test_models_that_cannot_be_compared_fail_and_say_why() -> None:
    reference = {"logits": np.zeros((2, 3), dtype=np.float32)}

    def broken(_: Any) -> Any:
        raise RuntimeError("no\nkernel " + "x" * 400)

    for candidate, words in (
        (broken, "does not run: no kernel xxx"),
        (lambda _: {"other": reference["logits"]}, "has no output logits; it has other"),
        (lambda _: {"logits": np.zeros((3, 2), dtype=np.float32)}, "logits has shape [3, 2]; expected [2, 3]"),
    ):
        answered = one_ahead(lambda _: reference, [CASE])
        (result,) = compare(answered, {"ONNX": (candidate, LOOSE)}, spec=TEXT_CLASSIFICATION)
        assert (result.comparison, result.case, result.outputs, result.agreement) == ("ONNX", "two rows", (), None)
        assert result.problem is not None
        assert result.problem.startswith(words)
        assert len(result.problem) < 330
        assert not result.passed
        assert result.failure == f"ONNX: two rows: {result.problem}"


def test_every_case_and_candidate_is_compared_and_progress_counts_cases() -> None:
    values = {"logits": np.zeros((2, 3), dtype=np.float32)}
    counted: list[int] = []
    found = compare(
        one_ahead(lambda _: values, [CASE, replace(CASE, name="again")]),
        {"a": (lambda _: values, LOOSE), "b": (lambda _: values, LOOSE)},
        spec=TEXT_CLASSIFICATION,
        progress=lambda: counted.append(1),
    )
    assert [(result.comparison, result.case) for result in found] == [
        ("a", "two rows"),
        ("b", "two rows"),
        ("a", "again"),
        ("b", "again"),
    ]
    assert len(counted) == 2


# --- padding ------------------------------------------------------------------------------------------------------------


def test_only_what_belongs_to_real_tokens_is_selected() -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    by_token = [values[row, place] for row in range(2) for place in range(3) if MASK[row, place]]
    np.testing.assert_array_equal(SPECS["token-classification"].real_tokens(values, MASK), by_token)
    # The second row's first token is padding: what reads the first token reads nothing of it.
    np.testing.assert_array_equal(TEXT_CLASSIFICATION.real_tokens(values[:, 0], MASK), values[:1, 0])


def test_padding_is_not_compared_where_it_is_left_out() -> None:
    reference = np.zeros((2, 3), dtype=np.float32)
    found = np.where(MASK == 1, reference, 7).astype(np.float32)
    assert not run_check({"values": reference}, {"values": found}).passed
    assert run_check({"values": reference}, {"values": found}, padding=False).passed
    wrong = np.where(MASK == 1, 7, reference).astype(np.float32)
    assert not run_check({"values": reference}, {"values": wrong}, padding=False).passed
    empty = Case("padding alone", {"attention_mask": np.zeros((2, 3), dtype=np.int64)})
    nothing = run_check({"values": reference}, {"values": found}, case=empty, padding=False)
    assert (nothing.outputs, nothing.passed) == ((), True)


@pytest.mark.parametrize("task", ["question-answering", "text-classification"])
def test_a_packed_model_is_judged_by_real_tokens_alone(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed graphs give zeros for padding. `verify` and `export` leave that out, and for other targets they do not."""
    checkpoint = save(make_model(BERT, task), tmp_path / "checkpoint")
    prune_export.export(checkpoint, tmp_path / "packed", target="cuda-packed", verify=False)
    run = runner(tmp_path / "packed" / "model.onnx")
    session = SimpleNamespace(run=run, provider="cpu", settings=DEFAULT_SETTINGS)
    monkeypatch.setattr("prune_export.verbs.verify.open_session", lambda *_, **__: session)
    assert prune_export.verify(checkpoint, tmp_path / "packed", samples=5).passed
    # `export` compares before it moves the file to its place; its check that CUDA is there is not what is tested here.
    monkeypatch.setattr("exporters.runtime.check_provider", lambda _: None)
    monkeypatch.setattr(
        "prune_export.exporting.checkpoint_export.Session",
        lambda path, **_: SimpleNamespace(run=runner(path), provider="cpu", settings=DEFAULT_SETTINGS),
    )
    assert prune_export.export(checkpoint, tmp_path / "again", target="cuda-packed", samples=5).parity.passed
    with ThreadPoolExecutor(1) as pool:
        found = prune_export.inspect(checkpoint).checkpoint
        reference = load_reference(found, pool, samples=5, seed=0, goal=None, progress=SILENT)
        candidates = {"ONNX": (run, TOLERANCES["fp32"])}
        verdicts = [
            run_parity(reference, candidates, provider="cpu", padding=padding, progress=SILENT).passed
            for padding in (False, True)
        ]
    assert verdicts == [True, False]


# --- answers ------------------------------------------------------------------------------------------------------------


def test_padded_batches_have_padding_and_random_tokens_are_any_but_padding(tmp_path: Path) -> None:
    encoder = prune_export.inspect(save(make_model(ROBERTA, "question-answering", vocab_size=9), tmp_path)).slim
    found = list(cases(encoder, None, samples=40, seed=0))
    for case in found:
        mask, kind = case.inputs["attention_mask"], case.name.rsplit(" ", 1)[1]
        assert mask[:, 0 if kind != "left" else -1].all()
        if mask.shape[0] == 8 and mask.shape[1] > 4:
            assert mask.all() == (kind == "none")
            assert (mask[:, -1].all(), mask[:, 0].all()) == (kind != "right", kind != "left")
        assert mask.size <= 2048
    pad = encoder.embeddings.pad_token_id
    seen = {int(token) for case in found for token in case.inputs["input_ids"][case.inputs["attention_mask"] == 1]}
    assert seen == set(range(9)) - {pad}


@pytest.mark.parametrize("task", ["question-answering", "text-classification", "token-classification"])
@pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer])
def test_real_text_is_what_the_tokenizer_gives_and_answers_lie_in_the_context(
    make: Any, task: Task, tmp_path: Path
) -> None:
    tokenizer = make()
    case = BERT if make is bert_tokenizer else ROBERTA
    model = make_model(case, task, vocab_size=len(tokenizer), max_position_embeddings=142)
    folder = save_with_tokenizer(model, tokenizer, tmp_path)
    encoder = prune_export.inspect(folder).slim
    found = list(cases(encoder, text_tokenizer(folder, encoder)[0], samples=4, seed=0))
    assert len(found) == count_cases(4, tokenizer) == 5
    assert count_cases(4, None) == 4
    assert all(one.counts is None for one in found[:4])
    text, longest = found[4], encoder.embeddings.max_length
    assert text.counts is not None
    ids, mask = text.inputs["input_ids"], text.inputs["attention_mask"]
    assert {values.dtype for values in text.inputs.values()} == {np.dtype(np.int64)}
    assert set(text.inputs) == set(encoder.inputs)
    raw = AutoTokenizer.from_pretrained(folder)
    pairs = task == "question-answering"
    assert text.name == ("question and context pairs" if pairs else "sentences")
    assert len(ids) == len(QUESTIONS if pairs else SENTENCES)
    for row in range(len(ids)):
        # one row at a time, by hand: special tokens round the parts, the last part cut
        parts = QUESTIONS[row] if pairs else SENTENCES[row : row + 1]
        tokens = [raw(part, add_special_tokens=False)["input_ids"] for part in parts]
        special = raw.num_special_tokens_to_add(pair=pairs)
        before = sum(len(part) for part in tokens[:-1])
        tokens[-1] = tokens[-1][: longest - special - before]
        real = ids[row][mask[row] == 1].tolist()
        assert len(real) == special + sum(len(part) for part in tokens)
        assert real[0] == raw.cls_token_id
        assert (ids[row][mask[row] == 0] == raw.pad_token_id).all()
        counted = ids[row][text.counts[row]].tolist()
        assert counted == (tokens[-1] if pairs else real)
        if "token_type_ids" in encoder.inputs and pairs:
            types = text.inputs["token_type_ids"][row]
            assert types[text.counts[row]].tolist() == (
                [1] * len(tokens[-1]) if case is BERT else [0] * len(tokens[-1])
            )
            assert not types[1 : 1 + len(tokens[0])].any()


def test_tokenizers_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    tokenizer = bert_tokenizer()
    for spare, fits in ((0, True), (-1, False)):
        model = make_model(BERT, "question-answering", vocab_size=len(tokenizer) + spare)
        folder = save_with_tokenizer(model, tokenizer, tmp_path / str(fits))
        assert (text_tokenizer(folder, prune_export.inspect(folder).slim)[0] is not None) == fits
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "True" / name).unlink()
    assert text_tokenizer(tmp_path / "True", prune_export.inspect(tmp_path / "True").slim)[0] is None


def full_search(start: Any, end: Any, context: Any) -> tuple[tuple[int, int], dict[tuple[int, int], float]]:
    scores = {
        (first, last): float(start[first]) + float(end[last])
        for first in range(len(start))
        for last in range(first, min(first + 30, len(start)))
        if context[first] and context[last]
    }
    return max(scores, key=scores.__getitem__), scores


def test_spans_are_at_most_30_tokens_inside_the_context() -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        start, end = generator.normal(size=(2, 70)).astype(np.float32)
        context = np.arange(70) >= generator.integers(1, 40)
        context[generator.integers(45, 71) :] = False  # padding
        best, _ = full_search(start, end, context)
        assert best_span(span_scores(start, end, context)) == best
    start, end = np.zeros((2, 40), dtype=np.float32)
    start[3] = 5
    end[32] = 5
    assert best_span(span_scores(start, end, np.ones(40, dtype=bool))) == (3, 32)  # 30 tokens
    end[[32, 33]] = 0, 5
    assert best_span(span_scores(start, end, np.ones(40, dtype=bool))) in {(3, 3), (4, 33)}  # 31 would be one too many


@pytest.mark.parametrize("tie", [0.0, 0.3, 1.0])
def test_answers_agree_where_the_reference_scores_them_within_a_tie(tie: float) -> None:
    generator = np.random.default_rng(1)
    reference = generator.normal(size=(2, 40, 9)).astype(np.float32)
    found = reference + generator.normal(scale=0.7, size=(2, 40, 9)).astype(np.float32)
    context = generator.random((40, 9)) < 0.8
    context[:, 4] = True
    same = 0
    for row in range(40):
        best, scores = full_search(reference[0, row], reference[1, row], context[row])
        other, _ = full_search(found[0, row], found[1, row], context[row])
        same += scores[best] - scores[other] <= tie
    pair = ({"start_logits": one[0], "end_logits": one[1]} for one in (reference, found))
    agreement = same_answers(*pair, context, tie=tie, least=0.5)
    assert agreement == Agreement(40, same, 0.5)
    assert 0 < same < 40


@pytest.mark.parametrize("tie", [0.0, 0.3])
def test_classes_agree_where_the_reference_scores_them_within_a_tie(tie: float) -> None:
    generator = np.random.default_rng(2)
    reference, found = generator.normal(size=(2, 6, 5, 4)).astype(np.float32)
    mask = generator.random((6, 5)) < 0.7
    pairs = [(reference[place], found[place]) for place in zip(*np.nonzero(mask), strict=True)]
    same = sum(float(a.max() - a[b.argmax()]) <= tie for a, b in pairs)
    assert same_classes({"logits": reference}, {"logits": found}, mask, tie=tie) == Agreement(len(pairs), same, 1.0)
    texts = [(a, b) for a, b in zip(reference[:, 0], found[:, 0], strict=True)]
    same = sum(float(a.max() - a[b.argmax()]) <= tie for a, b in texts)
    pair = ({"logits": one[:, 0]} for one in (reference, found))
    assert same_classes(*pair, mask, tie=tie, least=0.1) == Agreement(6, same, 0.1)


def test_agreement_is_of_what_the_case_counts() -> None:
    """Labels and spans; by the tolerance's tie, its limit where it has none; its least share."""
    logits = np.array([[[1, 0.8], [0, 1], [5, 0]], [[5, 0], [1, 0], [0, 1]]], dtype=np.float32)
    found = logits[..., ::-1].copy()  # every token gets the other class; one is a tie
    pair, by_token = ({"logits": logits}, {"logits": found}), TOKEN_CLASSIFICATION
    assert run_check(*pair, spec=by_token).agreement == Agreement(4, 1, 0.5)
    for limit, same in ((LOOSE.limit, 0), (0.3, 1)):
        tolerance = replace(LOOSE, tie=None, limit=limit)
        assert run_check(*pair, spec=by_token, tolerance=tolerance).agreement == Agreement(4, same, 0.5)
    assert run_check(*pair, spec=by_token, case=replace(CASE, counts=None)).agreement is None
    start = np.array([[2, 0, 9], [9, 0, 2]], dtype=np.float32)
    end = np.array([[0, 1, 9], [9, 0, 1]], dtype=np.float32)
    reference = {"start_logits": start, "end_logits": end}  # answers (0, 1) and (2, 2)
    moved = {"start_logits": start - np.array([[2.5], [0]], dtype=np.float32) * np.array([1, 0, 0]), "end_logits": end}
    found = {name: values.astype(np.float32) for name, values in moved.items()}
    result = run_check(reference, found, spec=QUESTION_ANSWERING)
    assert result.agreement == Agreement(2, 1, 0.5)  # (1, 1) in the first row, 2 behind
    generator = np.random.default_rng(3)
    names = ("start_logits", "end_logits")
    for _ in range(8):
        one, two = (
            dict(zip(names, generator.normal(size=(2, 2, 3)).astype(np.float32), strict=True)) for _ in range(2)
        )
        agreement = run_check(one, two, spec=QUESTION_ANSWERING).agreement
        assert agreement == same_answers(one, two, MASK == 1, tie=0.25, least=0.5)


# --- verdicts -----------------------------------------------------------------------------------------------------------


def result(
    comparison: str, case: str, absolute: float, *, passed: bool, agreement: Agreement | None = None
) -> CaseResult:
    return CaseResult(comparison, case, (OutputResult("logits", absolute, absolute / 4, 4.0, 0.4, passed),), agreement)


def parity_report(
    results: tuple[CaseResult, ...], *, provider: str = "p", seed: int = 0, quality: Quality | None = None
) -> ParityReport:
    return ParityReport(results, LOOSE, provider, seed, True, 40, 512, quality)


def test_reports_take_the_worst_of_each_output_and_add_answers_up() -> None:
    results = (
        result("ONNX", "1", 0.3, passed=True, agreement=Agreement(8, 7, 0.75)),
        result("slim", "1", 0.1, passed=True),
        result("ONNX", "2", 0.2, passed=True, agreement=Agreement(8, 6, 0.75)),
    )
    report = parity_report(results, provider="CPUExecutionProvider", seed=3)
    assert report.comparisons() == ("ONNX", "slim")
    assert report.worst("ONNX") == {"logits": (0.3, 0.075)}
    assert report.worst("slim") == {"logits": (0.1, 0.025)}
    assert report.agreement("ONNX") == Agreement(16, 13, 0.75)
    assert report.agreement("slim") is None
    assert report.passed
    assert report.problems() == []
    found = report.to_json()
    assert found["comparisons"] == {
        "ONNX": {
            "cases": 2,
            "outputs": {"logits": {"max_absolute": 0.3, "max_relative": 0.075}},
            "answers": {"questions": 16, "same": 13},
        },
        "slim": {"cases": 1, "outputs": {"logits": {"max_absolute": 0.1, "max_relative": 0.025}}},
    }
    assert (found["passed"], found["tolerance"], found["seed"], found["quality"]) == (True, 0.1, 3, None)
    assert (found["tolerance_reason"], found["provider"]) == ("a test", "CPUExecutionProvider")
    assert (found["thorough"], found["longest"], found["max_length"]) == (True, 40, 512)
    assert not parity_report(()).passed  # nothing was proven


@pytest.mark.parametrize("order", [1, -1])
def test_an_error_that_is_no_number_is_the_largest(order: int) -> None:
    wrong = result("ONNX", "2", float("nan"), passed=False)
    report = parity_report((result("ONNX", "1", 0.3, passed=True), wrong)[::order])
    assert all(np.isnan(report.worst("ONNX")["logits"]))
    assert report.to_json()["comparisons"]["ONNX"]["outputs"] == {
        "logits": {"max_absolute": None, "max_relative": None}
    }
    assert "nan" in str(list(parity_table(report).columns[2].cells))


def test_failures_carry_their_figures() -> None:
    wrong = result("ONNX", "2", 0.5, passed=False, agreement=Agreement(8, 5, 0.75))
    assert not wrong.passed
    assert wrong.failure == (
        "ONNX: 2: logits differs by 0.5, allowed 0.4 (largest reference value 4); 3 of 8 answers differ, allowed 25%"
    )
    strict = result("ONNX", "3", 0.1, passed=True, agreement=Agreement(8, 7))
    assert strict.failure == "ONNX: 3: 1 of 8 answers differ"
    many = tuple(replace(wrong, case=str(index)) for index in range(5))
    report = parity_report((*many, result("slim", "0", 0.1, passed=True)))
    assert report.failures == many
    assert report.first_alone_failed
    assert not parity_report((*many, replace(wrong, comparison="slim"))).first_alone_failed
    assert report.explain() == "\n  ".join([*(one.failure for one in many[:3]), "and 2 more, of 6 cases"])
    assert parity_report(many[:3]).explain() == "\n  ".join(one.failure for one in many[:3])
    lost = parity_report(many[:1], quality=quality(80.0, 70.0))
    assert lost.problems() == [quality(80.0, 70.0).explain(), many[0].failure]
    assert parity_report((strict,), quality=quality(80.0, 80.0)).problems() == [strict.failure]


def test_junit(tmp_path: Path) -> None:
    wrong = result("ONNX", "2", 0.5, passed=False)
    report = parity_report((result("slim", "1", 0.123456, passed=True), wrong))
    path = tmp_path / "parity.xml"
    write_junit(report, path)
    root = ElementTree.parse(path).getroot()
    assert path.read_bytes().startswith(b"<?xml version='1.0' encoding='utf-8'?>\n<testsuites>\n  <testsuite")
    (suite,) = root
    assert suite.attrib == {"name": "prune-export parity", "tests": "2", "failures": "1"}
    right, failed = suite
    assert right.attrib == {"classname": "slim", "name": "1"}
    assert [(part.tag, part.text) for part in right] == [("system-out", "logits 0.123")]
    assert failed.attrib == {"classname": "ONNX", "name": "2"}
    (failure,) = failed
    assert (failure.tag, failure.get("message")) == ("failure", wrong.failure)
    assert failure.text == "The tolerance, 0.1 * max(1, max|reference|), allows for: a test."
    foreign = tmp_path / "notes.xml"
    foreign.write_text("mine")
    with pytest.raises(OutputError):
        write_junit(report, foreign)
    write_junit(report, foreign, overwrite=True)
    assert foreign.read_bytes() == path.read_bytes()


# --- quality ------------------------------------------------------------------------------------------------------------


def quality(reference: float, found: float, max_loss: float = 0.5) -> Quality:
    return Quality("dev.json", 10, "f1", reference, found, 9, max_loss, "dev", ("a note",))


@pytest.mark.parametrize(
    ("reference", "found", "loss", "passed"),
    [(80.0, 79.5, 0.5, True), (80.0, 79.25, 0.75, False), (80.0, 90.0, -10.0, True), (80.0, 80.0, 0.0, True)],
)
def test_a_model_that_is_better_has_lost_nothing(reference: float, found: float, loss: float, passed: bool) -> None:
    judged = quality(reference, found)
    assert (judged.loss, judged.passed) == (loss, passed)
    assert f"{max(0.0, loss):.2f} points lost, allowed 0.5; 9 answers are the same; a note" in judged.explain()
    assert judged.to_json() == {
        "passed": passed,
        "data": "dev.json",
        "split": "dev",
        "examples": 10,
        "metric": "f1",
        "reference": reference,
        "found": found,
        "same_answers": 9,
        "max_loss": 0.5,
        "notes": ["a note"],
    }
    report = parity_report((result("ONNX", "1", 0.1, passed=True),), quality=judged)
    assert report.passed == passed
    assert report.to_json()["quality"] == judged.to_json()


def test_a_network_is_judged_on_all_examples_beside_the_original(tmp_path: Path) -> None:
    """The network always answers with the context's first letter: right for one question of two."""
    folder = save_with_tokenizer(make_model(BERT, "question-answering", vocab_size=81), bert_tokenizer(), tmp_path)
    data = QuestionData(
        "two", "squad", (Question("1", "a?", "b c", ("b",), ((0, 1),)), Question("2", "a?", "b c", ("c",), ((2, 3),)))
    )

    def run(inputs: Any) -> Any:
        context = (inputs["token_type_ids"] == 1) & (np.cumsum(inputs["token_type_ids"], axis=1) == 1)
        return {name: context.astype(np.float32) * 9 for name in ("start_logits", "end_logits")}

    network = Network("n", "onnx", "question-answering", folder, ("input_ids",), ("start_logits", "end_logits"), run)
    original = ModelResult(
        "o", "pytorch", {"exact_match": 100.0, "f1": 100.0}, {"1": "b", "2": "c"}, None, 2, 0.1, "squad"
    )
    goal = read_goal(QualityOptions(data=data, max_loss=0.25, limit=7), "question-answering")
    assert {example.id for example in goal.data.examples} == {"1", "2"}
    assert judge(goal, original, network, provider="cpu") == Quality("two", 2, "f1", 100.0, 50.0, 1, 0.25, None, ())
    # A second answer that stands nowhere, in data that say more of themselves: the notes of both reach the verdict.
    lost = replace(data.examples[1], spans=())
    noted = QualityGoal(replace(data, examples=(data.examples[0], lost), split="dev", notes=("mended",)), 0.25)
    found = judge(noted, original, network, provider="cpu")
    assert (found.split, found.found, found.notes[0], len(found.notes)) == ("dev", 50.0, "mended", 2)
    assert found.notes[1].startswith("the answers of 1 of 2 questions")
    assert QualityGoal(data, 0.0).metric(original) == "f1"
    assert len(read_goal(QualityOptions(data=data, max_loss=0, limit=1), "question-answering").data.examples) == 1
    other = tmp_path / "texts.tsv"  # RTE by its headings
    other.write_text("index\tsentence1\tsentence2\tlabel\n0\ta b\tb\tentailment\n")
    texts = read_goal(QualityOptions(data=other, max_loss=0, limit=5), "text-classification")
    assert isinstance(texts.data, TextData)
    assert (texts.data.glue.name, texts.data.glue.metrics[0]) == ("rte", "accuracy")
    # Of texts, the first metric that the original has, also where there is an F1.
    assert texts.metric(replace(original, metrics={"accuracy": 50.0, "f1": 60.0}, metric="mrpc")) == "accuracy"
    with pytest.raises(DataError):
        read_goal(QualityOptions(data=other, dataset="stsb", max_loss=0, limit=5), "text-classification")
    for wrong in (-0.1, float("nan")):
        with pytest.raises(UsageError, match=r"max.loss.*: expected a number"):
            prune_export.verify(folder, folder, data=data, max_loss=wrong)
