"""Benchmarks: what is computed from times, how processes are kept apart, and what is said when something goes wrong.

Nothing here asserts a time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import prune_export
from benchmarks.readme import replace_between, section
from benchmarks.speed import results_of
from exporters.cost import layer_shape
from exporters.errors import BenchmarkError, UsageError
from prune_export.benchmark import onnx_row as onnx_loader
from prune_export.benchmark import other_processes
from prune_export.benchmark.cost import cost_of_layers, cost_of_record
from prune_export.benchmark.files import write_files
from prune_export.benchmark.inputs import lengths, make_batch
from prune_export.benchmark.markdown import markdown, number
from prune_export.benchmark.other_processes import Moment
from prune_export.benchmark.process import Measured, RowProcess
from prune_export.benchmark.results import NOISE_LIMIT, BenchReport
from prune_export.benchmark.rounds import compare_rows, measure_rows
from prune_export.benchmark.rows import Conditions, Cost, Row, Shape
from prune_export.benchmark.run import choose_cpus, names_of, run_rows
from prune_export.benchmark.sources import onnx_row, token_ids
from prune_export.cli.main import main
from prune_export.options.bench import QUICK_SEQUENCE_LENGTHS
from tests.models import FAMILY_CASES, make_model, save

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
CONDITIONS = Conditions(threads=1, vocabulary=50)
SHAPE = Shape(2, 10)
QUICK = ["--batch-size", "2", "--sequence-length", "8", "--rounds", "2", "--seconds", "0.01", "--threads", "1"]


def row(loader: str, model: str = "", **changes: Any) -> Row:
    return replace(Row(loader, "test", f"tests.bench_loaders:{loader}", model), **changes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model(FAMILY_CASES[0], "question-answering")
    model.bert.encoder.layer[0].attention.output.dense.weight.data[:, :6] = 0
    model.bert.encoder.layer[1].output.dense.weight.data[:, ::2] = 0
    return save(model, tmp_path_factory.mktemp("bench") / "checkpoint")


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    return prune_export.export(checkpoint, checkpoint.parent / "ours", target="cpu", verify=False).folder


# What is computed.

# Three rounds of: the first row, two others, the first row again. The machine slows down to half its speed.
TIMES = [[9.0, 5.0, 20.0, 11.0], [20.0, 10.0, 40.0, 20.0], [19.0, 10.0, 50.0, 21.0]]
COSTS = (Cost(1000, 10), Cost(200, 5), None)


def measured(times: list[list[float]], others: float | None = None) -> list[list[Measured]]:
    return [[Measured(value, others) for value in found] for found in times]


def test_ratios_are_those_within_a_round() -> None:
    result = compare_rows(SHAPE, ["first", "fast", "slow"], COSTS, measured(TIMES))
    first, fast, slow = result.rows
    assert first.milliseconds == (10, 20, 20)  # the mean of start and end
    assert first.speed_ups == (1, 1, 1)
    assert fast.speed_ups == (2, 2, 2)  # although its own times differ by a factor of two
    assert slow.speed_ups == (0.5, 0.5, 0.4)
    assert (fast.speed_up, slow.speed_up) == (2, 0.5)
    assert fast.flops_speed_up == pytest.approx((1000 + 10 * 10) / (200 + 5 * 10))
    assert fast.realised == pytest.approx(2 / 4.4)
    assert first.realised == 1
    assert slow.flops_speed_up is None
    assert slow.realised is None
    assert result.repeats == (9 / 11, 1, 19 / 21)
    assert result.sequences_per_second(fast) == 1000 * 2 / 10


def test_one_row_alone_is_its_own_baseline() -> None:
    result = compare_rows(SHAPE, ["first"], [None], measured([[2.0, 2.0], [4.0, 4.0]]))
    assert result.rows[0].speed_ups == (1, 1)
    assert result.noise == 0


def report(times: list[list[float]], others: float | None = None) -> BenchReport:
    """A report on three rows, of which the last costs nobody knows what."""
    names = ["first", "fast", "slow"]
    facts, _ = measure_rows([row("constant", "1", name=name) for name in names], [], CONDITIONS, rounds=1, seconds=1)
    facts = tuple(replace(fact, cost=cost) for fact, cost in zip(facts, COSTS, strict=True))
    machine = {"date": "2026-01-02", "processor": "X1", "cores": 2, "python": "3.11", "versions": {"torch": "2"}}
    result = compare_rows(SHAPE, names, COSTS, measured(times, others))
    return BenchReport(facts, (result,), CONDITIONS, len(times), 0.5, machine)


@pytest.mark.parametrize(
    ("change", "noise"),
    [
        ({}, 0.0),
        ({(0, 1): 4.5}, 0.0),  # one round of three is off: its ratios do not decide the median
        ({(0, 1): 4.0, (1, 1): 6.0}, 1 / 6),  # a row's ratios jump: 2.5, 1.67, 2
        ({(0, 3): 12.0, (1, 3): 12.0}, 1 / 6),  # the first row differs from itself within a round
    ],
)
def test_noise_is_warned_of(change: dict[tuple[int, int], float], noise: float) -> None:
    times = [[10.0, 5.0, 20.0, 10.0] for _ in range(3)]
    for (turn, place), value in change.items():
        times[turn][place] = value
    found = report(times)
    assert found.shapes[0].noise == pytest.approx(noise, abs=0.01)
    assert len(found.warnings) == (noise > NOISE_LIMIT)
    for warning in found.warnings:
        assert "2x10" in warning
        assert "limit 5 %" in warning
        assert warning in markdown(found)


@pytest.mark.parametrize(("others", "warned"), [(None, False), (0.01, False), (0.3, True)])
def test_other_processes_are_warned_of(others: float | None, warned: bool) -> None:
    found = report([[10.0, 5.0, 20.0, 10.0]], others)
    assert found.shapes[0].noise == 0
    assert len(found.warnings) == warned
    assert ("busy machine: at 2x10, other processes took 30 %" in markdown(found)) == warned
    assert ("others" in markdown(found)) == (others is not None)


def test_what_others_take() -> None:
    """Of 2 processors for 10 s: 12 s busy, 8 s of them our own; a third processor does not matter."""
    before = Moment(clock=100, own=5, busy={0: 50, 1: 60, 2: 70})
    after = Moment(clock=110, own=13, busy={0: 57, 1: 65, 2: 80})
    assert other_processes.share_of_others(before, after, (0, 1)) == pytest.approx(4 / 20)
    assert other_processes.share_of_others(before, after, (0,)) == 0  # never below
    assert other_processes.share_of_others(before, after, ()) is None
    assert other_processes.share_of_others(replace(before, busy={}), after, (0, 1)) is None


@LINUX
def test_the_processors_are_read() -> None:
    before = other_processes.now()
    while time.process_time() < before.own + 0.1:
        pass
    after = other_processes.now()
    assert sum(after.busy.values()) > sum(before.busy.values())
    assert set(before.busy) >= os.sched_getaffinity(0)


def test_the_records_cost_is_that_of_the_network(checkpoint: Path, exported: Path) -> None:
    encoder = prune_export.inspect(checkpoint).slim
    record = json.loads((exported / "prune_export.json").read_text())
    cost = cost_of_record(record)
    assert cost == cost_of_layers(tuple(map(layer_shape, encoder.layers)), encoder.hidden_size)
    assert cost is not None
    for length, flops in record["summary"]["flops_per_token"].items():
        assert cost.flops_per_token(int(length)) == flops["after"]
    assert cost_of_record({}) is None


@pytest.mark.parametrize("padding", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("batch", [1, 8])
def test_padding(padding: float, batch: int) -> None:
    shape = Shape(batch, 200)
    found = lengths(shape, padding)
    assert sum(found) / (batch * 200) == pytest.approx(1 - padding, abs=0.01)
    assert found == sorted(found, reverse=True)
    assert min(found) >= 1
    assert (len(set(found)) > 1) == (batch > 1 and padding > 0)
    inputs = make_batch(shape, replace(CONDITIONS, padding=padding, pad_token_id=7))
    assert inputs["attention_mask"].sum(axis=1).tolist() == found
    assert ((inputs["input_ids"] == 7) == (inputs["attention_mask"] == 0)).all()
    assert inputs["input_ids"].max() < CONDITIONS.vocabulary
    assert {values.dtype for values in inputs.values()} == {np.dtype(np.int64)}


def test_token_ids_are_known_to_every_row(tmp_path: Path) -> None:
    for name, config in (("a", {"vocab_size": 70, "pad_token_id": 1}), ("b", {"vocab_size": 60}), ("c", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    rows = [row("constant", str(tmp_path / name / "model.onnx")) for name in "abc"]
    assert token_ids(rows) == (60, 1)
    assert token_ids(rows[2:]) == (100, 0)


def test_names_tell_folders_apart(tmp_path: Path) -> None:
    assert names_of([tmp_path / "a", tmp_path / "b" / "model.onnx"]) == ["a", "model.onnx"]
    assert names_of(["x/out", "y/out"]) == ["x/out", "y/out"]


@pytest.mark.parametrize(("value", "text"), [(0.1234, "0.12"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


# What a report looks like.


def test_json_and_markdown(tmp_path: Path) -> None:
    found = report(TIMES)
    write_files(found, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.md"]
    data = json.loads((tmp_path / "bench.json").read_text())
    assert list(data) == ["format", "version", "machine", "conditions", "rows", "shapes", "warnings"]
    assert (data["format"], data["version"]) == ("prune-export/bench", 1)
    assert data["conditions"] == asdict(CONDITIONS) | {"cpus": [], "rounds": 3, "seconds": 0.5, "quick": False}
    assert data["rows"][0] == {
        "name": "first",
        "form": None,
        "kind": "test",
        "model": "1",
        "note": None,
        "cost": {"constant": 1000, "per_length": 10},
        "size_mib": 3,
        "load_seconds": 0.25,
        "peak_mib": pytest.approx(data["rows"][1]["peak_mib"], rel=0.5),
    }
    shape = data["shapes"][0]
    assert list(shape) == ["batch_size", "sequence_length", "noise", "others", "repeats", "rows"]
    assert shape["rows"][1] == {
        "row": "fast",
        "milliseconds": {"min": 5, "median": 10, "max": 10, "rounds": [5, 10, 10]},
        "sequences_per_second": 200,
        "speed_up": {"min": 2, "median": 2, "max": 2, "rounds": [2, 2, 2]},
        "flops_speed_up": pytest.approx(4.4),
        "realised": pytest.approx(2 / 4.4),
    }
    text = (tmp_path / "bench.md").read_text()
    assert "X1, 2 cores, cpu, 1 thread, no padding, 3 alternating rounds of 0.5 s a row" in text
    assert "| fast | 10.0 (5.00 to 10.0) | 200 | 2.00 | 4.40 | 0.45 |" in text
    assert "| slow | 40.0 (20.0 to 50.0) | 50.0 | 0.50 (0.40 to 0.50) | – | – |" in text
    assert "| first | test | 3.0 | 0.25 | " in text


def test_the_readme_is_made_of_results() -> None:
    results = results_of(report(TIMES), "a network", "its structure")
    assert "model" not in results["rows"][0]  # a path of the machine that measured
    text = section([results], "speed.svg")
    assert "| a network | 2 × 10 | MiB | loads in | memory |" in text
    assert "| fast | 2.00× (10.0 ms) | 3 | 0.25 s | " in text
    assert "| *the ratio of FLOPs* | *4.40* | | | |" in text
    readme = "before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n"
    once = replace_between(readme, "speed", text)
    assert once == f"before\n<!-- speed -->\n\n{text}\n\n<!-- /speed -->\nafter\n"
    assert replace_between(once, "speed", text) == once
    with pytest.raises(ValueError, match="found 0"):
        replace_between(readme, "other", text)


# Processes.


def test_every_row_gets_the_same_tokens() -> None:
    inputs = make_batch(SHAPE, CONDITIONS)["input_ids"].ravel()
    expected = float((inputs * np.arange(inputs.size)).sum())
    rows = [row("checksum", name=name) for name in ("one", "two")]
    _, (result,) = measure_rows(rows, [SHAPE], CONDITIONS, rounds=2, seconds=0.001)
    assert [latency.milliseconds for latency in result.rows] == [(expected, expected)] * 2


@LINUX
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_pinned(threads: int) -> None:
    if len(os.sched_getaffinity(0)) < threads:
        pytest.skip("not so many processors")
    cpus = choose_cpus(threads)
    assert len(cpus) == threads
    with RowProcess(row("processors"), replace(CONDITIONS, threads=threads, cpus=cpus)) as process:
        assert process.measure(SHAPE, 0.001).milliseconds == 11 * threads


@LINUX
def test_idle_processes_are_stopped() -> None:
    """Even one whose threads spin uses no time while it is not asked."""
    with RowProcess(row("busy"), CONDITIONS) as process:
        pid = process._process.pid
        process.measure(SHAPE, 0.001)
        deadline = time.monotonic() + 10
        while state(pid) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        before = processor_time(pid)
        time.sleep(0.2)
        assert processor_time(pid) == before
        process.measure(SHAPE, 0.001)
        assert process.finish() > 1


@LINUX
def test_processes_end_with_their_parent() -> None:
    """Killed so that it cannot clean up, while they are stopped."""
    code = (
        "import time\nfrom tests.test_bench import CONDITIONS, RowProcess, row\n"
        "process = RowProcess(row('constant', '1'), CONDITIONS)\n"
        "print(process._process.pid, flush=True)\ntime.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert state(pid) in "TSR"
        parent.kill()
    deadline = time.monotonic() + 10
    while state(pid) not in "ZX" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state(pid) in "ZX"


def state(pid: int) -> str:
    """R, S, T (stopped), Z (ended, not yet collected), or X where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"


def processor_time(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("refuses", "row 'refuses', while loading: this cannot be loaded"),
        ("exits", "row 'exits', while loading: its process ended with code 7; it printed: the last words of a library"),
        ("dies_when_measured", "at 2x10: its process was killed by SIGKILL (out of memory?); it printed: nothing"),
        ("not_there", "has no attribute 'not_there'"),
    ],
)
def test_a_row_that_fails_says_why_in_one_line(loader: str, message: str) -> None:
    with pytest.raises(BenchmarkError) as caught:
        measure_rows([row("constant", "1"), row(loader)], [SHAPE], CONDITIONS, rounds=1, seconds=0.001)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_need_different_names() -> None:
    with pytest.raises(UsageError, match="two rows are called constant"):
        run_rows([row("constant", "1"), row("constant", "2")], [SHAPE])


# The real thing.


def test_recorded_settings_are_used(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    record = json.loads((folder / "prune_export.json").read_text())
    record["session"] = {"tokens_at_once": 16, "entries": {"session.intra_op.allow_spinning": "0"}}
    (folder / "prune_export.json").write_text(json.dumps(record))
    found = onnx_row(folder, name="ours")
    batches: list[int] = []
    run = onnx_loader.runtime.run
    monkeypatch.setattr(
        onnx_loader.runtime, "run", lambda session, fed: batches.append(len(fed["input_ids"])) or run(session, fed)
    )
    loaded = onnx_loader.load(found, CONDITIONS)
    assert loaded.size_bytes == (folder / "model.onnx").stat().st_size
    loaded.prepare(make_batch(Shape(5, 8), CONDITIONS))()
    assert batches == [2, 2, 1]


def test_onnx_rows_hold_no_pytorch() -> None:
    """Its memory is not theirs."""
    code = (
        "import sys, prune_export.benchmark.worker, prune_export.benchmark.onnx_row, prune_export.benchmark.inputs\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_bench_on_the_command_line(
    checkpoint: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows made of the checkpoint, an exported folder and a foreign file; results on disk and on stdout."""
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes((exported / "model.onnx").read_bytes())
    rows = ["--rows", "dense-onnx", "slim", "--onnx", str(exported), "--onnx", str(foreign)]
    arguments = ["bench", "--model", str(checkpoint), *rows, *QUICK, "--padding", "0.25", "--json"]
    assert main([*arguments, "--output", str(tmp_path / "results")]) == 0
    shown = capsys.readouterr()
    assert "Measuring 2x8" in shown.err
    data = json.loads(shown.out)
    names = ["dense ONNX", "slim PyTorch", "ours", "foreign.onnx"]
    assert [found["name"] for found in data["rows"]] == names
    assert [found["kind"] for found in data["rows"]] == ["dense-onnx", "slim", "onnx", "onnx"]
    by_flops = [found["flops_speed_up"] for found in data["shapes"][0]["rows"]]
    assert by_flops[0] == 1
    assert by_flops[1] == by_flops[2] > 1
    assert by_flops[3] is None
    assert data["conditions"]["padding"] == 0.25
    assert data["conditions"]["vocabulary"] == 61
    for found in data["rows"]:
        assert found["peak_mib"] > found["size_mib"] > 0
        assert found["load_seconds"] > 0
    for found in data["shapes"][0]["rows"]:
        assert len(found["speed_up"]["rounds"]) == 2
        assert found["milliseconds"]["min"] > 0
    written = {path.name for path in (tmp_path / "results").iterdir()}
    assert {"bench.json", "bench.md"} <= written
    stored = json.loads((tmp_path / "results" / "bench.json").read_text())
    assert stored.items() <= data.items()


def test_a_quick_run_says_so(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer, shorter rounds, unless something else is asked for; and how far to trust them."""
    found = prune_export.bench(onnx=[exported], sequence_lengths=[8], seconds=0.02, quick=True)
    assert (found.rounds, found.seconds) == (3, 0.02)
    assert [str(result.shape) for result in found.shapes] == ["1x8", "8x8"]
    first, *_ = found.warnings
    assert first.startswith(
        f"a quick run, 3 x 0.02 s a row: the ratios of a round are off by {100 * found.noise:.1f} %"
    )
    words = ["--quick", "--sequence-length", "8", "--batch-size", "1", "--rounds", "1", "--output", str(tmp_path)]
    assert main(["bench", "--onnx", str(exported), *words]) == 0
    assert "Warning: a quick run, 1 x 0.5 s a row" in " ".join(capsys.readouterr().out.split())
    assert "a quick run, 1 x 0.5 s a row" in (tmp_path / "bench.md").read_text()
    data = json.loads((tmp_path / "bench.json").read_text())
    assert (data["conditions"]["quick"], data["conditions"]["rounds"], data["conditions"]["seconds"]) == (True, 1, 0.5)
    assert QUICK_SEQUENCE_LENGTHS == (128,)


def test_the_tables_and_the_picture(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pictures = [tmp_path / "a.svg", tmp_path / "new" / "b.png"]
    for picture in pictures:
        assert main(["bench", "--onnx", str(exported), *QUICK, "--picture", str(picture)]) == 0
        shown = capsys.readouterr().out
        for words in ("ours", "Batch 2, length 8", "realised", "peak memory", "1 thread", "onnxruntime", picture.name):
            assert words in shown, words
    assert pictures[0].read_text().startswith("<?xml")
    assert pictures[1].read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in pictures[1].parent.iterdir()] == ["b.png"]


def test_without_matplotlib_only_a_picture_that_was_asked_for_is_an_error(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = ["bench", "--onnx", str(exported), *QUICK]
    assert main([*arguments, "--picture", str(tmp_path / "a.svg")]) == 1
    assert "pip install 'prune-export[bench]'" in capsys.readouterr().err
    assert main([*arguments, "--output", str(tmp_path), "--quiet", "--json"]) == 0
    assert "pip install 'prune-export[bench]'" in json.loads(capsys.readouterr().out)["notes"][0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.md"]


@pytest.mark.slow
def test_rows_of_a_hub_checkpoint(tmp_path: Path) -> None:
    """The dense row is the network before pruning; optimum's export costs what the checkpoint costs."""
    pytest.importorskip("optimum.onnxruntime", reason="optimum-onnx is not installed (it needs transformers 4)")
    model = make_model(FAMILY_CASES[0], "question-answering")
    model.prune_heads({0: [1, 2], 1: [0]})
    hub = save(model, tmp_path / "hub")
    rows = ["dense", "optimum"]
    found = prune_export.bench(hub, rows=rows, batch_sizes=[1], sequence_lengths=[8], rounds=1, seconds=0.01)
    dense, pruned = found.rows
    assert dense.note is not None
    assert dense.cost is not None
    assert pruned.cost is not None
    # 3 of 12 heads of size 6 are gone: 4 projections of 24 x 6 each, and 2 products
    assert dense.cost.constant - pruned.cost.constant == 2 * 3 * 4 * 6 * 24
    assert dense.cost.per_length - pruned.cost.per_length == 2 * 3 * 2 * 6
    assert found.shapes[0].rows[1].flops_speed_up > 1  # type: ignore[operator]


# Errors, in one line.


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to measure: give --model, --onnx, or both"),
        (["--rows", "pytorch"], 2, "--rows needs --model"),
        (["--model", "{checkpoint}", "--rows", "jax"], 2, "--rows jax: expected some of pytorch, compile, slim, dense"),
        (["--model", "{checkpoint}", "--rows", "slim", "slim"], 2, "--rows names slim twice"),
        (["--model", "{tmp}/nothing/here"], 1, "no such folder"),
        (["--onnx", "{tmp}/nothing"], 1, "no such file or folder; expected an exported model"),
        (["--onnx", "{tmp}"], 1, "expected one .onnx file; found none"),
        (["--onnx", "{tmp}/bad/bad.onnx"], 1, "row 'bad.onnx', while loading: "),
        (["--onnx", "{tmp}/other/other.onnx"], 1, "takes the input x; expected inputs: input_ids, attention_mask"),
        (["--onnx", "{tmp}/bad/bad.onnx", "{tmp}/bad/bad.onnx"], 2, "two rows are called"),
        (["--model", "{checkpoint}", "--sequence-length", "41"], 2, "takes 40 tokens at most"),
        (["--batch-size", "0"], 2, "--batch-size 0: expected a whole number from 1 to 65536"),
        (["--batch-size", "1", "1"], 2, "a number stands there twice"),
        (["--padding", "1"], 2, "--padding 1: expected a number from 0 to below 1"),
        (["--rounds", "0"], 2, "--rounds 0: expected a whole number from 1 to"),
        (["--seconds", "0"], 2, "--seconds 0: expected a number above 0"),
        (["--threads", "4096"], 2, "--threads 4096: expected 1 to"),
        (["--cuda-graphs"], 2, "--cuda-graphs needs --provider cuda"),
        (["--picture", "{tmp}/picture.jpg"], 2, "expected a file name that ends in .svg or .png"),
        (["--output", "{tmp}/bad/bad.onnx"], 1, "cannot make"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], code: int, message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bad", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "bad.onnx").write_bytes(b"nonsense")
    (tmp_path / "other" / "other.onnx").write_bytes(other_model())
    words = [word.format(checkpoint=checkpoint, tmp=tmp_path) for word in arguments]
    assert main(["bench", *words, "--quiet"]) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.startswith("prune-export: error: ")
    assert shown.count("\n") == 1


def other_model() -> bytes:
    """One node, whose input is none of ours."""
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    node = ir.node("Relu", [value])
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", value.type, value.shape
    graph = ir.Graph([value], list(node.outputs), nodes=[node], opset_imports={"": 17}, name="other")
    return ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString()


@pytest.mark.cuda
@pytest.mark.parametrize(("dtype", "graphs"), [("fp32", False), ("fp16", True)])
def test_bench_on_cuda(checkpoint: Path, tmp_path: Path, dtype: str, graphs: bool) -> None:
    """Compiling takes most of the time, so it is done once."""
    torch = pytest.importorskip("torch")
    ours = prune_export.export(checkpoint, tmp_path / "ours", target="cuda", dtype=dtype, verify=False).folder
    rows = ["slim", "compile" if graphs else "pytorch"] if torch.cuda.is_available() else ["dense-onnx"]
    found = prune_export.bench(
        checkpoint,
        [ours],
        rows=rows,
        batch_sizes=[4],
        sequence_lengths=[8, 16],
        provider="cuda",
        dtype=dtype,
        cuda_graphs=graphs,
        rounds=2,
        seconds=0.05,
    )
    assert len(found.rows) == len(rows) + 1
    assert all(min(latency.milliseconds) > 0 for result in found.shapes for latency in result.rows)


def test_sigterm_ends_the_processes_too(exported: Path) -> None:
    """The rows' processes are no children of the shell: a benchmark that is ended has to end them."""
    command = [sys.executable, "-m", "prune_export", "bench", "--onnx", str(exported), "--sequence-length", "8"]
    with subprocess.Popen([*command, "--seconds", "30"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Measuring"):
                break
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
        )
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read().strip() == "prune-export: error: terminated"
    assert process.returncode == 143
    pids = [int(pid) for pid in children.stdout.split()]
    assert pids
    assert all(state(pid) in "ZX" for pid in pids)
