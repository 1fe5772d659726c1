"""`prune-export search` on tiny networks: the front, its checkpoint, its journal, and its parts against brute force."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

import prune_export
from exporters.errors import OutputError, UnsupportedError, UsageError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.cli.main import main
from prune_export.files.holding import held
from prune_export.pruning.gates import slim_layers
from prune_export.pruning.obs import block_moments, obs_scores
from prune_export.slicing.bases import spectra
from prune_export.slim_model.model import slim_module
from prune_export.subarchitecture import search_run
from prune_export.subarchitecture.candidate import Candidate
from prune_export.subarchitecture.candidate_networks import CandidateNetworks
from prune_export.subarchitecture.evolution import Judged, evolve
from prune_export.subarchitecture.moves import Moves
from prune_export.subarchitecture.pareto import dominates, pareto_front, spread
from prune_export.subarchitecture.state_similarity import answers_divergence
from prune_export.subarchitecture.width_latency import measure_widths
from tests.counted_times import count_instead_of_timing
from tests.models import FAMILY_CASES, example_inputs, make_model, save
from tests.test_unchanged import checkpoint_folder, questions_file

SMALL: dict[str, Any] = {"max_seq_length": 24, "sequence_length": 24, "align": 4, "evaluations": 14, "points": 3}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The front does not depend on the clock."""
    count_instead_of_timing(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoint_folder(tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return questions_file(tmp_path / "questions.json")


def front_of(folder: Path) -> list[tuple[Any, ...]]:
    """What is the same in every run: networks, errors and bytes, but no times."""
    found = json.loads((folder / "front.json").read_text())
    return [
        (point["name"], point["layers"], point["widths"], point["measured"]["divergence"], point["measured"]["bytes"])
        for point in found["points"]
    ]


@pytest.mark.usefixtures("counted")
def test_a_search_that_was_killed_goes_on_to_the_same_front(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prune_export.search(model, data, tmp_path / "whole", **SMALL)
    assert whole.front.points
    assert whole.checkpoint is None
    # The same measured tables, as a search that goes on has them; then killed within the search.
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    lines = (tmp_path / "whole/evaluations.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "killed/evaluations.jsonl").write_bytes(b"".join(lines[:8]) + lines[8][:20])
    (tmp_path / "killed/front.json").unlink()
    judged = []
    estimated = CandidateNetworks.estimated

    def counting(self: CandidateNetworks, candidate: Candidate) -> Any:
        judged.append(candidate)
        return estimated(self, candidate)

    monkeypatch.setattr(CandidateNetworks, "estimated", counting)
    prune_export.search(model, data, tmp_path / "killed", **SMALL)
    assert 0 < len(judged) < 14  # some are found in the journal
    keys = [json.loads(line)[0] for line in lines[1:]]
    assert sum(key[-1] == "few" for key in keys) == 14
    assert 0 < sum(key[-1] == "others" for key in keys) <= 14  # 14 where all are starts
    assert front_of(tmp_path / "killed") == front_of(tmp_path / "whole")
    damaged = json.dumps([["tables"], {"latency": 1}]).encode() + b"\n"
    (tmp_path / "killed/evaluations.jsonl").write_bytes(lines[0] + damaged)
    with pytest.raises(UsageError, match=r"evaluations\.jsonl: its measured tables are damaged, or of another version"):
        prune_export.search(model, data, tmp_path / "killed", **SMALL)
    # While a search is at work, no other one begins there; other options are another search.
    with held(tmp_path / "killed", "search"), pytest.raises(OutputError, match="another search is at work in"):
        prune_export.search(model, data, tmp_path / "killed", **SMALL)
    with pytest.raises(UsageError, match="journal of another search"):
        prune_export.search(model, data, tmp_path / "killed", **{**SMALL, "seed": 1})


@pytest.mark.usefixtures("counted")
def test_points_of_both_forms_replace_each_other(model: Path, data: Path, tmp_path: Path) -> None:
    """Files that no search wrote stay where they are."""
    options = {**SMALL, "evaluations": 40, "points": 40, "max_divergence": 1e9, "widths": True}
    points = prune_export.search(model, data, tmp_path / "found", **options).front.points
    forms = [next(p.name for p in points if bool(p.widths) == is_sliced) for is_sliced in (True, False)]
    for name, file in zip([*forms, forms[0]], ("slim", "model", "slim"), strict=True):
        again = prune_export.search(model, data, tmp_path / "found", **options, point=name)
        assert again.checkpoint is not None
        (again.checkpoint / "notes.txt").write_text("mine")
        found = {path.name for path in again.checkpoint.iterdir()}
        assert {"slim.safetensors", "model.safetensors"} & found == {f"{file}.safetensors"}
        assert {"notes.txt", "tokenizer.json"} <= found
        load_checkpoint(again.checkpoint)


@pytest.mark.usefixtures("counted")
def test_a_search_may_begin_with_the_whole_network(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no selection is fast enough, as the table of a very small network may say."""
    monkeypatch.setattr(search_run.Search, "selection", lambda *_: None)
    assert prune_export.search(model, data, tmp_path / "found", **SMALL).front.points


@pytest.mark.usefixtures("counted")
def test_a_point_is_the_nearer_of_its_candidate_and_the_exact_selection(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A selection that is better once it is refitted takes the candidate's place, and a worse one does not."""
    starts = search_run.Search._starts
    monkeypatch.setattr(search_run.Search, "_starts", lambda self: [Candidate((3, 4), (24, 24)), *starts(self)])
    full, poor = Candidate((4, 4), (24, 24)), Candidate((0, 0), (4, 0))
    for selection in (full, poor):
        folder = tmp_path / f"{selection.columns[0]}"
        monkeypatch.setattr(search_run.Search, "selection", lambda _self, _ms, found=selection: found)
        points = prune_export.search(model, data, folder, **SMALL).front.points
        keys = [tuple(len(units) for layer in point.units for units in layer) for point in points]
        lines = (folder / "evaluations.jsonl").read_text().splitlines()[1:]
        errors = {json.dumps(key[:-1]): error for key, error in map(json.loads, lines) if key[-1] == "refitted"}
        assert (set(keys) == {(4, 24, 4, 24)}) == (selection is full)
        of_selection = errors.get(json.dumps(selection.key), 0.0 if selection is full else math.inf)
        own = tuple(count for pair in selection.counts for count in pair)  # as a candidate it has no rival
        chosen = [
            point.predicted.divergence
            for key, point in zip(keys, points, strict=True)
            if key != own and point.predicted
        ]
        assert all(error <= of_selection for error in chosen)


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("widths", [False, True])
def test_the_chosen_point_is_a_checkpoint_that_exports(
    model: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    widths: bool,
) -> None:
    options = [
        "--max-seq-length",
        "24",
        "--sequence-length",
        "24",
        "--align",
        "4",
        "--evaluations",
        "30",
        "--points",
        "4",
    ]
    found = tmp_path / "found"
    command = ["search", "--model", str(model), "--calibration", str(data), *options, "--output", str(found), "--json"]
    assert main([*command, "--best-w", *(["--widths"] if widths else [])]) == 0
    printed = json.loads(capsys.readouterr().out)
    best = max(printed["points"], key=lambda point: point["w"])
    assert printed["chosen"] == best["name"]
    export = prune_export.export(found / "checkpoint", tmp_path / "onnx", samples=4)
    assert export.parity is not None
    assert export.parity.passed
    record = json.loads((found / "front.json").read_text())
    assert (found / "front.svg").is_file()
    assert record["points"] == printed["points"]
    if not best["widths"]:
        slim = load_checkpoint(resolve(found / "checkpoint")).encoder
        assert slim.task == "question-answering"
        plan = json.loads((found / "checkpoint/pruning.json").read_text())
        assert [layer["heads"] for layer in plan["layers"]] == [layer["heads"] for layer in best["layers"]]
    # The same search with another choice measures nothing anew: it makes the chosen network alone.
    made = []
    refitted = CandidateNetworks.refitted

    def counting(self: CandidateNetworks, *given: Any, **options: Any) -> Any:
        made.append(given)
        return refitted(self, *given, **options)

    monkeypatch.setattr(CandidateNetworks, "refitted", counting)
    again = prune_export.search(
        model,
        data,
        found,
        **{**SMALL, "evaluations": 30, "points": 4},
        widths=widths,
        point=printed["points"][0]["name"],
    )
    assert again.chosen is not None
    assert again.chosen.name == printed["points"][0]["name"]
    assert len(made) == 1


@pytest.mark.usefixtures("counted")
def test_refusals_come_before_the_work(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_run, "block_moments", lambda *_, **__: pytest.fail("work had begun"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files; expected a new folder"):
        prune_export.search(model, data, tmp_path / "other", **SMALL)
    with pytest.raises(OutputError, match="is the model's own folder"):
        prune_export.search(model, data, model, **SMALL)
    with pytest.raises(UsageError, match="--keep-layers 7: the network has layers 0 to 1"):
        prune_export.search(model, data, tmp_path / "new", keep_layers=[7], **SMALL)
    with pytest.raises(UsageError, match="--depth 1: --keep-layers names 2 layers"):
        prune_export.search(model, data, tmp_path / "new", keep_layers=[0, 1], depth=1, **SMALL)
    albert = next(case for case in FAMILY_CASES if case.model_type == "albert")
    save(make_model(albert, "question-answering"), tmp_path / "albert")
    with pytest.raises(UnsupportedError):
        prune_export.search(tmp_path / "albert", data, tmp_path / "new", widths=True, **SMALL)
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["mine.txt"]


@pytest.mark.usefixtures("counted")
def test_a_search_that_finds_nothing_says_how_near_it_came(model: Path, data: Path, tmp_path: Path) -> None:
    words = r"at most 1e-09: the nearest faster one has 0\.\d+; raise --max-divergence or --evaluations"
    with pytest.raises(UsageError, match=words):
        prune_export.search(model, data, tmp_path / "found", **SMALL, max_divergence=1e-9)


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("width", [8, 16, 32])
def test_the_latency_of_a_sliced_network_is_the_sum_of_what_was_measured(model: Path, width: int) -> None:
    """With parameters in place of milliseconds each head and each column costs what it has at its width."""
    encoder = load_checkpoint(model).encoder
    table = measure_widths(encoder, {})
    indices = tuple(range(len(encoder.layers)))
    full = Candidate((4,) * len(indices), (24,) * len(indices), (width,) * len(encoder.norms))
    fewer = full._replace(heads=(2, *full.heads[1:]), columns=(*full.columns[:-1], 8))
    # Of biases, only the query's are the heads' own: the key's cancel, the value's are in the output's.
    head, column = 8 * (4 * width + 1) / 1000, (2 * width + 1) / 1000
    assert table.total(full, indices) - table.total(fewer, indices) == pytest.approx(2 * head + 16 * column)
    # An emptied block costs nothing more: its output's bias stays as a constant.
    assert table.total(fewer._replace(heads=(0,) * len(indices), columns=(0,) * len(indices)), indices) == (
        pytest.approx(np.interp(width, table.widths, table.rest))
    )


def test_estimated_networks_have_the_weights_of_least_squares() -> None:
    model = make_model(FAMILY_CASES[0], "text-classification")
    encoder, networks = estimates(model)
    full = [(len(layer.heads), len(layer.columns)) for layer in networks.scores]
    unpruned = networks.estimated(Candidate(*zip(*full, strict=True))).layers[0].feed_forward
    assert torch.equal(unpruned.down.weight, encoder.layers[0].feed_forward.down.weight)
    candidate = Candidate((2, 1) * len(full), (9, 5) * len(full))
    candidate = Candidate(candidate.heads[: len(full)], candidate.columns[: len(full)])
    block = networks.estimated(candidate).layers[1].feed_forward
    moments, dense = networks.moments[3], encoder.layers[1].feed_forward
    assert moments is not None
    kept = list(candidate.units(networks.scores)[1][1])
    features = moments.features.numpy() + 0.01 * moments.features.diagonal().mean().item() * np.eye(full[1][1])
    weight = dense.down.weight.double().numpy()
    expected = weight @ features[:, kept] @ np.linalg.inv(features[np.ix_(kept, kept)])
    np.testing.assert_allclose(block.down.weight.numpy(), expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(block.up.weight.numpy(), dense.up.weight.numpy()[kept])


@pytest.mark.parametrize("best", [0, 1, 2])
def test_a_sliced_point_is_the_nearest_of_three(best: int) -> None:
    encoder, networks = estimates(make_model(FAMILY_CASES[0], "text-classification"))
    networks.batches = networks.batches * 3
    networks.bases = spectra(encoder, networks.batches, sensitivity=0.0)
    candidate = Candidate((2,) * len(networks.scores), (9,) * len(networks.scores), (16,) * len(encoder.norms))
    made: list[Any] = []

    def judge(network: Any) -> float:
        made.append(network)
        return float(len(made) != best + 1)

    networks.judge = judge
    found = networks.refitted(candidate.units(networks.scores), candidate.widths).encoder
    assert len(made) == 3
    assert found is made[best]
    skips = [network.layers[1].feed_forward_skip for network in made]
    assert not any(torch.equal(first, second) for first, second in itertools.combinations(skips, 2))
    formulas = networks.estimated(candidate).layers[1].feed_forward_skip
    assert torch.equal(skips[2], formulas)


def estimates(model: Any) -> tuple[Any, CandidateNetworks]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        save(model, Path(name))
        checkpoint = load_checkpoint(resolve(Path(name)))
        inputs = example_inputs(model)
        batch = {**inputs, "labels": torch.zeros(len(inputs["input_ids"]), dtype=torch.long)}
        slim = slim_module(checkpoint, checkpoint.encoder)
        moments = block_moments(slim, slim_layers(slim), checkpoint.task, checkpoint.encoder.inputs, [batch])
    scores = obs_scores(checkpoint.encoder, moments)
    return checkpoint.encoder, CandidateNetworks(checkpoint.encoder, moments, scores, [batch])


def test_states_of_one_width_are_compared_as_they_are() -> None:
    """A rotated embedding is another answer; only states of another width are compared up to a rotation."""
    rng = np.random.default_rng(0)
    teacher, rotation = rng.normal(size=(2, 5, 6)), np.linalg.qr(rng.normal(size=(6, 6)))[0]
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for student in (teacher + 0.1, teacher @ rotation):
        error = float((((student - teacher) ** 2).sum(axis=2) * mask).sum() / ((teacher**2).sum(axis=2) * mask).sum())
        found = answers_divergence(
            "feature-extraction",
            {"last_hidden_state": torch.from_numpy(student)},
            {"last_hidden_state": torch.from_numpy(teacher)},
            torch.from_numpy(mask),
        )
        assert float(found) == pytest.approx(error)
    wider = np.concatenate([teacher @ rotation, np.zeros((2, 5, 2))], axis=2)
    states = [{"last_hidden_state": torch.from_numpy(x)} for x in (wider, teacher)]
    assert float(answers_divergence("feature-extraction", *states, torch.from_numpy(mask))) == pytest.approx(
        0, abs=1e-9
    )


# --- the search itself, against brute force ---------------------------------------------------------------------------


def test_a_front_is_what_nothing_dominates() -> None:
    rng = random.Random(0)
    points = [tuple(rng.randrange(6) for _ in range(3)) for _ in range(60)]
    expected = {point for point in points if not any(dominates(other, point) for other in points)}
    front = pareto_front(points, lambda point: point)
    assert set(front) == expected
    assert len(front) == len(expected)
    assert list(front) == sorted(front)
    assert spread(range(100), 3, float) == (0, 49, 99)


def small_space() -> tuple[Candidate, Moves, Any, tuple[Judged[Candidate], ...]]:
    """Two layers with three heads and three groups of columns each: 256 candidates, and the front of all of them."""
    full = Candidate((3, 3), (12, 12))
    worth = {0: (0, 5, 8, 9), 1: (0, 1, 2, 12)}  # what one, two and three heads are worth

    def judge(candidate: Candidate, _front: Any = ()) -> Judged:
        error = 50.0 - sum(worth[layer][heads] for layer, heads in enumerate(candidate.heads))
        error -= sum((layer + 1) * columns**0.5 for layer, columns in enumerate(candidate.columns))
        return Judged(candidate, error, latency(candidate), 1.0)

    def latency(candidate: Candidate) -> float:
        return 1 + sum(candidate.heads) + sum(candidate.columns) / 4

    every = [
        Candidate(heads, columns)
        for heads in itertools.product(range(4), repeat=2)
        for columns in itertools.product((0, 4, 8, 12), repeat=2)
        if any((*heads, *columns))
    ]
    return full, Moves(full, latency, align=4), judge, pareto_front(map(judge, every), lambda point: point.values)


def test_evolution_finds_the_front_of_a_small_space() -> None:
    full, moves, judge, expected = small_space()
    found = evolve([full], moves, judge, evaluations=250, seed=0)
    assert {point.values for point in found} == {point.values for point in expected}
    assert evolve([full], moves, judge, evaluations=40, seed=3) == evolve([full], moves, judge, evaluations=40, seed=3)


def test_a_front_ends_where_errors_are_too_great() -> None:
    full, moves, judge, expected = small_space()
    good = evolve([full], moves, judge, evaluations=250, seed=0, most_error=25.0)
    assert {point.values for point in good} == {point.values for point in expected if point.error <= 25.0}
    assert [point.error for point in evolve([full], moves, judge, evaluations=1, seed=0, most_error=-99.0)] == [
        judge(full).error
    ]


def test_few_examples_spare_the_others() -> None:
    """Where few examples show what all would, the front is the same; what they rule out counts as judged."""
    full, moves, judge, expected = small_space()
    spared = 0

    def in_two_steps(candidate: Candidate, front: Any) -> Judged[Candidate] | None:
        nonlocal spared
        point = judge(candidate)
        if any(dominates(other.values, point.values) for other in front):
            spared += 1
            return None
        return point

    found = evolve([full], moves, in_two_steps, evaluations=250, seed=0)
    assert {point.values for point in found} == {point.values for point in expected}
    assert spared > 50


def test_moves_observe_the_space() -> None:
    rng = random.Random(1)
    full = Candidate((4, 4, 4), (32, 32, 32), (16,) * 7)
    moves = Moves(full, lambda c: sum(c.heads) + sum(c.columns) / 8, align=8, keep_layers=frozenset({1}), depth=2)
    candidate = Candidate((4, 4, 0), (32, 32, 0), (16,) * 7)
    seen = set()
    for _ in range(400):
        moved = moves.any(candidate, rng)
        if moved is None:
            continue
        seen.add(moved)
        candidate = moved
        assert moved.depth <= 2
        assert moved.heads[1] == 4
        assert moved.columns[1] == 32
        assert all(columns % 8 == 0 and 0 <= columns <= 32 for columns in moved.columns)
        assert all(8 <= width <= 16 for width in moved.widths)
        assert max(moved.heads) <= 4
    assert len(seen) > 50


def test_without_labels_the_divergence_decides() -> None:
    """`choose` and W with and without a metric, on made-up points."""
    from prune_export.options.search import PointChoice
    from prune_export.subarchitecture.front_point import Costs, FrontPoint, choose, judged_points

    unpruned = Costs(10.0, 1000.0, 0.0, 80.0)
    points = [
        FrontPoint("p01", (), (), unpruned, Costs(2.0, 300.0, 0.9, 60.0)),
        FrontPoint("p02", (), (), unpruned, Costs(5.0, 500.0, 0.2, 79.0)),
        FrontPoint("p03", (), (), unpruned, Costs(8.0, 800.0, 0.1, 79.8)),
    ]
    weighed = judged_points(points, unpruned)
    assert not any(point.is_dominated for point in weighed)
    slower = msgspec.structs.replace(
        points[0], name="p04", measured=msgspec.structs.replace(points[0].measured, latency_ms=3.0)
    )
    assert [point.is_dominated for point in judged_points([*points, slower], unpruned)] == [False, False, False, True]
    assert [point.w for point in weighed] == pytest.approx([0.8 * 0.7 / 0.4, 0.5 * 0.5 / 0.21, 0.2 * 0.2 / 0.202])
    assert choose(weighed, unpruned, PointChoice(max_loss=1.5)).name == "p02"
    assert choose(weighed, unpruned, PointChoice(latency_ms=9.0)).name == "p03"
    assert choose(weighed, unpruned, PointChoice(best_w=True)).name == "p01"
    assert choose(weighed, unpruned, PointChoice(max_mib=600 / 2**20, best_w=True, max_loss=5)).name == "p02"
    with pytest.raises(UsageError, match=r"--max-loss 0.1: no point of the front .* the least is 0.2"):
        choose(weighed, unpruned, PointChoice(max_loss=0.1))
    with pytest.raises(UsageError, match="--point p9: expected one of p01, p02, p03"):
        choose(weighed, unpruned, PointChoice(point="p9"))
    bare = [replace_metric(point) for point in points]
    free = judged_points(bare, Costs(10.0, 1000.0, 0.0))
    assert [point.w for point in free] == pytest.approx([0.8 * 0.7 / 0.9, 0.5 * 0.5 / 0.2, 0.2 * 0.2 / 0.1])
    assert choose(free, Costs(10.0, 1000.0, 0.0), PointChoice(max_loss=0.3)).name == "p02"


def replace_metric(point: Any) -> Any:
    return msgspec.structs.replace(point, measured=msgspec.structs.replace(point.measured, metric=None))
