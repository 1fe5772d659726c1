"""`prune` and `profile` as users call them: files, budgets in time, interruption, bad input."""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForQuestionAnswering

import prune_export
from exporters.encoder import Encoder
from exporters.errors import DataError, PruneExportError, UsageError
from prune_export.checkpoint import masked
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.cli.main import main
from prune_export.files.tensors import save_tensors
from prune_export.options.prune import CalibrationData
from prune_export.options.timing import TimingConditions
from prune_export.pruning import block_timing
from prune_export.pruning.calibration import read_calibration
from prune_export.pruning.latency import LatencyTable, latency_costs
from prune_export.pruning.latency_cache import latency_table
from prune_export.pruning.selection import select
from tests.made_scores import NUMBERS, kept_score, layer_scores
from tests.models import FAMILY_CASES, FamilyCase, make_model, save
from tests.tiny_tokenizers import bert_tokenizer

BERT = FAMILY_CASES[0]


def saved(case: FamilyCase, folder: Path, *, seed: int = 0, **changes: Any) -> tuple[Any, Checkpoint]:
    model = make_model(case, case.task, seed=seed, **changes)
    return model, load_checkpoint(save(model, folder))


QUESTIONS = {
    "version": "1.1",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": f"the cat {index} sat on a mat",
                    "qas": [
                        {
                            "id": str(index),
                            "question": "who sat?",
                            "answers": [{"text": f"cat {index}", "answer_start": 4}],
                        }
                    ],
                }
                for index in range(24)
            ],
        }
    ],
}


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    folder = tmp_path / "dense"
    save(make_model(BERT, "question-answering", vocab_size=90, max_position_embeddings=64), folder)
    bert_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(QUESTIONS), encoding="utf-8")
    return path


def test_prune_writes_checkpoints_that_export(dense: Path, questions: Path, tmp_path: Path) -> None:
    results = prune_export.prune(
        dense, questions, tmp_path / "out", flops=[0.7, 0.5], heads=0.5, columns=0.4, samples=16
    )
    assert [result.folder.name for result in results] == ["flops-0.7", "flops-0.5", "heads-0.5-columns-0.4"]
    last = results[-1]
    assert sum(len(layer.heads) for layer in last.plan.layers) == 6
    assert sum(len(layer.columns) for layer in last.plan.layers) == 24
    for result in results[:2]:
        # Units that went on the way do not come back, and a head is 4 % of this network.
        assert 0.9 * result.budget.value < result.cost / result.dense <= result.budget.value
        record = json.loads((result.folder / "pruning.json").read_text(encoding="utf-8"))
        assert record["method"] == "obs"
        assert record["seed"] == 0
        assert record["data"]["samples"] == 16
        assert len(record["data"]["sha256"]) == 64
        assert {"budget", "steps"} <= set(record)
        assert str(tmp_path) not in json.dumps(record["data"])
    AutoModelForQuestionAnswering.from_pretrained(results[1].folder)
    exported = prune_export.export(results[1].folder, tmp_path / "onnx", samples=4)
    assert exported.parity is not None
    assert exported.parity.passed
    assert exported.record["source"]["form"] == "masked"
    again = prune_export.prune(dense, questions, tmp_path / "again", flops=0.5, samples=16)
    files = [folder / "model.safetensors" for folder in (results[1].folder, again[0].folder)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_several_files_are_one_calibration(dense: Path, questions: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(dense)
    other = tmp_path / "other.json"
    other.write_text(questions.read_text(encoding="utf-8").replace("mat", "cap"), encoding="utf-8")
    found = read_calibration(CalibrationData([questions, other], samples=100, seed=0), checkpoint)
    assert (found.name, found.samples) == ("train.json, other.json", 48)
    one, two = (
        read_calibration(CalibrationData(sources, samples=100, seed=0), checkpoint)
        for sources in (questions, [questions])
    )
    assert one.digest == two.digest != found.digest
    with pytest.raises(UsageError, match="--labels a b: question answering has no classes"):
        read_calibration(CalibrationData(questions, samples=8, seed=0, labels=["a", "b"]), checkpoint)
    other.write_text(SST, encoding="utf-8")
    with pytest.raises(DataError, match="is for text-classification"):
        read_calibration(CalibrationData([questions, other], samples=8, seed=0), checkpoint)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured does not matter here."""
    for name, value in (("_ROUNDS", 1), ("_SECONDS", 0.0), ("_WIDTHS", 4)):
        monkeypatch.setattr(block_timing, name, value)


def test_prune_to_a_measured_speed(
    dense: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table is measured once and found again; nothing here depends on how fast the machine is."""
    hurry(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["--model", str(dense), "--sequence-length", "32", "--json", "--quiet"]
    assert main(["profile", *words]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [count for count, _ in table["heads_ms"]] == [0, 1, 2, 3, 4]
    budget = table["rest_ms"] * 1.0001 + 1e-6
    arguments = ["--calibration", str(questions), "--output", str(tmp_path / "out"), "--latency-ms", str(budget)]
    code = main(["prune", *words, *arguments, "--samples", "8"])
    result = json.loads(capsys.readouterr().out)["results"][0]
    assert code == (0 if result["speed"]["missed"] is None else 4)
    assert result["speed"]["predicted_ms"] <= budget
    assert result["speed"]["measured_ms"] > 0
    assert main(["prune", *words, *arguments[:-1], "1e-9", "--overwrite"]) == 2
    assert "cannot be met" in json.loads(capsys.readouterr().out)["error"]


def test_times_hold_when_the_clock_of_the_machine_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that runs at a third of its speed in every second 100 ms, in simulated time."""
    now = [0.0]

    def running(work: float) -> Callable[[], None]:
        def run() -> None:
            now[0] += work * (3 if int(now[0] / 0.1) % 2 else 1)

        return run

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(block_timing, "_SECONDS", 0.0)
    works = [0.0001 * (place + 1) for place in range(12)]
    whole, found = block_timing.time_in_turns(running(0.001), [running(work) for work in works])
    for work, milliseconds in zip(works, found, strict=True):
        assert milliseconds / whole == pytest.approx(work / 0.001, rel=0.02)


def test_the_table_adds_up_to_the_unpruned_network(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(block_timing, "time_in_turns", lambda _, runs, *__: (9.0, [3.0, 1.0, *(2.0 for _ in runs[2:])]))
    encoder = load_checkpoint(dense).encoder
    assert latency_costs(latency_table(encoder, TimingConditions(sequence_length=8)), encoder).dense == pytest.approx(
        9.0
    )


def test_an_interrupted_write_leaves_what_was_finished(
    dense: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of the second of two checkpoints."""
    written: list[str] = []

    def interrupted(tensors: Any, path: Path) -> None:
        if written:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        save_tensors(tensors, path)
        written.append(path.name)

    monkeypatch.setattr(masked, "save_tensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prune_export.prune(dense, questions, tmp_path / "out", flops=[0.7, 0.5], samples=8)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["flops-0.7"]
    AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out" / "flops-0.7")


def test_prices_from_a_table(tmp_path: Path) -> None:
    _, checkpoint = saved(BERT, tmp_path)
    table = LatencyTable({}, 1.0, ((0, 0.0), (1, 2.0), (2, 1.5), (4, 3.0)), ((0, 0.0), (10, 1.0), (20, 2.0)))
    costs = latency_costs(table, checkpoint.encoder)
    assert costs.heads[0] == (0.0, 2.0, 2.0, 2.25, 3.0)  # a measurement below a smaller one is noise
    assert costs.columns[0][0] == 0.0  # the block's own cost comes with its first column
    assert costs.columns[0][1] == 1.0
    assert costs.columns[2][15] == pytest.approx(1.5)
    assert costs.dense == pytest.approx(1.0 + 3 * 3.0 + 3 * 2.0)


@functools.cache
def first_token_network() -> Encoder:
    with tempfile.TemporaryDirectory() as folder:
        return load_checkpoint(save(make_model(BERT, "text-classification"), Path(folder))).encoder


FIRST_TOKEN = LatencyTable(
    {},
    rest=1.0,
    heads=((0, 0.0), (1, 2.0), (4, 8.0)),
    columns=((0, 0.0), (20, 4.0)),
    last_heads=((0, 0.0), (1, 1.5), (4, 3.0)),
    last_columns=((0, 0.0), (20, 0.5)),
)


def test_prices_where_only_the_first_token_is_read() -> None:
    """The last layer with attention, and what follows it, costs what it costs for one token: as the writer has it."""
    costs = latency_costs(FIRST_TOKEN, first_token_network())
    full = (4, 20)
    assert costs.dense == costs.total((full, full, full)) == pytest.approx(1 + 2 * (8 + 4) + 3 + 0.5)
    assert costs.total((full, (1, 20), (0, 20))) == pytest.approx(1 + 8 + 4 + 1.5 + 0.5 + 0.5)
    assert costs.total((full, (0, 20), (0, 0))) == pytest.approx(1 + 3 + 0.5 + 0.5)
    assert costs.total(((0, 20), (0, 20), (0, 0))) == pytest.approx(1 + 0.5 + 0.5)


@given(st.lists(st.lists(NUMBERS, min_size=6, max_size=6), min_size=3, max_size=3), st.floats(1.5, 28.5))
@settings(max_examples=15)
def test_selection_where_only_the_first_token_is_read(values: list[list[float]], budget: float) -> None:
    """Against every choice of counts, each priced by the case that it is."""
    scores = [layer_scores(layer[:4], [layer[4]] * 10 + [layer[5]] * 10) for layer in values]
    costs = latency_costs(FIRST_TOKEN, first_token_network())
    kept = select(scores, costs, budget)
    assert costs.total(tuple((len(heads), len(columns)) for heads, columns in kept)) <= budget
    best = -1.0
    for counts in itertools.product(itertools.product(range(5), (0, 10, 20)), repeat=3):
        if costs.total(counts) <= budget - 0.01:
            parts = zip(scores, counts, strict=True)
            best = max(best, sum(float(_best(p.heads, h) + _best(p.columns, c)) for p, (h, c) in parts))
    assert kept_score(scores, kept) >= best - 1e-9


def _best(values: torch.Tensor, count: int) -> torch.Tensor:
    return values.sort(descending=True).values[:count].sum()


def test_a_classifiers_last_layer_has_prices_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = latency_table(first_token_network(), TimingConditions(sequence_length=8))
    assert [count for count, _ in table.last_heads] == [0, 1, 2, 3, 4]
    assert [count for count, _ in table.last_columns] == [0, 5, 15, 20]
    assert latency_table(first_token_network(), TimingConditions(sequence_length=8)) == table


def test_a_damaged_table_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _, checkpoint = saved(BERT, tmp_path / "model", num_hidden_layers=1, num_attention_heads=2, intermediate_size=2)
    first = latency_table(checkpoint.encoder, TimingConditions(sequence_length=8))
    (path,) = tmp_path.glob("prune-export/latency/*.json")
    assert latency_table(checkpoint.encoder, TimingConditions(sequence_length=8)) == first
    path.write_text("{", encoding="utf-8")
    latency_table(checkpoint.encoder, TimingConditions(sequence_length=8))
    assert json.loads(path.read_text(encoding="utf-8"))["settings"] == first.settings


# --- bad input --------------------------------------------------------------------------------------------------------

SST = "sentence\tlabel\nfine\t1\nbad\t0\n"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "no budget"),
        ({"flops": 1.5}, UsageError, "--flops 1.5: expected a number above 0, at most 1"),
        ({"flops": [0.5, 0.5]}, UsageError, "two budgets are called flops-0.5"),
        ({"speedup": 0.5}, UsageError, "--speedup 0.5: expected a number, 1 or more"),
        ({"flops": 0.5, "method": "best"}, UsageError, "--method best"),
        ({"flops": 0.5, "method": "a\n  b"}, UsageError, r"--method a\\n  b: expected one of"),
        ({"flops": 0.5, "samples": 1}, UsageError, "--samples 1"),
        ({"flops": 0.5, "keep_layers": [3]}, UsageError, "layers 0 to 2"),
        ({"flops": 0.5, "sequence_length": 65}, UsageError, "expected a whole number from 1 to 64"),
        ({"flops": 0.1, "keep_layers": [0]}, UsageError, "cannot be met"),
        ({"heads": 0.1, "columns": 0.3, "keep_layers": [0]}, UsageError, r"cannot be met: .*4 of 12 heads \(0.334\)"),
        ({"heads": 0.5, "columns": 0.3, "keep_layers": [0]}, UsageError, r"20 of 60 columns \(0.334\)"),
        ({"columns": 0.1, "align": 5, "drop_layers": False}, UsageError, r"15 of 60 columns \(0.25\)"),
        ({"flops": 0.5, "align": 21}, UsageError, "the widest feed-forward block has 20 columns"),
        (
            {"flops": float("nan")},
            UsageError,
            "prune: flops: expected a number or None or a sequence, each a number; found nan",
        ),
        ({"flops": "half"}, UsageError, "prune: flops: expected a number or .*; found 'half'$"),
        (
            {"flops": [0.5, None]},
            UsageError,
            r"prune: flops: expected a number or .*, each a number; found \[0.5, None\]$",
        ),
        ({"flops": True}, UsageError, "prune: flops: expected a number or .*; found True$"),
        ({"speedup": float("inf")}, UsageError, "--speedup inf: expected"),
        ({"latency_ms": 0}, UsageError, "--latency-ms 0.0: expected a number above 0"),
        ({"heads": float("nan")}, UsageError, "prune: heads: expected a number or None; found nan$"),
        ({"heads": [0.5]}, UsageError, r"prune: heads: expected a number or None; found \[0.5\]$"),
        ({"heads": 1.5}, UsageError, "--heads 1.5: expected a number from 0 to 1"),
        ({"speedup": 2, "tolerance": float("nan")}, UsageError, "prune: tolerance: expected a number; found nan$"),
        ({"flops": 0.5, "samples": 8.0}, UsageError, "prune: samples: expected a whole number; found 8.0$"),
        (
            {"flops": 0.5, "samples": 10**400},
            UsageError,
            "samples: expected a whole number; found 10{50,}…, which is too large$",
        ),
        ({"flops": 0.5, "seed": -1}, UsageError, "--seed -1"),
        ({"flops": 0.5, "seed": 2**64}, UsageError, "seed: .* found 18446744073709551616, which is too large$"),
        ({"flops": 0.5, "seed": 2**40}, UsageError, "--seed 1099511627776: expected a whole number from 0"),
        (
            {"flops": 0.5, "threads": -(2**70)},
            UsageError,
            "threads: .* found -1180591620717411303424, which is too small$",
        ),
        ({"flops": 0.5, "align": 0}, UsageError, "--align 0"),
        ({"flops": 0.5, "keep_layers": 3}, UsageError, "--keep-layers 3: the network has layers 0 to 2"),
        ({"flops": 0.5, "keep_layers": -1}, UsageError, "--keep-layers -1: expected a whole number from 0"),
        ({"flops": 0.5, "keep_layers": {0}}, UsageError, r"prune: keep_layers: expected a sequence, .*; found \{0\}$"),
        (
            {"flops": 0.5, "keep_layers": [0.5]},
            UsageError,
            "keep_layers: expected a sequence, each a whole number; found 0.5 in it$",
        ),
        (
            {"flops": 0.5, "keep_layers": "0"},
            UsageError,
            "keep_layers: expected a sequence, each a whole number; found '0'$",
        ),
        ({"flops": 0.5, "batch_size": 2**40}, UsageError, "--batch-size 1099511627776"),
        ({"flops": 0.5, "threads": 0}, UsageError, "--threads 0"),
        (
            {"flops": 0.5, "max_seq_length": 0.5},
            UsageError,
            "prune: max_seq_length: expected a whole number or None; found 0.5$",
        ),
        (
            {"flops": 0.5, "max_seq_length": float("nan")},
            UsageError,
            "prune: max_seq_length: expected a whole number or None; found nan$",
        ),
        ({"flops": [0.9, 0.1], "keep_layers": [0]}, UsageError, "cannot be met"),
        ({"flops": 0.5, "calibration": SST}, DataError, "is for text-classification"),
        ({"flops": 0.5, "calibration": ""}, DataError, "is empty"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else None,
)
def test_bad_input_is_one_line(
    options: dict[str, Any], error: type[PruneExportError], message: str, dense: Path, questions: Path, tmp_path: Path
) -> None:
    content = options.pop("calibration", None)
    if content is not None:
        questions.write_text(content, encoding="utf-8")
    with pytest.raises(error, match=message) as caught:
        prune_export.prune(dense, questions, tmp_path / "out", **({"samples": 8} | options))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
