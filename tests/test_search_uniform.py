"""`prune-export search --uniform` and `--method fptas` on tiny networks: fronts, plain checkpoints, tables, refusals."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers
from safetensors.torch import load_file

import prune_export
from exporters.cost import count_parameters, layer_shape
from exporters.encoder import Encoder
from exporters.errors import UnsupportedError, UsageError, WeightsError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.reference_model import quiet_transformers
from prune_export.checkpoint.source import resolve
from prune_export.cli.main import main
from prune_export.options.search import SearchOptions
from prune_export.pruning import block_timing
from prune_export.subarchitecture import fptas_run, shape_latency
from prune_export.subarchitecture.divergence import Divergence
from prune_export.subarchitecture.fptas import Hyperparameters
from prune_export.subarchitecture.front_point import FrontPoint, PointLayer, PointShape
from prune_export.subarchitecture.plain_network import inherit, prepare_inheritance
from prune_export.subarchitecture.search_data import read_search_data
from prune_export.subarchitecture.shape import Shape, shape_of
from prune_export.subarchitecture.shape_latency import measure_shapes
from prune_export.subarchitecture.shape_moves import ShapeMoves, first_shapes
from prune_export.subarchitecture.short_training import ShortTraining
from prune_export.subarchitecture.space import Space
from prune_export.subarchitecture.uniform_networks import UniformNetworks, exported
from tests.counted_times import count_instead_of_timing
from tests.models import FAMILY_CASES, FamilyCase, make_model, save
from tests.test_search_plain import batches_of, saved_and_loaded
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer
from tests.tiny_training import SIZES, checkpoint_folder, questions_file

SPACE = "depth = [1, 2]\nheads = [2, 4]\nhidden = [16, 24, 32]\nintermediate = [8, 20, 40]\n"
SMALL: dict[str, Any] = {"max_seq_length": 24, "sequence_length": 24, "uniform": True, "evaluations": 8, "points": 2}
CASES = {str(case): case for case in FAMILY_CASES}
NEWER = ("mpnet", "modernbert", "deberta", "deberta-v2", "nomic_bert", "gte", "jina_embeddings_v3", "eurobert")
WORDS = [f"{first}{second}" for first in "abcdefgh" for second in "ijklmnop"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures for as short a time as it can."""
    monkeypatch.setattr(block_timing, "_ROUNDS", 1)
    monkeypatch.setattr(block_timing, "_SECONDS", 0.0)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The front does not depend on the clock."""
    count_instead_of_timing(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoint_folder(tmp_path / "model", num_hidden_layers=2, intermediate_size=40)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return questions_file(tmp_path / "questions.json")


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "space.toml").write_text(SPACE)
    return tmp_path / "space.toml"


def front_of(folder: Path) -> Any:
    """What is the same in every run: networks, predictions, errors and bytes, but no times."""
    found = json.loads((folder / "front.json").read_text())
    for point in (*found["points"], found):
        for name in ("w", "is_dominated"):
            point.pop(name, None)
    for costs in (found["unpruned"], *(point["measured"] for point in found["points"])):
        del costs["latency_ms"]
    return found


@pytest.mark.usefixtures("quick")
def test_a_uniform_search_that_was_killed_goes_on_to_the_same_front(
    model: Path, data: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prune_export.search(model, data, tmp_path / "whole", space=space, **SMALL)
    assert whole.front.points
    assert whole.front.evaluations == 8
    # The same measured tables, as a search that goes on has them; then killed within the search.
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    lines = (tmp_path / "whole/evaluations.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "killed/evaluations.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:20])
    (tmp_path / "killed/front.json").unlink()
    judged = []
    estimated = UniformNetworks.estimated

    def counting(self: UniformNetworks, shape: Shape) -> Any:
        judged.append(shape)
        return estimated(self, shape)

    monkeypatch.setattr(UniformNetworks, "estimated", counting)
    prune_export.search(model, data, tmp_path / "killed", space=space, **SMALL)
    assert len(judged) == len(set(judged)) == 8 - 4  # the others are in the journal, after settings and tables
    assert front_of(tmp_path / "killed") == front_of(tmp_path / "whole")
    # Other sizes are another search, whatever the file is called.
    space.write_text(SPACE.replace("depth = [1, 2]", "depth = [2]"))
    with pytest.raises(UsageError, match="journal of another search"):
        prune_export.search(model, data, tmp_path / "killed", space=space, **SMALL)


@pytest.mark.usefixtures("counted")
def test_the_chosen_shape_is_a_checkpoint_that_everything_loads(
    model: Path, data: Path, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found"
    options = ["--max-seq-length", "24", "--sequence-length", "24", "--evaluations", "6", "--points", "2"]
    command = ["search", "--model", str(model), "--calibration", str(data), *options, "--output", str(found)]
    assert main([*command, "--uniform", "--space", str(space), "--best-w"]) == 0
    printed = capsys.readouterr().out
    assert "L: layers, A: heads, H: hidden size" in printed
    assert "…" not in printed[printed.index("Front of") : printed.index("Point")]
    record = json.loads((found / "front.json").read_text())
    best = max(record["points"], key=lambda point: point["w"])
    assert len(record["evaluated"]) == record["evaluations"] == 6
    assert (found / "front.svg").is_file()

    with quiet_transformers():
        loaded, info = transformers.AutoModelForQuestionAnswering.from_pretrained(
            found / "checkpoint", output_loading_info=True
        )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    config = loaded.config
    sizes = config.num_hidden_layers, config.num_attention_heads, config.hidden_size, config.intermediate_size
    assert sizes == tuple(best["shape"][name] for name in Shape._fields)
    export = prune_export.export(found / "checkpoint", tmp_path / "onnx", samples=4)
    assert export.parity is not None
    assert export.parity.passed
    assert (tmp_path / "onnx/model.onnx").stat().st_size == best["measured"]["bytes"]

    # The point in the file, the model and the data make the same weights; other units make others.
    checkpoint, given = load_checkpoint(resolve(model)), record["options"]
    again = SearchOptions(model, data, found, **{name: given[name] for name in ("max_seq_length", "seed", "samples")})
    networks = UniformNetworks(checkpoint, read_search_data(again, checkpoint), again)
    point = msgspec.convert(best, FrontPoint)
    written = load_file(found / "checkpoint/model.safetensors")
    same = networks.network(point).tensors
    assert same.keys() == written.keys()
    assert all(torch.equal(same[name], written[name]) for name in same)
    # All of it is what the point says, and not what the scores would say.
    shape = PointShape(1, 2, 16, 8, parent_layers=(0,))
    made = networks.network(msgspec.structs.replace(point, shape=shape, layers=(PointLayer("0,3", "0-7"),)))
    assert (made.layers, made.units) == ((0,), (((0, 3), tuple(range(8))),))
    assert made.tensors["bert.embeddings.word_embeddings.weight"].shape == (90, 16)
    with pytest.raises(UsageError, match="units: heads: expected"):
        networks.network(msgspec.structs.replace(point, layers=tuple(PointLayer("0-9", "0") for _ in point.layers)))


@pytest.mark.usefixtures("counted")
def test_the_published_algorithm_is_brute_force_where_it_takes_every_shape(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = tmp_path / "space.toml"
    space.write_text("depth = [1, 2]\nheads = [2]\nhidden = [16, 32]\nintermediate = [8, 40]\n")
    options = {"max_seq_length": 24, "sequence_length": 24, "epsilon": 0.01, "steps": 3}
    result = prune_export.search(model, data, tmp_path / "found", method="fptas", space=space, best_w=True, **options)
    record = json.loads((tmp_path / "found/front.json").read_text())
    evaluated = {Shape(*(row[name] for name in Shape._fields)): row for row in record["evaluated"]}
    assert len(evaluated) == result.front.evaluations == 8
    # Brute force: parameters of Hugging Face models, operations of the record, and errors trained here.
    checkpoint = load_checkpoint(resolve(model))
    given = SearchOptions(model, data, tmp_path / "none", max_seq_length=24)
    parts = read_search_data(given, checkpoint)
    training = ShortTraining(checkpoint, parts.fit.batches, parts.search.batches, steps=3)
    parameters = {shape: bodies(training.candidate(shape)) for shape in evaluated}
    errors = {shape: training(shape, Hyperparameters()) for shape in evaluated}
    cost = {shape: row["operations"] for shape, row in evaluated.items()}
    w = {
        shape: (1 - parameters[shape] / max(parameters.values()))
        * (1 - cost[shape] / max(cost.values()))
        / errors[shape]
        for shape in evaluated
    }
    assert {shape: row["w"] for shape, row in evaluated.items()} == pytest.approx(w)
    [point] = result.front.points
    assert point.shape is not None
    assert point.shape.depth == load_checkpoint(resolve(tmp_path / "found/checkpoint")).config.num_hidden_layers
    best = max(w, key=lambda shape: w[shape])
    assert tuple(getattr(point.shape, name) for name in Shape._fields) == best

    # It goes on from its journal, and does not train again.
    monkeypatch.setattr(fptas_run, "ShortTraining", lambda *_, **__: lambda *_: pytest.fail("trained again"))
    prune_export.search(model, data, tmp_path / "found", method="fptas", space=space, **options)
    assert front_of(tmp_path / "found") == {**record, **front_of(tmp_path / "found")}


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("options", [{"evaluations": 5, "points": 2}, {"method": "fptas", "epsilon": 0.3, "steps": 2}])
@pytest.mark.parametrize("case", [case for case in FAMILY_CASES if str(case) in NEWER], ids=str)
def test_newer_families_have_uniform_networks(case: FamilyCase, options: dict[str, Any], tmp_path: Path) -> None:
    sizes = SIZES | {"num_hidden_layers": 3, "embedding_size": 32}
    model = save_with_tokenizer(make_model(case, "feature-extraction", **sizes), bert_tokenizer(), tmp_path / "model")
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(f"the {word} fox,{word[0]}\n" for word in WORDS))
    (tmp_path / "space.toml").write_text("depth = [1, 2]\nheads = [2, 3]\nhidden = [16, 24]\nintermediate = [8, 24]\n")
    options = {"max_seq_length": 16, "sequence_length": 16, "space": tmp_path / "space.toml"} | options
    result = prune_export.search(
        model,
        tmp_path / "texts.csv",
        tmp_path / "found",
        task="feature-extraction",
        uniform=True,
        best_w=True,
        **options,
    )
    assert all(point.shape is not None for point in result.front.points)
    with quiet_transformers():
        loaded, info = transformers.AutoModel.from_pretrained(tmp_path / "found/checkpoint", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert loaded.config.hidden_size in (16, 24)
    export = prune_export.export(tmp_path / "found/checkpoint", tmp_path / "onnx", samples=4)
    assert export.parity is not None
    assert export.parity.passed


def bodies(model: Any) -> int:
    """The parameters of a Hugging Face model without its task head."""
    return sum(parameter.numel() for parameter in model.base_model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.2}, "--epsilon 0.2: is for --method fptas"),
        ({"uniform": True, "steps": 0}, "--steps 0: is for --method fptas"),
        ({"inherit": True}, "--inherit: is for --method fptas"),
        ({"space": "space.toml"}, "--space space.toml: is for uniform networks; add --uniform"),
        ({"uniform": True, "widths": True}, "--widths: is not for uniform networks"),
        ({"uniform": True, "align": 8}, "--align 8: is not for uniform networks"),
        ({"uniform": True, "max_divergence": 0.1}, "--max-divergence 0.1: is not for uniform networks"),
        ({"method": "fptas", "keep_layers": [0, 1]}, "--keep-layers 0 1: is not for uniform networks"),
        ({"method": "fptas", "points": 3}, "--points 3: is not for --method fptas"),
        ({"method": "fptas", "evaluations": 3}, "--evaluations 3: is not for --method fptas"),
        ({"uniform": True, "depth": 1, "space": "deep.toml"}, "--depth 1: the space has depths from 2"),
        ({"uniform": True, "space": "missing.toml"}, "missing.toml: .*expected a space in TOML"),
        ({"uniform": True, "space": "parent.toml"}, "holds the model's own shape alone"),
        ({"method": "fptas", "space": "large.toml"}, "hidden: expected sizes up to 32"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep.toml").write_text(SPACE.replace("[1, 2]", "[2]"))
    (tmp_path / "parent.toml").write_text("depth = [2]\nheads = [4]\nhidden = [32]\nintermediate = [40]\n")
    (tmp_path / "large.toml").write_text(SPACE.replace("[16, 24, 32]", "[16, 64]"))
    with pytest.raises(UsageError, match=message) as raised:
        prune_export.search(model, data, tmp_path / "found", **{"max_seq_length": 24, **options})
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "found").exists()  # before the work


def test_models_that_have_no_plain_networks_are_refused(data: Path, tmp_path: Path) -> None:
    save(make_model(CASES["albert"], "question-answering"), tmp_path / "albert")
    with pytest.raises(UnsupportedError, match="share their weights"):
        prune_export.search(tmp_path / "albert", data, tmp_path / "found", **SMALL)


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["question-answering", "text-classification", "fill-mask", "feature-extraction"])
@pytest.mark.parametrize("name", ["bert", "electra"])
def test_the_latency_of_a_shape_is_the_sum_of_what_was_measured(
    name: str, task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With parameters in place of milliseconds the table must give the parameters of any network of the space."""
    make_model(CASES[name], task).save_pretrained(tmp_path)
    checkpoint = load_checkpoint(tmp_path, task=task)
    encoder, dimensions = checkpoint.encoder, checkpoint.family.dimensions(checkpoint.config)
    parent = shape_of(dimensions)
    monkeypatch.setattr(shape_latency, "open_session", lambda network, *_: lambda: network)

    def parameters(yardstick: Callable[[], Any], runs: list[Callable[[], Any]]) -> tuple[float, list[float]]:
        return weights(yardstick()), [weights(run()) for run in runs]

    monkeypatch.setattr(shape_latency, "time_in_turns", parameters)
    shapes = Space((1, 2), (2, 4), (16, 24), (8, 20)).shapes(dimensions)
    table = measure_shapes(encoder, parent, shapes, {})
    for shape in (*shapes, parent):
        depth, _, hidden, columns = shape
        of_layer = 4 * hidden * hidden + 2 * hidden * columns  # without biases and norms, as `weights`
        rest = next(width.rest for width in table.widths if width.hidden == hidden)
        assert table.total(shape) == pytest.approx(rest + depth * of_layer)
        assert rest == pytest.approx(table.total(shape._replace(depth=1)) - of_layer)


def weights(encoder: Encoder) -> float:
    """The matrices of the layers, and everything outside of them."""
    inside = 0
    for layer in encoder.layers:
        shape = layer_shape(layer)
        width = layer.widths[0]
        inside += shape.heads * (shape.query_key_size * 2 + shape.value_size * 2) * width
        inside += 2 * shape.columns * width
    outside = count_parameters(replace(encoder, layers=()))
    return float(inside + outside)


def test_a_plain_network_is_described_as_its_checkpoint_is(tmp_path: Path) -> None:
    for name, task in (("bert", "question-answering"), ("electra", "fill-mask"), ("distilbert", "feature-extraction")):
        model_folder, plain = tmp_path / name, tmp_path / f"{name}-plain"
        model = make_model(CASES[name], task)
        model.save_pretrained(model_folder)
        checkpoint = load_checkpoint(model_folder, task=task)
        batches = batches_of(model, task)
        inheritance, shape = prepare_inheritance(checkpoint, batches), Shape(2, 2, 16, 8)
        network = inherit(inheritance, shape)
        others = tuple((tuple(range(2)), tuple(range(start, start + 8))) for start in (0, 12))
        assert inherit(inheritance, shape, units=others).units == others != network.units
        assert inherit(inheritance, shape, units=network.units).units == network.units
        saved_and_loaded(network, type(model), plain)
        read = load_checkpoint(plain, task=task)
        divergence = Divergence(read, batches)
        assert divergence.of(network.encoder) == pytest.approx(0, abs=1e-6)
        assert divergence.of(exported(network)) == pytest.approx(0, abs=1e-6)
        # From the parent it is not: of hidden states, too, whose widths differ.
        assert Divergence(checkpoint, batches).of(network.encoder) > 1e-4
        assert shape_of(read.family.dimensions(read.config)) == network.shape
        norm = replace(network.encoder.embeddings.norm, weight=torch.full((16,), float("nan")))
        if name != "electra":  # its embeddings are narrower
            damaged = replace(network.encoder, embeddings=replace(network.encoder.embeddings, norm=norm))
            with pytest.raises(WeightsError, match="not finite"):
                divergence.of(damaged)


def test_moves_stay_in_the_space_and_reach_all_of_it() -> None:
    shapes = frozenset(
        Shape(depth, heads, hidden, 8)
        for depth in (1, 2, 4)
        for heads in (2, 3, 4)
        for hidden in (12, 16, 24)
        if hidden % heads == 0
    )
    moves, rng = ShapeMoves(shapes), random.Random(0)
    shape, seen = max(shapes), set()
    for _ in range(600):
        moved = moves.any(shape, rng)
        assert moved is None or moved in shapes
        shape = moved or shape
        seen.add(shape)
    assert seen == shapes
    parent = Shape(4, 4, 24, 8)

    def latency(shape: Shape) -> float:
        return float(shape.depth * shape.hidden + shape.heads)

    single = {Shape(depth, 4, 24, 8) for depth in (1, 2)} | {Shape(4, heads, 24, 8) for heads in (2, 3)}
    single |= {Shape(4, 4, hidden, 8) for hidden in (12, 16)}
    first = first_shapes(sorted(shapes - {parent}), parent, latency, 12)
    assert 10 <= len(set(first)) == len(first) <= 12  # two may be nearest to the same time
    assert set(first[:6]) == single
    assert {min(shapes - single, key=latency), max(shapes - single - {parent}, key=latency)} <= set(first[6:])
    assert len(first_shapes(sorted(shapes - {parent}), parent, latency, 1)) == 1
