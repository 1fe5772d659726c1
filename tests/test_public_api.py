"""Every public function and every option with values of the wrong type or range: an error of ours or a right result.

`PRUNE_EXPORT_FUZZ=50 pytest tests/test_public_api.py` tries fifty times as many.
"""

from __future__ import annotations

import argparse
import datetime
import inspect
import io
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import prune_export
from exporters.errors import PruneExportError, UsageError
from prune_export.cli.main import VERBS, main, parser_of
from prune_export.evaluation.result import Evaluation, ModelResult
from prune_export.facts.plan import plan_to_json
from prune_export.options.ranges import SEEDS
from prune_export.surgeon.zeros import plan_from_zeros
from tests.fuzz.mutations import as_json
from tests.models import FAMILY_CASES, make_model
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer
from tests.tiny_training import questions_file, recipe_data

MORE = float(os.environ.get("PRUNE_EXPORT_FUZZ", "1"))

# Sizes that would be honoured, for hours or out of memory.
_COSTLY = {"samples", "rounds", "seconds", "batch_size", "batch_sizes", "sequence_lengths", "threads"}
_COSTLY |= {"evaluations", "points", "steps"}

NUMBERS: list[Any] = [True, 0, 1, -1, 3, 1 << 63, -(1 << 63) - 1, 10**400, 0.5, -0.5, -0.0, 1e-300]
NUMBERS += [float("nan"), float("inf"), float("-inf"), np.int8(3), np.float32("nan"), np.float64(0.5), np.bool_(True)]
NUMBERS += [Decimal(1), Fraction(1, 2), Fraction(10**400), 1j]
LARGE: list[Any] = [1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63), 1e300, np.int64(1 << 40)]
TEXTS: list[Any] = [
    "",
    " ",
    "17",
    "0.5",
    "nan",
    "cpu",
    "gpu",
    "CPU",
    "auto",
    "a b",
    "\0",
    "\ud800",
    "a" * 5000,
    "../..",
    ".",
]
TEXTS += ["~nobody_of_that_name/x", "a\nb", "\x1b[31m", "nowhere.onnx", "f1", "0-1", "no/such", "a:b:c", "mnli", "sst2"]
OTHERS: list[Any] = [None, b"", b"cpu", [], [None], [[]], ["a", 3], [0, 0], [-1], (), {}, {"a": 1}, {"f1": "x"}, {1: 2}]
OTHERS += [{1}, frozenset("a"), object(), object, Ellipsis, Path(), Path("nowhere"), Path("\0"), range(3), len]
OTHERS += [np.array(1), np.array([1, 2]), np.array([]), np.array(["a"]), torch.tensor(1), torch.ones(2)]
OTHERS += [
    datetime.date(2020, 1, 1),
    bytearray(b"x"),
    io.StringIO("x"),
    memoryview(b"x"),
    ["cpu"],
    ["f1=1"],
    [0.5, 0.5],
]


def values(name: str) -> st.SearchStrategy[Any]:
    numbers = NUMBERS if name in _COSTLY else [*NUMBERS, *LARGE]
    drawn = st.one_of(st.text(max_size=8), st.binary(max_size=3), st.integers(-9, 9), st.floats(-2, 2))
    return st.one_of(
        st.sampled_from(numbers), st.sampled_from(TEXTS), st.sampled_from(OTHERS), drawn, st.lists(drawn, max_size=3)
    )


@dataclass(frozen=True)
class Call:
    """A function with arguments that are right, and how many wrong ones of it are tried."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    examples: int = 30


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("public")
    tokenizer = bert_tokenizer()
    model = make_model(
        FAMILY_CASES[0], "question-answering", vocab_size=90, hidden_size=32, num_hidden_layers=1, intermediate_size=16
    )
    save_with_tokenizer(model, tokenizer, folder / "model")
    prune_export.slim(folder / "model").save_pretrained(folder / "slim")
    tokenizer.save_pretrained(folder / "slim")
    prune_export.export(folder / "model", folder / "onnx", target="cpu", verify=False)
    encoder = prune_export.inspect(folder / "model").slim
    (folder / "plan.json").write_bytes(as_json(plan_to_json(plan_from_zeros(encoder))))
    questions_file(folder / "questions.json", 8)
    questions_file(folder / "many.json", 16)
    recipe = recipe_data(folder, schedule={"steps": 1})
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    return folder


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Relative paths lead into an empty folder, names on the hub nowhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def calls(root: Path, out: Path) -> dict[str, Call]:
    model, onnx, data = root / "model", root / "onnx", root / "questions.json"
    result = ModelResult("model", "onnx", {"f1": 50.0}, {}, None, 1, 0.1, "squad")
    evaluation = Evaluation("data", "question-answering", "squad", 1, (result,), None, 1, None, ())
    pipeline = prune_export.Pipeline(onnx)
    return {
        "inspect": Call(prune_export.inspect, {"model": model}),
        "slim": Call(prune_export.slim, {"model": model}),
        "load_slim": Call(prune_export.load_slim, {"folder": root / "slim"}),
        "save_pretrained": Call(prune_export.load_slim(root / "slim").save_pretrained, {"folder": out}),
        "load_session": Call(prune_export.load_session, {"onnx": onnx}),
        "run": Call(prune_export.load_session(onnx).run, {"inputs": {}}),
        "read_plan": Call(prune_export.read_plan, {"path": root / "plan.json"}),
        "read_recipe": Call(prune_export.read_recipe, {"path": root / "recipe.toml"}),
        "export": Call(prune_export.export, {"model": model, "output": out, "target": "cpu", "samples": 4}, 20),
        "verify": Call(prune_export.verify, {"model": model, "onnx": onnx, "samples": 4}, 20),
        "evaluate": Call(prune_export.evaluate, {"models": onnx, "data": data, "limit": 2}),
        "below": Call(evaluation.below, {"limits": {}}),
        "Pipeline": Call(prune_export.Pipeline, {"model": onnx}),
        "pipeline": Call(pipeline, {"inputs": [("a", "b")]}),
        "prune": Call(
            prune_export.prune, {"model": model, "calibration": data, "output": out, "flops": 0.5, "samples": 8}, 15
        ),
        "search": Call(
            prune_export.search,
            {"model": model, "calibration": root / "many.json", "output": out, "evaluations": 1, "points": 1}
            | {"max_seq_length": 16, "sequence_length": 8, "threads": 1},
            15,
        ),
        "profile": Call(prune_export.profile, {"model": model, "sequence_length": 8, "threads": 1}, 15),
        "bench": Call(
            prune_export.bench,
            {"onnx": [onnx], "batch_sizes": [1], "sequence_lengths": [8], "rounds": 1, "seconds": 0.001, "threads": 1},
            15,
        ),
        "train": Call(prune_export.train, {"recipe": root / "recipe.toml", "overwrite": True}, 10),
        "dry_run": Call(prune_export.dry_run, {"recipe": root / "recipe.toml", "overwrite": True}, 10),
    }


NAMES = [
    "inspect",
    "slim",
    "load_slim",
    "save_pretrained",
    "load_session",
    "run",
    "read_plan",
    "read_recipe",
    "export",
    "verify",
    "evaluate",
    "below",
    "Pipeline",
    "pipeline",
    "prune",
    "search",
    "profile",
    "bench",
    "train",
    "dry_run",
]


def limited(examples: int) -> Any:
    return settings(
        max_examples=max(1, int(examples * MORE)),
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )


def test_every_function_is_tried(root: Path, tmp_path: Path) -> None:
    assert list(calls(root, tmp_path)) == NAMES
    functions = [name for name in prune_export.__all__ if inspect.isfunction(getattr(prune_export, name))]
    assert set(functions) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_are_refused_or_harmless(name: str, root: Path, tmp_path: Path) -> None:
    call = calls(root, tmp_path / "out")[name]
    names = [
        parameter.name
        for parameter in inspect.signature(call.function).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]

    @limited(call.examples)
    @given(data=st.data())
    def one(data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
        wrong = {part: data.draw(values(part), label=part) for part in chosen}
        try:
            call.function(**(call.arguments | wrong))
        except PruneExportError as error:
            check_message(str(error))

    one()


def check_message(message: str) -> None:
    assert message
    assert message.replace("\n  ", "").isprintable(), repr(message[:300])  # parity's reasons are indented lines
    assert len(message) < 3_100, len(message)


@pytest.mark.parametrize("word", ["a\n  b", "\x1b[31m", "\ud800", "vu\x95\u00ccT"])
def test_numbers_are_named_escaped(word: str) -> None:
    for refuse in (lambda: SEEDS.parsed(word), lambda: SEEDS.checked("--seed", word)):
        with pytest.raises((ValueError, UsageError), match="expected a whole number") as caught:
            refuse()
        assert str(caught.value).isprintable()
        assert ascii(word)[1:-1].lower() in ascii(str(caught.value)).replace("\\\\", "\\").lower()


def test_a_number_that_python_does_not_write_out() -> None:
    with pytest.raises(UsageError, match="--seed a huge number: expected a whole number"):
        SEEDS.checked("--seed", -(10**5000))


# --- the command line ---------------------------------------------------------------------------------------------------


def commands(root: Path, out: Path) -> dict[str, list[str]]:
    model, onnx, data = str(root / "model"), str(root / "onnx"), str(root / "questions.json")
    return {
        "export": ["--model", model, "--output", str(out), "--target", "cpu", "--samples", "4"],
        "verify": ["--model", model, "--onnx", onnx, "--samples", "4"],
        "inspect": ["--model", model],
        "evaluate": ["--model", onnx, "--data", data, "--limit", "2"],
        "bench": [
            *("--onnx", onnx, "--batch-size", "1", "--sequence-length", "8"),
            *("--rounds", "1", "--seconds", "0.001", "--threads", "1"),
        ],
        "prune": ["--model", model, "--calibration", data, "--output", str(out), "--flops", "0.5", "--samples", "8"],
        "search": [
            *("--model", model, "--calibration", str(root / "many.json"), "--output", str(out), "--evaluations", "1"),
            *("--points", "1", "--max-seq-length", "16", "--sequence-length", "8", "--threads", "1"),
        ],
        "profile": ["--model", model, "--sequence-length", "8", "--threads", "1"],
        "train": [str(root / "recipe.toml"), "--overwrite"],
    }


WORDS = [
    "",
    " ",
    "17",
    "-1",
    "0",
    "1",
    "0.5",
    "nan",
    "-inf",
    "1e400",
    "9" * 5000,
    "cpu",
    "gpu",
    "--",
    "-",
    "\0",
    "a\nb",
]
WORDS += ["~nobody_of_that_name/x", "a" * 5000, "\x1b[31m", ".", "../..", "nowhere", "f1=x", "x=y", "٣", "0x10", "1_0"]


@pytest.mark.parametrize("verb", list(VERBS))
def test_wrong_words_are_refused_in_one_line(verb: str, root: Path, tmp_path: Path) -> None:
    known = commands(root, tmp_path / "out")[verb]
    parser = parser_of(verb)
    options = [
        action
        for action in parser._actions
        if action.option_strings
        and not isinstance(action, argparse._HelpAction)
        and action.dest not in ("json", "verbose", "version")
    ]

    @limited(8 if verb in ("train", "bench", "prune", "search", "profile") else 15)
    @given(data=st.data())
    def one(data: st.DataObject) -> None:
        wrong: list[str] = []
        for action in data.draw(st.lists(st.sampled_from(options), min_size=1, max_size=2)):
            words = st.sampled_from(WORDS)
            word = data.draw(words if action.dest in _COSTLY else words | st.text(max_size=6))
            wrong += [action.option_strings[-1]] if action.nargs == 0 else [action.option_strings[-1], word]
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main([verb, *known, *wrong, "--quiet"])
            except SystemExit as stop:
                code = int(str(stop.code))
                assert code == 2
        assert code in (0, 1, 2, 3, 4)
        if code:
            assert err.getvalue().startswith("prune-export: error: ")
            assert err.getvalue().endswith("\n")
            check_message(err.getvalue()[:-1])
        else:
            assert err.getvalue() == ""
        assert out.getvalue() == ""

    one()
