"""Tables of the blocks' times: measured by a made-up clock, kept, found again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from exporters.encoder import (
    Attention,
    ConstantBlock,
    Encoder,
    FeatureHead,
    FeedForward,
    SequenceHead,
)
from exporters.errors import UsageError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save as save_onnx
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from prune_export.checkpoint.load import load_checkpoint
from prune_export.options.timing import TimingConditions
from prune_export.pruning import block_timing
from prune_export.pruning.block_networks import BlockNetworks
from prune_export.pruning.latency_cache import latency_table
from tests.models import FAMILY_CASES, make_model, save

BERT = FAMILY_CASES[0]


def milliseconds(network: Encoder) -> float:
    """Adds 0.25 ms a head, 0.5 for attention, 0.01 a column, 0.3 for its block; a tenth of that for one token only."""
    one_token = isinstance(network.head, SequenceHead)
    last = max(
        (place for place, layer in enumerate(network.layers) if isinstance(layer.attention, Attention)), default=-1
    )
    total = (0.6 if isinstance(network.head, FeatureHead) else 1.0) + 0.05 * len(network.layers)
    for place, layer in enumerate(network.layers):
        part = 0.1 if one_token and place >= last else 1.0
        if isinstance(layer.attention, Attention):
            total += part * (0.5 + 0.25 * len(layer.attention.heads))
        if isinstance(layer.feed_forward, FeedForward):
            total += part * (0.3 + 0.01 * layer.feed_forward.columns)
    return total


class Listener:
    """Counts the steps of each stage."""

    def __init__(self) -> None:
        self.stages: list[list[Any]] = []

    def stage(self, description: str, total: int | None = None) -> None:
        self.stages.append([description, total, 0])

    def advance(self, steps: int = 1) -> None:
        self.stages[-1][2] += steps

    def note(self, text: str) -> None: ...

    def pause(self) -> None: ...


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Encoder]:
    """Lists what was timed, by a clock that runs as `milliseconds` says."""
    now, timed = [0.0], list[Encoder]()

    def session(network: Encoder, _: Any, folder: Path) -> Callable[[], None]:
        assert folder.is_dir()
        timed.append(network)

        def run() -> None:
            now[0] += milliseconds(network) / 1000

        return run

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(block_timing, "open_session", session)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    for name, value in (("_ROUNDS", 3), ("_SECONDS", 0.0), ("_WIDTHS", 4)):
        monkeypatch.setattr(block_timing, name, value)
    return timed


HEADS_MS = [(0, 0.0), (1, 0.75), (2, 1.0), (3, 1.25), (4, 1.5)]
COLUMNS_MS = [(0, 0.0), (5, 0.35), (10, 0.4), (15, 0.45), (20, 0.5)]


@pytest.mark.parametrize("task", ["question-answering", "text-classification"])
def test_a_table_has_the_times_that_the_blocks_take(task: Any, networks: list[Encoder], tmp_path: Path) -> None:
    """Reads each time off the table, last layers of a classifier included, and what was told while it was measured."""
    encoder = load_checkpoint(save(make_model(BERT, task), tmp_path / "model")).encoder
    listener = Listener()
    table = latency_table(encoder, TimingConditions(sequence_length=40), progress=listener)
    short = task == "text-classification"
    wanted = {
        "heads": HEADS_MS,
        "columns": COLUMNS_MS,
        "last_heads": [(count, value / 10) for count, value in HEADS_MS] if short else [],
        "last_columns": [(count, COLUMNS_MS[count // 5][1] / 10) for count in (0, 5, 15, 20)] if short else [],
    }
    assert table.rest == pytest.approx(1.15)
    for name, pairs in wanted.items():
        found = getattr(table, name)
        assert [count for count, _ in found] == [count for count, _ in pairs]
        assert [value for _, value in found] == pytest.approx([value for _, value in pairs], rel=1e-6)
    others = 2 + 4 + 4 + (4 + 3 if short else 0)
    assert len(networks) == 1 + others
    assert listener.stages == [["Preparing block sessions", others, others], ["Measuring blocks", 3, 3]]
    assert (table.settings["heads"], table.settings["head_size"], table.settings["columns"]) == (4, 6, 20)


@pytest.mark.parametrize("task", ["question-answering", "text-classification"])
def test_a_table_is_found_again_whatever_the_order_of_its_settings(
    task: Any, networks: list[Encoder], tmp_path: Path
) -> None:
    """Measures nothing the second time, unless the length is another."""
    encoder = load_checkpoint(save(make_model(BERT, task), tmp_path / "model")).encoder
    first = latency_table(encoder, TimingConditions(sequence_length=8))
    (path,) = (tmp_path / "cache" / "prune-export" / "latency").iterdir()
    data = json.loads(path.read_text(encoding="utf-8"))
    data["settings"] = dict(reversed(data["settings"].items()))
    path.write_text(json.dumps(data), encoding="utf-8")
    networks.clear()
    assert latency_table(encoder, TimingConditions(sequence_length=8)) == first
    assert not networks
    latency_table(encoder, TimingConditions(sequence_length=9))
    assert networks


@pytest.mark.parametrize(("length", "fits"), [(0, False), (1, True), (40, True), (41, False)])
def test_a_table_is_for_1_to_as_many_tokens_as_the_model_has_positions(
    length: int, fits: bool, networks: list[Encoder], tmp_path: Path
) -> None:
    """Refuses no tokens and 41, for a model of 40 positions."""
    encoder = load_checkpoint(save(make_model(BERT, "question-answering"), tmp_path / "model")).encoder
    if fits:
        latency_table(encoder, TimingConditions(sequence_length=length))
    else:
        with pytest.raises(UsageError, match="--sequence-length"):
            latency_table(encoder, TimingConditions(sequence_length=length))
    assert bool(networks) == fits


def test_blocks_are_timed_in_networks_without_a_task(tmp_path: Path) -> None:
    """Makes four copies with weights of their own, 24 to 5 columns and back; ONNX Runtime gives 24 numbers a token."""
    blocks = BlockNetworks(load_checkpoint(save(make_model(BERT, "question-answering"), tmp_path / "model")).encoder)
    network = blocks.repeated(columns=5)
    assert network.task == "feature-extraction"
    assert len({id(layer) for layer in network.layers}) == len(network.layers) == 4
    for layer in network.layers:
        assert isinstance(layer.attention, ConstantBlock)
        assert isinstance(layer.feed_forward, FeedForward)
        assert layer.feed_forward.up.weight.shape == (5, 24)
        assert layer.feed_forward.down.weight.shape == (24, 5)
    path = tmp_path / "model.onnx"
    save_onnx(build(network, TARGETS["portable"], PRECISIONS["fp32"]), path)
    session = onnxruntime.InferenceSession(str(path))
    inputs = {part.name: np.ones((2, 7), dtype=np.int64) for part in session.get_inputs()}
    assert [part.shape for part in session.run(None, inputs)] == [(2, 7, 24)]
