"""What is asked for is met within a granule, or refused with what can be met; budgets in time are measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import prune_export
from exporters.encoder import Encoder
from exporters.errors import UsageError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.cli.main import main
from prune_export.pruning import one_shot
from prune_export.pruning.block_networks import BlockNetworks
from prune_export.pruning.costs import Costs, counts_of
from prune_export.pruning.file_size import file_bytes, file_costs, measure_file_size
from prune_export.pruning.latency import LatencyTable, latency_costs
from prune_export.pruning.pruned_network import keep_units, unpruned
from prune_export.pruning.selection import Kept, Rules, select, select_counts
from prune_export.pruning.speed import Speed
from prune_export.surgeon import operate
from prune_export.surgeon.zeros import plan_from_zeros
from tests.made_scores import layer_scores
from tests.models import FAMILY_CASES, make_model, save
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer

BERT = FAMILY_CASES[0]
LAYERS, HEADS, COLUMNS = 4, 3, 12

rules = st.builds(
    Rules,
    st.sampled_from([1, 4, 5]),
    st.frozensets(st.integers(0, LAYERS - 1), max_size=2),
    st.booleans(),
)
seeds = st.integers(0, 1000)
fractions = st.floats(0.01, 1)


def made_scores(seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(LAYERS, HEADS + COLUMNS, generator=generator).tolist()
    return [layer_scores(values[:HEADS], values[HEADS:]) for values in draw]


def counts(kept: Kept) -> tuple[tuple[int, int], ...]:
    return tuple((len(heads), len(columns)) for heads, columns in kept)


def follows(kept: Kept, given_rules: Rules) -> bool:
    for index, (heads, columns) in enumerate(counts(kept)):
        if index in given_rules.keep_layers and (heads, columns) != (HEADS, COLUMNS):
            return False
        if columns % given_rules.align and columns != COLUMNS:
            return False
        if not given_rules.drop_blocks and not (heads and columns):
            return False
    return True


# --- heads and columns ------------------------------------------------------------------------------------------------


@given(seeds, fractions, fractions, rules)
def test_heads_and_columns_are_met_or_refused(seed: int, heads: float, columns: float, given_rules: Rules) -> None:
    """What a refusal offers can be asked for, and is then met."""
    scores = made_scores(seed)

    def ask(part_of_heads: float, part_of_columns: float) -> tuple[Kept, int, int]:
        asked = round(LAYERS * HEADS * part_of_heads), round(LAYERS * COLUMNS * part_of_columns)
        return select_counts(scores, *asked, given_rules), *asked

    try:
        kept, asked_heads, asked_columns = ask(heads, columns)
    except UsageError as error:
        _, offer = str(error).split("cannot be met: the least that is left here is")
        offered = re.findall(r"\(([\d.]+)\)", offer)
        kept, asked_heads, asked_columns = ask(
            *(max(float(a), b) for a, b in zip(offered, (heads, columns), strict=True))
        )
    found = counts(kept)
    assert follows(kept, given_rules)
    assert sum(count for count, _ in found) == asked_heads
    assert asked_columns - given_rules.align < sum(count for _, count in found) <= asked_columns


# --- sums of costs ----------------------------------------------------------------------------------------------------


def flat(head: float, column: float, fixed: float) -> Costs:
    """Like FLOPs or parameters."""
    of_heads = tuple(head * count for count in range(HEADS + 1))
    of_columns = tuple(column * count for count in range(COLUMNS + 1))
    dense = fixed + LAYERS * (of_heads[-1] + of_columns[-1])
    return Costs("FLOPs per token", dense, fixed, (of_heads,) * LAYERS, (of_columns,) * LAYERS)


def timed(head: float, column: float, fixed: float) -> Costs:
    """Like milliseconds: a block that is there at all costs something."""
    of_heads = (0.0, *(5 + head * count for count in range(HEADS)))
    of_columns = (0.0, *(3 + column * count for count in range(COLUMNS)))
    dense = fixed + LAYERS * (of_heads[-1] + of_columns[-1])
    return Costs("ms", dense, fixed, (of_heads,) * LAYERS, (of_columns,) * LAYERS)


@given(seeds, fractions, rules, st.sampled_from([flat, timed]), st.sampled_from([0.0, 7.3]))
@settings(max_examples=40)
def test_costs_are_met_or_refused(seed: int, fraction: float, given_rules: Rules, kind: Any, fixed: float) -> None:
    scores, costs = made_scores(seed), kind(4.0, 1.0, fixed)
    try:
        kept = select(scores, costs, fraction * costs.dense, given_rules)
    except UsageError as error:
        _, offer = str(error).split("cannot be met: the least that is left here is")
        (offered,) = re.findall(r"\(([\d.]+)[,)]", offer)
        assert float(offered) > fraction
        fraction = float(offered)
        kept = select(scores, costs, fraction * costs.dense, given_rules)
        if faster := re.search(r"([\d.]+) times as fast", offer):
            select(scores, costs, costs.dense / float(faster[1]), given_rules)
    assert follows(kept, given_rules)
    cost = costs.total(counts(kept))
    assert cost <= fraction * costs.dense * (1 + 1e-12)
    whole = 5 + 4.0 + 3 + COLUMNS  # what a block that comes back as a whole costs at most
    granule = max(4.0, given_rules.align * 1.0) if kind is flat else whole
    assert cost > fraction * costs.dense - granule or counts(kept) == ((HEADS, COLUMNS),) * LAYERS


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    model = make_model(BERT, "text-classification", vocab_size=90, num_labels=2, intermediate_size=64)
    return save_with_tokenizer(model, bert_tokenizer(), tmp_path / "dense")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rows = [f"{'abcdefgh'[index % 8]} {index}\t{index % 2}\n" for index in range(32)]
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\n" + "".join(rows), encoding="utf-8")
    return path


def test_the_record_says_what_is_kept(classifier: Path, texts: Path, tmp_path: Path) -> None:
    (result,) = prune_export.prune(
        classifier,
        texts,
        tmp_path / "out",
        heads=0.4,
        columns=0.5,
        align=10,
        keep_layers=[1],
        samples=8,
        dataset="sst2",
    )
    budget = json.loads((tmp_path / "out" / "pruning.json").read_text(encoding="utf-8"))["budget"]
    kept = [sum(len(getattr(layer, name)) for layer in result.plan.layers) for name in ("heads", "columns")]
    assert kept[0] == 5  # of 12: 4.8
    assert 96 - 10 < kept[1] <= 96
    assert budget["units"] == {"heads": {"kept": 5, "of": 12}, "columns": {"kept": kept[1], "of": 192}}
    assert (budget["heads"], budget["columns"]) == (0.4, 0.5)


TABLE = LatencyTable(
    {},
    rest=1.0,
    heads=((0, 0.0), (1, 2.0), (4, 8.0)),
    columns=((0, 0.0), (4, 1.0), (64, 4.0)),
    last_heads=((0, 0.0), (1, 1.5), (4, 3.0)),
    last_columns=((0, 0.0), (64, 0.5)),
)


class Machine:
    """Stands in for the clock only: the pruned network takes `slower` times what the table says, plus `more`."""

    def __init__(self, slower: float, more: float = 0.0) -> None:
        self.slower, self.more, self.runs = slower, more, 0

    def measure_speed(self, dense: Encoder, slim: Encoder, table: LatencyTable, *, predicted_ms: float) -> Speed:
        self.runs += 1
        costs = latency_costs(table, dense)
        assert costs.total(counts_of(slim)) == pytest.approx(predicted_ms)
        return Speed(predicted_ms, predicted_ms * self.slower + self.more, costs.dense, costs.dense)


def asked(machine: Machine, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("prune_export.verbs.prune.latency_table", lambda *_, **__: TABLE)
    monkeypatch.setattr(one_shot, "measure_speed", machine.measure_speed)
    return main(["prune", "--dataset", "sst2", "--samples", "8", "--align", "4", "--json", "--quiet", *words])


@pytest.mark.parametrize("budget", [("--speedup", "2"), ("--latency-ms", "14.5")], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("machine", "runs", "code"),
    [
        (Machine(1.0), 1, 0),
        (Machine(1.04), 1, 0),  # within the tolerance
        (Machine(1.15), 2, 0),  # one step sets it right
        (Machine(1.0, more=5.0), 2, 4),  # too slow even so
    ],
    ids=["met", "nearly met", "corrected", "missed"],
)
def test_a_budget_in_time_is_measured_and_corrected(
    budget: tuple[str, str],
    machine: Machine,
    runs: int,
    code: int,
    classifier: Path,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine.runs = 0
    out = tmp_path / "out"
    words = ("--model", str(classifier), "--calibration", str(texts), "--output", str(out), *budget)
    assert asked(machine, monkeypatch, *words) == code
    printed = capsys.readouterr()
    speed = json.loads(printed.out)["results"][0]["speed"]
    assert machine.runs == runs
    assert json.loads((out / "pruning.json").read_text(encoding="utf-8"))["speed"] == speed
    dense_ms = 1 + 2 * (8 + 4) + 3 + 0.5
    assert speed["asked_ms"] == pytest.approx(dense_ms / 2 if budget[0] == "--speedup" else 14.5)
    assert speed["asked_speedup"] == pytest.approx(dense_ms / speed["asked_ms"])
    assert (speed["before_correction"] is None) == (runs == 1)
    if runs == 2:
        assert speed["before_correction"]["measured_ms"] > 1.05 * speed["asked_ms"]
        assert speed["measured_ms"] < speed["before_correction"]["measured_ms"]
    if code:
        assert re.search(r"is missed: asked for .*, measured .* % slower \(tolerance 5 %\)", printed.err)
        assert speed["missed"] is not None
        assert prune_export.inspect(out).summary is not None
    else:
        assert speed["measured_ms"] <= 1.05 * speed["asked_ms"]
        assert speed["missed"] is None


def test_the_tolerance_decides(
    classifier: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(1.15)
    words = (
        "--model",
        str(classifier),
        "--calibration",
        str(texts),
        "--output",
        str(tmp_path / "out"),
        "--speedup",
        "2",
    )
    assert asked(machine, monkeypatch, *words, "--tolerance", "0.2") == 0
    assert machine.runs == 1
    assert json.loads(capsys.readouterr().out)["results"][0]["speed"]["tolerance"] == 0.2


def test_a_factor_of_one_cannot_be_missed(
    classifier: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "--model",
        str(classifier),
        "--calibration",
        str(texts),
        "--output",
        str(tmp_path / "out"),
        "--speedup",
        "1",
    )
    assert asked(Machine(1.3), monkeypatch, *words) == 0
    assert prune_export.inspect(tmp_path / "out").summary.is_dense


@given(st.integers(-5, 50), rules)
@settings(max_examples=20)
def test_a_budget_at_the_very_least_is_met(hair: int, given_rules: Rules) -> None:
    """Prices are rounded up to parts of the budget; that alone refuses nothing."""
    scores, costs = made_scores(0), timed(4.0, 1.0, 7.3)
    least = costs.total(
        tuple(
            (HEADS, COLUMNS)
            if index in given_rules.keep_layers
            else (0, 0)
            if given_rules.drop_blocks
            else (1, given_rules.align)
            for index in range(LAYERS)
        )
    )
    budget = least * (1 + hair * 1e-6)
    assume(budget > 0)
    if hair < 0:
        with pytest.raises(UsageError, match="cannot be met"):
            select(scores, costs, budget, given_rules)
    else:
        assert costs.total(counts(select(scores, costs, budget, given_rules))) <= budget


# --- the size of the exported file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "target"), [("fp32", "cpu"), ("int8", "cpu"), ("fp16", "portable")])
def test_a_file_has_the_mib_that_were_asked_for(
    dtype: Any, target: Any, classifier: Path, texts: Path, tmp_path: Path
) -> None:
    whole = file_bytes(load_checkpoint(classifier).encoder, target, dtype)
    least = file_bytes(BlockNetworks(load_checkpoint(classifier).encoder).without_blocks(), target, dtype)
    most = (0.4 * least + 0.6 * whole) / 2**20
    options: dict[str, Any] = {"max_mib": most, "dtype": dtype, "target": target}
    (result,) = prune_export.prune(classifier, texts, tmp_path / "masked", **options)
    assert result.missed is None
    exported = prune_export.export(tmp_path / "masked", tmp_path / "out", dtype=dtype, target=target, verify=False)
    size = sum(path.stat().st_size for path in exported.folder.glob("model.onnx*"))
    assert result.bytes == result.record["bytes"]
    assert result.record["budget"]["kind"] == "max-mib"
    assert size == pytest.approx(result.bytes, rel=0.01)  # the export's file says where it comes from
    column = (whole - least) / sum(heads + columns for heads, columns in counts_of(load_checkpoint(classifier).encoder))
    head = 2 * 6 * column  # with a head size of 6
    assert (
        most * 2**20 - head - 500 <= result.bytes <= most * 2**20
    )  # no unit more than it takes, and names of few nodes


def test_a_file_that_cannot_be_so_small_is_refused(classifier: Path, texts: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be met: the least that is left here is"):
        prune_export.prune(classifier, texts, tmp_path / "masked", max_mib=0.001)
    assert not (tmp_path / "masked").exists()


def test_a_budget_that_is_met_already_is_noted(
    classifier: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    most = file_bytes(load_checkpoint(classifier).encoder, "cpu", "fp32") / 2**20
    command = ["prune", "--model", str(classifier), "--calibration", str(texts), "--output"]
    for folder, mib in (("met", 2 * most), ("pruned", 0.9 * most)):
        assert main([*command, str(tmp_path / folder), "--max-mib", f"{mib:.4f}"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert ("meets this budget without pruning, and nothing was removed" in said) == (folder == "met")


def test_a_file_that_stays_too_large_is_missed(
    classifier: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(one_shot, "file_bytes", lambda *_: 10**9)
    most = file_bytes(load_checkpoint(classifier).encoder, "cpu", "fp32") / 2**20
    command = ["prune", "--model", str(classifier), "--calibration", str(texts), "--output", str(tmp_path / "masked")]
    assert main([*command, "--max-mib", f"{0.9 * most:.4f}"]) == 4
    assert re.search(r"--max-mib [\d.]+ is missed: the file has 953.7 MiB", capsys.readouterr().err)
    assert (tmp_path / "masked" / "model.safetensors").is_file()


@pytest.mark.parametrize("case", [BERT, *(case for case in FAMILY_CASES if str(case) == "albert")], ids=str)
def test_bytes_by_heads_and_columns(case: Any, tmp_path: Path) -> None:
    """The prediction beside files that are written."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 8}
    encoder = load_checkpoint(save(make_model(case, case.task, **sizes), tmp_path)).encoder
    costs = file_costs(measure_file_size(encoder, "cpu", "fp32"), encoder)
    assert costs.total(counts_of(encoder)) == pytest.approx(costs.dense)
    for heads, columns in ((8, 256), (3, 100), (1, 8), (8, 16)):
        kept = [(tuple(range(heads)), tuple(range(columns)))] * len(encoder.distinct_layers)
        network = keep_units(unpruned(encoder), tuple(kept)).encoder
        slim = operate(network, plan_from_zeros(network))
        predicted = costs.total(tuple((heads, columns) for _ in kept))
        assert file_bytes(slim, "cpu", "fp32") / 2**20 == pytest.approx(predicted, rel=0.02)
