"""The proof of an export: what the budget holds, that it notices damage, and what is said where it is not enough."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prune_export
from benchmarks.damages import Damage
from benchmarks.proof_damage import judge_damages
from exporters.errors import ParityError, PruneExportError, UsageError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save as save_onnx
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.session import DEFAULT_SETTINGS, Session
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.cli.main import main
from prune_export.network.opening import Batch, Outputs, torch_runner
from prune_export.parity.budget import TEXT_ROW, TOKENS, budget_cases
from prune_export.parity.check import compare, one_ahead
from prune_export.parity.inputs import Case, cases
from prune_export.parity.padding import compares_padding
from prune_export.parity.texts import QUESTIONS, SENTENCES
from prune_export.parity.tolerance import TOLERANCES
from prune_export.parity.workers import workers
from prune_export.tasks import SPECS
from prune_export.verbs.inspect import inspect
from tests.models import BERT_LIKE, FAMILY_CASES, FamilyCase, make_model, save
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer

TINY = FAMILY_CASES[0]


def bert(folder: Path, **changes: Any) -> Path:
    """A tiny BERT for question answering, its configuration changed."""
    return save(make_model(FamilyCase("bert", "BertConfig", BERT_LIKE | changes), "question-answering"), folder)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Damage, bool, float]]:
    return list(judge_damages(bert(tmp_path_factory.mktemp("judged"))))


def test_the_network_itself_passes_with_room(judged: list[tuple[Damage, bool, float]]) -> None:
    damage, failed, share = judged[0]
    assert damage.kind == "none"
    assert not failed
    assert share < 0.1  # of what is allowed


def test_damage_is_noticed(judged: list[tuple[Damage, bool, float]]) -> None:
    """All of what changes answers, and of single weights changed by 1 % nearly all."""
    tried, noticed = Counter[str](), Counter[str]()
    for damage, failed, _ in judged[1:]:
        tried[damage.kind] += 1
        noticed[damage.kind] += failed
    missed = {kind: tried[kind] - noticed[kind] for kind in tried}
    assert tried["largest weight + 1 %"] > 40
    assert noticed["largest weight + 1 %"] >= 0.9 * tried["largest weight + 1 %"]
    assert noticed["random weight + 1 %"] >= 0.8 * tried["random weight + 1 %"]
    # An epsilon of 1e-12 and one of 1e-11 are both nothing beside the variance: docs/verify.md says so.
    partly = {"largest weight + 1 %", "random weight + 1 %", "epsilon × 10"}
    assert {kind: count for kind, count in missed.items() if count and kind not in partly} == {}
    assert len(tried) >= 13


def test_an_epsilon_that_matters_is_noticed(tmp_path: Path) -> None:
    (_, failed, _), *norms = judge_damages(bert(tmp_path, layer_norm_eps=1e-3), kind="epsilon × 10")
    assert not failed
    assert len(norms) == 7
    assert all(failed for _, failed, _ in norms)


@pytest.mark.parametrize("family", FAMILY_CASES, ids=str)
def test_the_budget_holds_every_corner(family: FamilyCase, tmp_path: Path) -> None:
    encoder = inspect(save(make_model(family, family.task), tmp_path)).slim
    found = budget_cases(encoder, None, seed=0)
    shapes = {case.inputs["input_ids"].shape for case in found}
    assert {(1, 1), (1, encoder.embeddings.max_length)} <= shapes
    assert sum(rows == 8 for rows, _ in shapes) >= 1
    paddings = {case.name.rsplit(" ", 1)[1]: case.inputs["attention_mask"] for case in found}
    assert (np.diff(paddings["right"], axis=1) < 0).any()
    assert (np.diff(paddings["left"], axis=1) > 0).any()
    assert all(set(case.inputs) == set(encoder.inputs) for case in found)


@pytest.mark.parametrize("positions", [5, 512, 8194])
@pytest.mark.parametrize("task", ["question-answering", "token-classification"])
def test_the_budget_is_kept_at_every_length(positions: int, task: Any, tmp_path: Path) -> None:
    """With real text, too; the last position row of a model of 512 is reached, that of one of thousands is not."""
    arguments = BERT_LIKE | {"max_position_embeddings": positions, "vocab_size": 2000}
    tokenizer = bert_tokenizer()
    folder = save_with_tokenizer(make_model(FamilyCase("bert", "BertConfig", arguments), task), tokenizer, tmp_path)
    encoder = inspect(folder).slim
    found = budget_cases(encoder, tokenizer, seed=0)
    assert sum(case.tokens for case in found) <= TOKENS
    text = found[-1]
    assert text.counts is not None
    assert len(text.inputs["input_ids"]) == len(QUESTIONS) == len(SENTENCES) == 8
    assert text.length <= TEXT_ROW
    if positions > 5:
        assert text.counts.any(axis=1).all()  # every context, or sentence, is seen
    assert max(case.length for case in found) >= min(positions, 512)


def test_all_dtypes_and_families_pass_with_room(tmp_path: Path) -> None:
    """A tolerance that noise comes near to would refuse right exports now and then."""
    for family in FAMILY_CASES:
        found = inspect(save(make_model(family, "feature-extraction"), tmp_path / family.model_type))
        encoder = found.checkpoint.encoder
        oracle = torch_runner(load_reference_model(found.checkpoint), encoder.inputs, encoder.outputs)
        for dtype, most in (("fp32", 0.1), ("fp16", 0.6)):
            path = tmp_path / family.model_type / f"{dtype}.onnx"
            save_onnx(build(found.slim, TARGETS["cpu"], PRECISIONS[dtype]), path)
            candidates = {"ONNX": (Session(path).run, TOLERANCES[dtype])}
            answered = one_ahead(oracle, budget_cases(encoder, None, seed=0))
            padding = compares_padding(encoder, None, DEFAULT_SETTINGS)
            for result in compare(answered, candidates, spec=SPECS[encoder.task], padding=padding):
                assert result.passed
                assert all(output.max_absolute < most * output.allowed for output in result.outputs), (family, dtype)


def test_the_report_says_what_was_covered(tmp_path: Path) -> None:
    checkpoint = bert(tmp_path / "checkpoint", max_position_embeddings=3000)
    result = prune_export.export(checkpoint, tmp_path / "quick", target="cpu")
    assert result.parity is not None
    assert (result.parity.thorough, result.parity.max_length) == (False, 3000)
    assert 512 <= result.parity.longest < TOKENS
    assert result.record["parity"]["longest"] == result.parity.longest
    assert result.record["parity"]["thorough"] is False
    assert any(f"inputs of up to {result.parity.longest:,} tokens" in note and "3,000" in note for note in result.notes)
    slim = [found.case for found in result.parity.results if found.comparison == "slim PyTorch"]
    assert 0 < len(slim) < sum(found.comparison == "ONNX" for found in result.parity.results)


def test_thorough_is_verify_s_comparison(tmp_path: Path) -> None:
    checkpoint = bert(tmp_path / "checkpoint")
    verified = None
    for options, count in (({"thorough": True}, 16), ({"samples": 5}, 5)):
        result = prune_export.export(checkpoint, tmp_path / "out", target="cpu", overwrite=True, **options)  # type: ignore[arg-type]
        assert result.parity is not None
        assert result.parity.thorough
        assert sum(found.comparison == "ONNX" for found in result.parity.results) == count
        assert sum(found.comparison == "slim PyTorch" for found in result.parity.results) == count
        verified = prune_export.verify(checkpoint, tmp_path / "out", samples=count)
        assert [found.case for found in verified.results] == [f.case for f in result.parity.results[::2]]
    quick = prune_export.verify(checkpoint, tmp_path / "out", thorough=False)
    assert quick.passed
    assert not quick.thorough
    assert len(quick.results) < 16
    with pytest.raises(UsageError, match="--samples 8 counts the batches of a thorough comparison"):
        prune_export.verify(checkpoint, tmp_path / "out", thorough=False, samples=8)


def test_the_options_are_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, output = str(bert(tmp_path / "checkpoint")), str(tmp_path / "out")
    assert main(["--model", checkpoint, "--output", output, "--target", "cpu", "--thorough", "--json"]) == 0
    assert '"thorough": true' in capsys.readouterr().out
    verify = ["verify", "--model", checkpoint, "--onnx", output, "--json"]
    assert main(verify) == 0
    assert '"thorough": true' in capsys.readouterr().out
    assert main([*verify, "--no-thorough"]) == 0
    assert '"thorough": false' in capsys.readouterr().out
    assert main([*verify, "--no-thorough", "--samples", "8"]) == 2


def test_the_default_export_fails_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer loses the attention's scale: nothing is written."""
    from exporters.onnx import attention

    right = attention.project

    def wrong(*arguments: object, **options: object) -> object:
        return right(*arguments, **(options | {"constant_scale": 1.0}))  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "project", wrong)
    with pytest.raises(ParityError, match="nothing was written"):
        prune_export.export(bert(tmp_path / "checkpoint"), tmp_path / "out", target="portable")
    assert not (tmp_path / "out").exists()


def test_an_oracle_that_fails_in_its_thread_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Batch) -> Outputs:
        raise PruneExportError("the oracle broke")

    monkeypatch.setattr("prune_export.parity.reference.torch_runner", lambda *_, **__: broken)
    with pytest.raises(PruneExportError, match="the oracle broke"):
        prune_export.export(bert(tmp_path / "checkpoint"), tmp_path / "out", target="cpu")
    assert not (tmp_path / "out").exists()


def test_one_ahead_keeps_order_and_ends_after_an_error(tmp_path: Path) -> None:
    encoder = inspect(bert(tmp_path)).slim
    batches = list(cases(encoder, None, samples=6, seed=0))
    seen: list[int] = []

    def run(batch: Batch) -> Outputs:
        seen.append(batch["input_ids"].size)
        return {"x": batch["input_ids"].astype(np.float32)}

    def pairs() -> Any:
        return one_ahead(run, batches)

    for case, outputs in pairs():
        assert np.array_equal(outputs["x"], case.inputs["input_ids"])
    assert len(seen) == 6
    first: Case = next(iter(pairs()))[0]
    assert first is batches[0]


def test_workers_drop_what_has_not_begun() -> None:
    from threading import Event

    begun, go, later = Event(), Event(), Event()

    def first() -> None:
        begun.set()
        go.wait(10)

    def work() -> None:
        with workers(1) as pool:
            pool.submit(first)
            pool.submit(later.set)
            assert begun.wait(10)
            go.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert begun.is_set()
