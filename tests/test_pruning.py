"""Pruning: every score, choice and refit against something worked out independently."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prune_export
from exporters.axes import take
from exporters.cost import flops_per_token, layer_parameters, layer_shape
from exporters.encoder import Encoder, FeedForward, Linear, map_layers
from exporters.errors import UsageError
from exporters.tasks import Task
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.checkpoint.weights import read_weights
from prune_export.pruning.budget import Budget, target_fractions
from prune_export.pruning.calibration import Calibration
from prune_export.pruning.costs import Costs, counts_of, flops_costs, parameter_costs
from prune_export.pruning.gates import gated, hugging_face_layers
from prune_export.pruning.pruned_network import full_size_tensors, keep_units, unpruned
from prune_export.pruning.pruner import Pruner, PrunerSettings
from prune_export.pruning.rearrangement import rearrange
from prune_export.pruning.reconstruction.layerwise import reconstruct
from prune_export.pruning.reconstruction.least_squares import Moments, fit, ridge_regression, unit_scales
from prune_export.pruning.scores import LayerScores, fisher_scores, gate_gradients, magnitude_scores, taylor_scores
from prune_export.pruning.selection import Rules, select
from prune_export.slim_model.model import slim_module
from prune_export.surgeon import operate
from prune_export.tasks import SPECS
from prune_export.verbs.inspect import inspect
from tests.comparing import largest_difference, onnx_outputs, torch_outputs
from tests.made_scores import NUMBERS, kept_score, layer_scores
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, linear, make_model, save

BERT = FAMILY_CASES[0]


def calibration(model: Any, *, batches: int = 6, rows: int = 3, length: int = 17) -> Calibration:
    """Random tokens with random answers that are no padding."""
    found = []
    for seed in range(batches):
        batch = example_inputs(model, batch=rows, length=length, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.multinomial(batch["attention_mask"].float(), 1, generator=generator)[:, 0] for _ in range(2)]
        labels = {"start_positions": drawn[0], "end_positions": drawn[1], "labels": drawn[0] % 3}
        found.append(batch | labels)
    return Calibration("random", batches * rows, "", tuple(found))


def saved(
    case: FamilyCase, folder: Path, *, task: Task | None = None, seed: int = 0, **changes: Any
) -> tuple[Any, Checkpoint]:
    model = make_model(case, task or case.task, seed=seed, **changes)
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


# DeBERTa's first norms compute in float32, whatever the model does.
@pytest.mark.parametrize("case", [case for case in FAMILY_CASES if case.model_type != "deberta"], ids=str)
def test_gradients_are_those_of_scaled_weights(case: FamilyCase, tmp_path: Path) -> None:
    """A gate scales a unit's outgoing weights: finite differences of each sample's loss, alone in its batch."""
    labelled: Task = "question-answering" if "question-answering" in case.tasks else "text-classification"
    model, checkpoint = saved(case, tmp_path, task=labelled)
    model = model.double()
    data = calibration(model, batches=1)
    found = gradients_of(checkpoint, model, data)
    batch = data.batches[0]
    # EuroBERT's norms compute in float32, whatever the model does, and ModernBERT's rotation.
    step, within = (5e-3, 1e-4) if case.model_type == "eurobert" else (1e-3, 1e-6)
    shared = case.model_type == "albert"

    def losses() -> list[float]:
        values = []
        for row in range(3):
            one = {name: value[row : row + 1] for name, value in batch.items()}
            outputs = model(**{name: one[name] for name in checkpoint.encoder.inputs})
            values.append(float(SPECS[checkpoint.task].sample_losses(outputs, one, torch.Generator())))
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
        assert torch.allclose(gradient.double(), expected.double(), rtol=2e-3, atol=within), (layer, name)


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
    np.testing.assert_allclose(fisher_scores(found)[1].heads.numpy(), (heads**2).sum(axis=0) / 18, rtol=1e-9)
    np.testing.assert_allclose(taylor_scores(found)[1].heads.numpy(), np.abs(heads).sum(axis=0) / 18, rtol=1e-9)
    weight = (
        linear(model, BERT, 0, "up").weight[7].square().sum()
        + linear(model, BERT, 0, "down").weight[:, 7].square().sum()
    )
    assert float(magnitude_scores(checkpoint.encoder)[0].columns[7]) == pytest.approx(weight.item(), rel=1e-5)


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "fill-mask", "feature-extraction"])
def test_every_task_has_scores(task: Any, tmp_path: Path) -> None:
    model = make_model(BERT, task)
    checkpoint = load_checkpoint(save(model, tmp_path), task=task)
    data = calibration(model, batches=2)
    if task == "text-classification":
        batches = tuple(batch | {"labels": torch.tensor([0, 2, 1])} for batch in data.batches)
        data = replace(data, batches=batches)
    oracle = load_reference_model(checkpoint)
    scores = fisher_scores(gradients_of(checkpoint, oracle, data))
    assert all(float(part.heads.min()) > 0 and float(part.columns.min()) > 0 for part in scores)
    again = fisher_scores(gradients_of(checkpoint, oracle, data))
    assert torch.equal(scores[0].heads, again[0].heads)


# --- selection --------------------------------------------------------------------------------------------------------

SMALL = st.builds(layer_scores, st.lists(NUMBERS, min_size=2, max_size=2), st.lists(NUMBERS, min_size=3, max_size=3))


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
        kept = select(magnitude_scores(encoder), costs, fraction * costs.dense)
        network = keep_units(unpruned(encoder), kept)
        slim = operate(network.encoder, prune_export.checkpoint.inspection.plan_from_zeros(network.encoder))
        assert costs.total(counts_of(slim)) == pytest.approx(counted(slim, kind))
        assert counted(slim, kind) <= fraction * costs.dense
        if fraction < 1:
            everything = all(count == 20 for _, count in counts_of(slim))
            of_block = costs.heads[0] if everything else costs.columns[0]
            smallest = of_block[2] - of_block[1]  # the first one may come with a norm
            assert counted(slim, kind) + smallest > fraction * costs.dense


def counted(encoder: Encoder, kind: str) -> int:
    if kind == "parameters":
        return layer_parameters(encoder)
    shapes = tuple(layer_shape(layer) for layer in encoder.layers)
    return flops_per_token(shapes, hidden_size=encoder.hidden_size, sequence_length=30)


def test_the_ladder_has_the_same_rungs_for_every_budget() -> None:
    assert target_fractions(0.8) == (0.8,)
    assert target_fractions(0.7) == (0.8, 0.7)
    assert target_fractions(0.6) == (0.8, 0.6)
    assert target_fractions(0.5) == (0.65, 0.5)
    assert target_fractions(0.3) == (0.65, 0.65**2, 0.3)
    assert target_fractions(0.6, gradual=False) == (0.6,)
    assert target_fractions(0.3, gradual=False) == (0.3,)


# --- rearrangement ----------------------------------------------------------------------------------------------------


def removal_loss(gradients: torch.Tensor, keep: tuple[int, ...]) -> float:
    """mᵀFm / 2 for the units that are not in `keep`: half the mean square of their summed gradients."""
    removed = np.delete(gradients.double().numpy(), keep, axis=1)
    return float((removed.sum(axis=1) ** 2).mean() / 2)


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=20)
def test_rearrangement_never_loses_more(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(30, 7, generator=generator) @ torch.randn(7, 7, generator=generator)
    diagonal = gradients.square().mean(dim=0)
    keep = tuple(sorted(diagonal.topk(count).indices.tolist()))
    found = rearrange(gradients, keep)
    assert len(found) == count
    assert removal_loss(gradients, found) <= removal_loss(gradients, keep) * (1 + 1e-6)


def test_rearrangement_sees_what_cancels() -> None:
    """Two units whose gradients cancel are cheap together; the diagonal only sees that each is dear."""
    generator = torch.Generator().manual_seed(0)
    one, other, third = torch.randn(3, 200, generator=generator)
    gradients = torch.stack([one, -1.1 * one, other, 1.5 * third], dim=1)
    keep = (1, 3)  # what the diagonal says
    assert tuple(sorted(gradients.square().mean(dim=0).topk(2).indices.tolist())) == keep
    assert rearrange(gradients, keep) == (2, 3)
    assert removal_loss(gradients, (2, 3)) < 0.02 * removal_loss(gradients, keep)


# --- reconstruction ---------------------------------------------------------------------------------------------------


def test_least_squares_is_numpys() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(50, 4)), rng.normal(size=(50, 3))
    weights = rng.uniform(0.1, 1, size=50)
    sums = Moments(4, 3)
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
    sums = Moments(6, 3)
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
    train, check = Moments(8, 2), Moments(8, 2)
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
    half = tuple((tuple(range(4)), tuple(range(10))) for _ in dense.distinct_layers)
    pruned = keep_units(unpruned(dense), half).encoder
    data = calibration(model, batches=10, rows=4)
    refitted, fits = reconstruct(dense, pruned, data.batches)
    assert all(part.after <= part.before for part in fits)
    inputs = example_inputs(model, seed=99)
    reference, before, after = (
        torch_outputs(slim_module(checkpoint, encoder), encoder, inputs) for encoder in (dense, pruned, refitted)
    )
    assert largest_difference(reference, before) > 0.05
    assert largest_difference(reference, after) < 0.1 * largest_difference(reference, before)


def _twice(block: Any) -> FeedForward:
    assert isinstance(block, FeedForward)
    twice = take(block, "intermediate", (*range(10), *range(10)))
    return replace(twice, down=Linear(0.1 * block.down.weight, block.down.bias))


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
    pruner = Pruner(checkpoint, calibration(model), PrunerSettings(method=method))
    costs = flops_costs(checkpoint.encoder, sequence_length=17)
    steps = pruner.prune(Budget("flops", 0.4), costs, 0.4)
    assert len(steps) == (2 if method == "fisher" else 1)
    network = steps[-1].network
    weights = read_weights(tmp_path / "dense", checkpoint.family)
    changed = full_size_tensors(checkpoint, weights, network)
    write_masked(checkpoint, network.plan, tmp_path / "masked", changed=changed, method=method)
    found = inspect(tmp_path / "masked")
    assert found.checkpoint.form == "masked"
    inputs = example_inputs(model, seed=5)
    masked = torch_outputs(load_reference_model(found.checkpoint), found.slim, inputs)
    cut_down = torch_outputs(slim_module(checkpoint, network.encoder), found.slim, inputs)
    slim = torch_outputs(slim_module(found.checkpoint, found.slim), found.slim, inputs)
    for outputs in (cut_down, slim, onnx_outputs(found.slim, inputs, tmp_path)):
        assert largest_difference(masked, outputs) < 2e-5
    assert largest_difference(torch_outputs(model, checkpoint.encoder, inputs), masked) > 1e-3
    assert costs.total(counts_of(found.slim)) <= 0.4 * costs.dense
