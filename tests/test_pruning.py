"""Pruning: every score, choice and refit against something worked out independently."""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForQuestionAnswering

import prune_export
from exporters.cost import flops_per_token, layer_shape
from exporters.encoder import Encoder, FeedForward, Linear, map_layers
from exporters.errors import DataError, PruneExportError, UsageError
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.oracle import load_oracle
from prune_export.checkpoint.weights import read_weights
from prune_export.cli.main import main
from prune_export.inspection import inspect
from prune_export.pruning import block_timing
from prune_export.pruning.budget import Budget, ladder
from prune_export.pruning.calibration import Calibration, read_calibration
from prune_export.pruning.costs import Costs, counts_of, flops_costs, layer_parameters, parameter_costs
from prune_export.pruning.cutting import cut, full_size_tensors, unpruned
from prune_export.pruning.gates import gated, hugging_face_layers
from prune_export.pruning.latency import LatencyTable, latency_costs
from prune_export.pruning.latency_cache import latency_table
from prune_export.pruning.objective import sample_losses
from prune_export.pruning.rearrangement import lost, rearrange
from prune_export.pruning.reconstruction.layerwise import reconstruct
from prune_export.pruning.reconstruction.least_squares import Sums, fit, ridge_regression, unit_scales
from prune_export.pruning.scores import LayerScores, distinct_layers, fisher, gate_gradients, magnitude, taylor
from prune_export.pruning.selection import Rules, select
from prune_export.pruning.stepping import Pruner, Settings
from prune_export.slim_model.api import module_of
from prune_export.surgeon import operate
from tests.comparing import largest_difference, onnx_outputs, torch_outputs
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, linear, make_model, save
from tests.tiny_tokenizers import bert_tokenizer

BERT = FAMILY_CASES[0]


def calibration(model: Any, *, batches: int = 6, rows: int = 3, length: int = 17) -> Calibration:
    """Random tokens with random answers that are no padding."""
    found = []
    for seed in range(batches):
        batch = example_inputs(model, batch=rows, length=length, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.multinomial(batch["attention_mask"].float(), 1, generator=generator)[:, 0] for _ in range(2)]
        found.append(batch | {"start_positions": drawn[0], "end_positions": drawn[1]})
    return Calibration("random", batches * rows, "", tuple(found))


def saved(case: FamilyCase, folder: Path, *, seed: int = 0, **changes: Any) -> tuple[Any, Checkpoint]:
    model = make_model(case, "question-answering", seed=seed, **changes)
    return model, load_checkpoint(save(model, folder))


def gradients_of(checkpoint: Checkpoint, model: Any, data: Calibration) -> Any:
    return gate_gradients(
        model,
        hugging_face_layers(checkpoint, model),
        checkpoint.task,
        checkpoint.encoder.inputs,
        data.batches,
    )


# --- gates and scores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_gradients_are_those_of_scaled_weights(case: FamilyCase, tmp_path: Path) -> None:
    """A gate scales a unit's outgoing weights: finite differences of each sample's loss, alone in its batch."""
    model, checkpoint = saved(case, tmp_path)
    model = model.double()
    data = calibration(model, batches=1)
    found = gradients_of(checkpoint, model, data)
    batch, step = data.batches[0], 1e-5
    shared = case.model_type == "albert"

    def losses() -> list[float]:
        values = []
        for row in range(3):
            one = {name: value[row : row + 1] for name, value in batch.items()}
            outputs = model(**{name: one[name] for name in checkpoint.encoder.inputs})
            values.append(float(sample_losses(checkpoint.task, outputs, one, torch.Generator())))
        return values

    for layer, name, unit, columns in (
        (0, "attention_output", 1, slice(6, 12)),
        (0 if shared else 2, "attention_output", 3, slice(18, 24)),
        (0 if shared else 1, "down", 4, slice(4, 5)),
        (0 if shared else 2, "down", 19, slice(19, 20)),
    ):
        weight = linear(model, case, layer, name).weight
        with torch.no_grad():
            original = weight[:, columns].clone()
            weight[:, columns] = original * (1 + step)
            above = losses()
            weight[:, columns] = original * (1 - step)
            below = losses()
            weight[:, columns] = original
        expected = torch.tensor([(high - low) / (2 * step) for high, low in zip(above, below, strict=True)])
        gradient = (found[layer].heads if name == "attention_output" else found[layer].columns)[:, unit]
        assert torch.allclose(gradient.double(), expected.double(), rtol=2e-3, atol=1e-6), (layer, name)


def test_gates_leave_the_model_as_it_was(tmp_path: Path) -> None:
    model, checkpoint = saved(BERT, tmp_path)
    inputs = example_inputs(model)
    before = torch_outputs(model, checkpoint.encoder, inputs)
    with gated(hugging_face_layers(checkpoint, model)) as gates:
        gates.open(3)
        gates.heads[0].data[:, 0] = 0
        assert largest_difference(before, torch_outputs(model, checkpoint.encoder, inputs)) > 1e-4
    assert largest_difference(before, torch_outputs(model, checkpoint.encoder, inputs)) == 0
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_scores_of_known_gradients(tmp_path: Path) -> None:
    model, checkpoint = saved(BERT, tmp_path)
    found = gradients_of(checkpoint, model, calibration(model))
    heads = found[1].heads.double().numpy()
    np.testing.assert_allclose(fisher(found)[1].heads.numpy(), (heads**2).sum(axis=0) / 18, rtol=1e-9)
    np.testing.assert_allclose(taylor(found)[1].heads.numpy(), np.abs(heads).sum(axis=0) / 18, rtol=1e-9)
    weight = (
        linear(model, BERT, 0, "up").weight[7].square().sum()
        + linear(model, BERT, 0, "down").weight[:, 7].square().sum()
    )
    assert float(magnitude(checkpoint.encoder)[0].columns[7]) == pytest.approx(weight.item(), rel=1e-5)


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "fill-mask", "feature-extraction"])
def test_every_task_has_scores(task: Any, tmp_path: Path) -> None:
    model = make_model(BERT, task)
    checkpoint = load_checkpoint(save(model, tmp_path), task=task)
    data = calibration(model, batches=2)
    if task == "text-classification":
        batches = tuple(batch | {"labels": torch.tensor([0, 2, 1])} for batch in data.batches)
        data = replace(data, batches=batches)
    oracle = load_oracle(checkpoint)
    scores = fisher(gradients_of(checkpoint, oracle, data))
    assert all(float(part.heads.min()) > 0 and float(part.columns.min()) > 0 for part in scores)
    again = fisher(gradients_of(checkpoint, oracle, data))
    assert torch.equal(scores[0].heads, again[0].heads)


# --- selection --------------------------------------------------------------------------------------------------------

NUMBERS = st.floats(0.01, 1.0).map(lambda value: round(value, 4))


def layer_scores(heads: list[float], columns: list[float]) -> LayerScores:
    return LayerScores(torch.tensor(heads, dtype=torch.float64), torch.tensor(columns, dtype=torch.float64))


SMALL = st.builds(layer_scores, st.lists(NUMBERS, min_size=2, max_size=2), st.lists(NUMBERS, min_size=3, max_size=3))


def kept_score(scores: list[LayerScores], kept: Any) -> float:
    return sum(
        float(part.heads[list(heads)].sum() + part.columns[list(columns)].sum())
        for part, (heads, columns) in zip(scores, kept, strict=True)
    )


def best_by_trying(scores: list[LayerScores], costs: Costs, budget: float) -> float:
    """Every subset of units."""
    best = -1.0
    heads_of = [part.heads.tolist() for part in scores]
    columns_of = [part.columns.tolist() for part in scores]
    subsets = [[s for n in range(size + 1) for s in itertools.combinations(range(size), n)] for size in (2, 3)]
    one_layer = list(itertools.product(*subsets))
    for kept in itertools.product(one_layer, repeat=len(scores)):
        counts = tuple((len(heads), len(columns)) for heads, columns in kept)
        if costs.total(counts) <= budget:
            parts = zip(heads_of, columns_of, kept, strict=True)
            best = max(best, sum(sum(h[i] for i in a) + sum(c[i] for i in b) for h, c, (a, b) in parts))
    return best


@given(st.lists(SMALL, min_size=2, max_size=2), st.floats(0.0, 1.0), st.sampled_from([1.0, 2.5, 7.0]))
@settings(max_examples=15)
def test_selection_by_numbers_is_the_best_of_all(scores: list[LayerScores], fraction: float, head: float) -> None:
    costs = Costs("", 4 * head + 6, 0.0, ((0.0, head, 2 * head),) * 2, ((0.0, 1.0, 2.0, 3.0),) * 2)
    budget = fraction * costs.dense
    kept = select(scores, costs, budget)
    assert costs.total(tuple((len(heads), len(columns)) for heads, columns in kept)) <= budget
    assert kept_score(scores, kept) == pytest.approx(best_by_trying(scores, costs, budget))


@given(st.lists(SMALL, min_size=2, max_size=2), st.integers(2, 20))
@settings(max_examples=15)
def test_selection_from_a_table_is_the_best_of_all(scores: list[LayerScores], budget: int) -> None:
    """Prices with a fixed part for a block that is there at all, so that whole blocks go."""
    costs = Costs("ms", 22.0, 2.0, ((0.0, 3.0, 4.0), (0.0, 2.0, 5.0)), ((0.0, 3.0, 3.0, 5.0), (0.0, 1.0, 4.0, 6.0)))
    kept = select(scores, costs, float(budget))
    assert costs.total(tuple((len(heads), len(columns)) for heads, columns in kept)) <= budget
    # Prices are rounded up to parts of the budget: what fits in a hair less is found for certain.
    assert kept_score(scores, kept) >= best_by_trying(scores, costs, budget - 0.01) - 1e-9
    assert kept_score(scores, kept) <= best_by_trying(scores, costs, budget) + 1e-9


def test_selection_respects_its_rules() -> None:
    scores = [layer_scores([1, 2], [1, 2, 3, 4]), layer_scores([0.1, 0.1], [0.1, 0.1, 0.1, 0.1])]
    costs = Costs("", 24.0, 0.0, ((0.0, 4.0, 8.0),) * 2, ((0.0, 1.0, 2.0, 3.0, 4.0),) * 2)
    assert select(scores, costs, 12.0)[1] == ((), ())
    kept = select(scores, costs, 18.0, Rules(align=2, drop_blocks=False))
    assert [len(part) for part in kept[1]] == [1, 2]
    assert select(scores, costs, 12.0, Rules(keep_layers=frozenset({1})))[1] == ((0, 1), (0, 1, 2, 3))
    with pytest.raises(UsageError, match=r"cannot be met: the least that is left here is 12 \(0\.5\)"):
        select(scores, costs, 11.0, Rules(keep_layers=frozenset({1})))


@pytest.mark.parametrize("kind", ["flops", "parameters"])
@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_budgets_are_met_and_used(case: FamilyCase, kind: str, tmp_path: Path) -> None:
    """Counted on the slim network; one more of the smallest unit would be too much."""
    _, checkpoint = saved(case, tmp_path, seed=3)
    encoder = checkpoint.encoder
    for fraction in (1.0, 0.8, 0.55, 0.3):
        costs = flops_costs(encoder, sequence_length=30) if kind == "flops" else parameter_costs(encoder)
        kept = select(magnitude(encoder), costs, fraction * costs.dense)
        network = cut(unpruned(encoder), kept)
        slim = operate(network.encoder, prune_export.inspection.plan_from_zeros(network.encoder))
        assert costs.total(counts_of(slim)) == pytest.approx(counted(slim, kind))
        assert counted(slim, kind) <= fraction * costs.dense
        if fraction < 1:
            everything = all(count == 20 for _, count in counts_of(slim))
            smallest = costs.heads[0][1] if everything else costs.columns[0][1]
            assert counted(slim, kind) + smallest > fraction * costs.dense


def counted(encoder: Encoder, kind: str) -> int:
    if kind == "parameters":
        return layer_parameters(encoder)
    shapes = tuple(layer_shape(layer) for layer in encoder.layers)
    return flops_per_token(shapes, hidden_size=encoder.hidden_size, sequence_length=30)


def test_the_ladder_has_the_same_rungs_for_every_budget() -> None:
    assert ladder(0.8) == (0.8,)
    assert ladder(0.7) == (0.8, 0.7)
    assert ladder(0.6) == (0.8, 0.6)
    assert ladder(0.5) == (0.65, 0.5)
    assert ladder(0.3) == (0.65, 0.65**2, 0.3)
    assert ladder(0.6, gradual=False) == (0.6,)
    assert ladder(0.3, gradual=False) == (0.3,)


# --- rearrangement ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=20)
def test_rearrangement_never_loses_more(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(30, 7, generator=generator) @ torch.randn(7, 7, generator=generator)
    diagonal = gradients.square().mean(dim=0)
    keep = tuple(sorted(diagonal.topk(count).indices.tolist()))
    found = rearrange(gradients, keep)
    assert len(found) == count
    assert lost(gradients, found) <= lost(gradients, keep) * (1 + 1e-6)


def test_rearrangement_sees_what_cancels() -> None:
    """Two units whose gradients cancel are cheap together; the diagonal only sees that each is dear."""
    generator = torch.Generator().manual_seed(0)
    one, other, third = torch.randn(3, 200, generator=generator)
    gradients = torch.stack([one, -1.1 * one, other, 1.5 * third], dim=1)
    keep = (1, 3)  # what the diagonal says
    assert tuple(sorted(gradients.square().mean(dim=0).topk(2).indices.tolist())) == keep
    assert rearrange(gradients, keep) == (2, 3)
    assert lost(gradients, (2, 3)) < 0.02 * lost(gradients, keep)


# --- reconstruction ---------------------------------------------------------------------------------------------------


def test_least_squares_is_numpys() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(50, 4)), rng.normal(size=(50, 3))
    weights = rng.uniform(0.1, 1, size=50)
    sums = Sums(4, 3)
    for part in (slice(0, 20), slice(20, 50)):
        sums.add(*(torch.tensor(values[part]) for values in (features, targets, weights)))
    root = np.sqrt(weights)[:, None]
    with_one = np.hstack([features, np.ones((50, 1))])
    expected = np.linalg.lstsq(with_one * root, targets * root, rcond=None)[0].T
    start = torch.zeros(3, 5, dtype=torch.float64)
    found = ridge_regression(sums, start, 1e-12)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)
    residual = (targets - with_one @ expected.T) * root
    assert sums.error(found) == pytest.approx((residual**2).sum(), rel=1e-8)
    assert sums.error(start) == pytest.approx(((targets * root) ** 2).sum(), rel=1e-8)


def test_scales_are_numpys() -> None:
    rng = np.random.default_rng(1)
    features, targets = rng.normal(size=(60, 6)), rng.normal(size=(60, 3))
    weight, bias = rng.normal(size=(3, 6)), rng.normal(size=3)
    sums = Sums(6, 3)
    sums.add(torch.tensor(features), torch.tensor(targets), torch.ones(60, dtype=torch.float64))
    parts = np.stack([features[:, 2 * u : 2 * u + 2] @ weight[:, 2 * u : 2 * u + 2].T for u in range(3)], axis=-1)
    expected = np.linalg.lstsq(parts.reshape(-1, 3), (targets - bias).reshape(-1), rcond=None)[0]
    start = torch.tensor(np.hstack([weight, bias[:, None]]))
    found = unit_scales(2)(sums, start, 1e-12)[:, :-1].numpy() / weight
    np.testing.assert_allclose(found, np.broadcast_to(np.repeat(expected, 2), (3, 6)), atol=1e-8)


@given(st.integers(0, 1000), st.integers(3, 12))
@settings(max_examples=20)
def test_a_fit_never_raises_the_held_out_error(seed: int, rows: int) -> None:
    """Fewer rows than features, and noise only: most fits must be refused."""
    generator = torch.Generator().manual_seed(seed)
    train, check = Sums(8, 2), Sums(8, 2)
    for sums in (train, check):
        sums.add(*(torch.randn(rows, size, generator=generator) for size in (8, 2)), torch.ones(rows))
    start = torch.zeros(2, 9, dtype=torch.float64)
    found = fit(train, check, start, ridge_regression)
    assert found.after <= found.before
    assert check.error(found.weight) <= check.error(start)
    if not found.accepted:
        assert torch.equal(found.weight, start)


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_what_can_be_made_up_for_is_made_up_for(case: FamilyCase, tmp_path: Path) -> None:
    """Columns that stand twice: one of each pair may go, and the other takes over its outgoing weights."""
    model, checkpoint = saved(case, tmp_path)
    dense = map_layers(checkpoint.encoder, lambda _, layer: replace(layer, feed_forward=_twice(layer.feed_forward)))
    half = tuple((tuple(range(4)), tuple(range(10))) for _ in distinct_layers(dense))
    pruned = cut(unpruned(dense), half).encoder
    data = calibration(model, batches=10, rows=4)
    refitted, fits = reconstruct(dense, pruned, data.batches)
    assert all(part.after <= part.before for part in fits)
    inputs = example_inputs(model, seed=99)
    reference, before, after = (
        torch_outputs(module_of(checkpoint, encoder), encoder, inputs) for encoder in (dense, pruned, refitted)
    )
    assert largest_difference(reference, before) > 0.05
    assert largest_difference(reference, after) < 0.1 * largest_difference(reference, before)


def _twice(block: Any) -> FeedForward:
    assert isinstance(block, FeedForward)
    up, down = block.up, block.down
    return FeedForward(
        Linear(torch.cat([up.weight[:10]] * 2), torch.cat([up.bias[:10]] * 2)),
        block.activation,
        Linear(torch.cat([0.1 * down.weight[:, :10], 0.1 * down.weight[:, 10:]], dim=1), down.bias),
    )


def test_without_reconstruction_nothing_changes(tmp_path: Path) -> None:
    model, checkpoint = saved(BERT, tmp_path)
    found, fits = reconstruct(checkpoint.encoder, checkpoint.encoder, calibration(model).batches, method="none")
    assert found is checkpoint.encoder
    assert fits == ()


# --- whole ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fisher", "random"])
@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_masked_slim_and_onnx_agree(case: FamilyCase, method: Any, tmp_path: Path) -> None:
    """What was refitted is in the masked checkpoint, and the Hugging Face model computes what the cut network does."""
    model, checkpoint = saved(case, tmp_path / "dense")
    pruner = Pruner(checkpoint, calibration(model), Settings(method=method))
    costs = flops_costs(checkpoint.encoder, sequence_length=17)
    steps = pruner.prune(Budget("flops", 0.4), costs, 0.4)
    assert len(steps) == (2 if method == "fisher" else 1)
    network = steps[-1].network
    weights = read_weights(tmp_path / "dense", checkpoint.family.prefix)
    changed = full_size_tensors(checkpoint, weights, network)
    write_masked(checkpoint, network.plan, tmp_path / "masked", changed=changed, method=method)
    found = inspect(tmp_path / "masked")
    assert found.checkpoint.form == "masked"
    inputs = example_inputs(model, seed=5)
    masked = torch_outputs(load_oracle(found.checkpoint), found.slim, inputs)
    cut_down = torch_outputs(module_of(checkpoint, network.encoder), found.slim, inputs)
    slim = torch_outputs(module_of(found.checkpoint, found.slim), found.slim, inputs)
    for outputs in (cut_down, slim, onnx_outputs(found.slim, inputs, tmp_path)):
        assert largest_difference(masked, outputs) < 2e-5
    assert largest_difference(torch_outputs(model, checkpoint.encoder, inputs), masked) > 1e-3
    assert costs.total(counts_of(found.slim)) <= 0.4 * costs.dense


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
        assert 0.95 * result.budget.value < result.cost / result.dense <= result.budget.value
        record = json.loads((result.folder / "pruning.json").read_text(encoding="utf-8"))
        assert record["method"] == "fisher"
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
    found = read_calibration([questions, other], checkpoint, samples=100, seed=0)
    assert (found.name, found.samples) == ("train.json, other.json", 48)
    one, two = (read_calibration(sources, checkpoint, samples=100, seed=0) for sources in (questions, [questions]))
    assert one.digest == two.digest != found.digest
    other.write_text(SST, encoding="utf-8")
    with pytest.raises(DataError, match="is for text-classification"):
        read_calibration([questions, other], checkpoint, samples=8, seed=0)


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
    assert main(["prune", *words, *arguments, "--samples", "8"]) == 0
    result = json.loads(capsys.readouterr().out)["results"][0]
    assert result["speed"]["predicted_ms"] <= budget
    assert result["speed"]["measured_ms"] > 0
    assert main(["prune", *words, *arguments[:-1], "1e-9", "--overwrite"]) == 2
    assert "cannot be met" in json.loads(capsys.readouterr().out)["error"]


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
    table = latency_table(first_token_network(), sequence_length=8)
    assert [count for count, _ in table.last_heads] == [0, 1, 2, 3, 4]
    assert [count for count, _ in table.last_columns] == [0, 5, 15, 20]
    assert latency_table(first_token_network(), sequence_length=8) == table


def test_a_damaged_table_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _, checkpoint = saved(BERT, tmp_path / "model", num_hidden_layers=1, num_attention_heads=2, intermediate_size=2)
    first = latency_table(checkpoint.encoder, sequence_length=8)
    (path,) = tmp_path.glob("prune-export/latency/*.json")
    assert latency_table(checkpoint.encoder, sequence_length=8) == first
    path.write_text("{", encoding="utf-8")
    latency_table(checkpoint.encoder, sequence_length=8)
    assert json.loads(path.read_text(encoding="utf-8"))["settings"] == first.settings


# --- bad input --------------------------------------------------------------------------------------------------------

SST = "sentence\tlabel\nfine\t1\nbad\t0\n"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "no budget"),
        ({"flops": 1.5}, UsageError, "--flops 1.5: expected a fraction"),
        ({"flops": [0.5, 0.5]}, UsageError, "twice"),
        ({"speedup": 0.5}, UsageError, "--speedup 0.5: expected a factor of 1 or more"),
        ({"flops": 0.5, "method": "best"}, UsageError, "--method best"),
        ({"flops": 0.5, "samples": 1}, UsageError, "--samples 1"),
        ({"flops": 0.5, "keep_layers": [3]}, UsageError, "layers 0 to 2"),
        ({"flops": 0.5, "sequence_length": 65}, UsageError, "expected 1 to 64"),
        ({"flops": 0.1, "keep_layers": [0]}, UsageError, "cannot be met"),
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
