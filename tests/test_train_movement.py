"""Movement pruning: masks, scores, schedule and penalty against the papers' equations, worked out here by hand."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import parametrize

from exporters.cost import flops_per_token, layer_shape
from exporters.errors import UsageError
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.pruning.costs import flops_costs
from prune_export.pruning.scores import LayerScores
from prune_export.surgeon.zeros import plan_from_zeros
from prune_export.training.importance import rank_scores
from prune_export.training.methods import stages_of
from prune_export.training.methods.movement import FlopsBudget, MovementConfig, MovementPruning
from prune_export.training.methods.movement_masks import BlockScores, above, cubic, straight_through, top_k
from prune_export.training.recipe import ScheduleSection
from prune_export.training.stage import LayerModules, layer_modules
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, make_model, save
from tests.tiny_training import BERT, SIZES, tiny_recipe

LENGTH = 16


def attached(
    folder: Path, config: MovementConfig, *, budget: float | None = None, case: FamilyCase = BERT, **sizes: Any
) -> tuple[Any, Checkpoint, tuple[LayerModules, ...], MovementPruning]:
    """A network with scores that were drawn at random."""
    checkpoint = load_checkpoint(save(make_model(case, case.task, **sizes), folder))
    model = load_reference_model(checkpoint)
    costs = flops_costs(checkpoint.encoder, sequence_length=LENGTH)
    method = MovementPruning(
        config,
        ScheduleSection(steps=100, warmup=0.1, cooldown=0.3),
        score_learning_rate=0.01,
        sequence_length=LENGTH,
        budget=None if budget is None else FlopsBudget(budget, costs),
    )
    layers = layer_modules(checkpoint, model)
    method.attach(model, layers)
    generator = torch.Generator().manual_seed(0)
    for group in method.parameter_groups():
        for scores in group.parameters:
            scores.data = torch.randn(scores.shape, generator=generator)
    return model, checkpoint, layers, method


# --- formulas -----------------------------------------------------------------------------------------------------------


def test_top_k_keeps_the_highest() -> None:
    scores = torch.tensor([[0.3, -1.0, 2.0], [0.1, 0.2, -0.5]])
    assert top_k(scores, 0.5).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert top_k(scores, 0.7).sum() == 4  # int(4.2)
    assert top_k(scores, 0.0).sum() == 0
    assert top_k(scores, 1.0).sum() == 6


def test_thresholds() -> None:
    scores = torch.tensor([-3.0, -1.0, 0.0, 1.0])
    assert above(scores, -1.0, sigmoid=False).tolist() == [0, 0, 1, 1]
    # sigmoid(-1) = 1 / (1 + e) = 0.2689
    assert above(scores, 1 / (1 + exp(1)) - 1e-4, sigmoid=True).tolist() == [0, 1, 1, 1]
    assert above(scores, 1 / (1 + exp(1)) + 1e-4, sigmoid=True).tolist() == [0, 0, 1, 1]
    assert above(scores, 5.0, sigmoid=False, least=0.005).tolist() == [0, 0, 0, 1]  # int(0.005 * 4) + 1 = 1 stays


def test_the_gradient_of_a_score_is_that_of_its_mask() -> None:
    """Sanh et al. 2020: dL/dS = sum over the block of dL/dW' * W, for masked blocks as well."""
    linear = torch.nn.Linear(4, 4)
    weight = linear.weight.detach().clone()
    scores = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], requires_grad=True)
    mask = straight_through(top_k(scores, 0.5), scores)
    assert mask.tolist() == [[1, 0], [0, 1]]
    x, wanted = torch.randn(3, 4), torch.randn(3, 4)
    blocks = weight.view(2, 2, 2, 2) * mask[:, None, :, None]
    ((blocks.view(4, 4) @ x.T).T * wanted).sum().backward()
    by_hand = (wanted.T @ x) * weight  # dL/dW' = wanted^T x
    expected = torch.stack(
        [torch.stack([by_hand[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].sum() for c in (0, 1)]) for r in (0, 1)]
    )
    assert scores.grad is not None
    assert torch.allclose(scores.grad, expected, atol=1e-5)


def test_the_schedule_is_cubic_between_warm_ups() -> None:
    """Sanh et al. 2020: v_f + (v_i - v_f) (1 - (t - t_i) / (N - t_i - t_f))^3."""

    def value(step: int) -> float:
        return cubic(step, 100, initial=1.0, final=0.2, warmup=0.1, cooldown=0.3)

    assert [value(step) for step in (0, 10, 70, 99, 100)] == [1.0, 1.0, 0.2, 0.2, 0.2]
    assert value(40) == pytest.approx(0.2 + 0.8 * 0.5**3)
    assert value(25) == pytest.approx(0.2 + 0.8 * 0.75**3)
    assert cubic(0, 1, initial=1.0, final=0.2, warmup=0.0, cooldown=0.0) == 1.0
    assert cubic(1, 1, initial=1.0, final=0.2, warmup=0.0, cooldown=0.0) == 0.2


@pytest.mark.parametrize(("kind", "shift"), [("l1", 0.0), ("l0", 2 / 3 * log(0.1 / 1.1))])
def test_the_penalty(tmp_path: Path, kind: Any, shift: float) -> None:
    config = MovementConfig(shape="struct", penalty=kind, penalty_weight=8.0, attention_penalty=3.0)
    _, _, layers, method = attached(tmp_path, config, **SIZES)
    (group,) = method.parameter_groups()
    assert len(group.parameters) == 2 * len(layers)  # heads and columns of each layer, each once
    method.set_step(40, 100)
    attention = [1 / (1 + (-(part.double() - shift)).exp()) for part in group.parameters if len(part) == 4]
    columns = [1 / (1 + (-(part.double() - shift)).exp()) for part in group.parameters if len(part) == 24]
    ramp = 1 - 0.5**3
    mean = [sum(float(part.detach().mean()) for part in parts) / len(parts) for parts in (attention, columns)]
    assert float(method.penalty().detach()) == pytest.approx(
        8.0 * ramp * (0.5 * 3.0 * mean[0] + 0.5 * mean[1]), rel=1e-5
    )
    method.set_step(0, 100)
    assert float(method.penalty()) == 0.0


@pytest.mark.parametrize("budget", [{"heads": 0.5}, {"columns": 0.5}, {"flops": [0.5, 0.4]}])
def test_a_budget_of_another_kind_is_refused(budget: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="movement pruning takes one fraction of FLOPs, or none"):
        stages_of(tiny_recipe(tmp_path, method={"kind": "movement", "shape": "struct"}, budget=budget))


# --- masks on a network -------------------------------------------------------------------------------------------------


def test_struct_masks_whole_heads_and_columns(tmp_path: Path) -> None:
    config = MovementConfig(shape="struct", selection="topk", final_threshold=0.5)
    model, checkpoint, layers, method = attached(tmp_path, config, **SIZES)
    before = {name: value.clone() for name, value in load_reference_model(checkpoint).state_dict().items()}
    method.set_step(100, 100)
    heads, columns = (method.parameter_groups()[0].parameters[place] for place in (0, 1))
    kept_heads = heads.flatten().argsort(descending=True)[:2].tolist()
    kept_columns = columns.flatten().argsort(descending=True)[:12].tolist()
    method.apply_masks()
    first = layers[0]
    assert not parametrize.is_parametrized(first.query.module)
    rows = torch.zeros(32, dtype=torch.bool).view(4, 8)
    rows[kept_heads] = True
    rows = rows.flatten()
    for module, name in ((first.query, "query"), (first.key, "key"), (first.value, "value")):
        old = before[f"{first.path}.attention.self.{name}.weight"], before[f"{first.path}.attention.self.{name}.bias"]
        assert torch.equal(module.weight, old[0] * rows[:, None])
        assert torch.equal(module.bias, old[1] * rows)
    output = before[f"{first.path}.attention.output.dense.weight"]
    assert torch.equal(first.attention_output.weight, output * rows)
    assert torch.equal(first.attention_output.bias, before[f"{first.path}.attention.output.dense.bias"])
    assert first.up.weight.ne(0).any(dim=1).nonzero().flatten().tolist() == sorted(kept_columns)
    assert first.up.bias.ne(0).nonzero().flatten().tolist() == sorted(kept_columns)
    assert first.down.weight.ne(0).any(dim=0).nonzero().flatten().tolist() == sorted(kept_columns)
    assert torch.equal(first.down.bias, before[f"{first.path}.output.dense.bias"])
    assert set(model.state_dict()) == set(before)


@pytest.mark.parametrize("shape", ["hybrid", "block", "unstructured"])
def test_blocks(tmp_path: Path, shape: Any) -> None:
    config = MovementConfig(shape=shape, block=(4, 8), selection="topk", final_threshold=0.25)
    _, _, layers, method = attached(tmp_path, config, **SIZES)
    method.set_step(100, 100)
    found = method.statistics()
    assert found["sparsity"] == pytest.approx(0.75)
    method.apply_masks()
    rows, columns = (1, 1) if shape == "unstructured" else (4, 8)
    for layer in layers:
        blocks = layer.query.weight.view(32 // rows, rows, 32 // columns, columns).ne(0)
        assert torch.equal(blocks.any(dim=3).any(dim=1), blocks.all(dim=3).all(dim=1))  # each whole or gone
        assert blocks.float().mean() == 0.25
        turned = layer.attention_output.weight.view(32 // columns, columns, 32 // rows, rows).ne(0)
        assert torch.equal(turned.any(dim=3).any(dim=1), turned.all(dim=3).all(dim=1))
        assert torch.equal(layer.query.bias.ne(0), layer.query.weight.ne(0).any(dim=1))  # biases follow their rows


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
@pytest.mark.parametrize("shape", ["struct", "hybrid"])
def test_a_budget_is_met_exactly(case: FamilyCase, shape: Any, tmp_path: Path) -> None:
    """What is left, measured on the folded network by the zeros in it, is within one column of the budget."""
    config = MovementConfig(shape=shape, block=(3, 6))
    model, checkpoint, layers, method = attached(tmp_path, config, budget=0.6, case=case)
    method.set_step(40, 100)
    assert method.statistics()["flops_left"] <= 1 - 0.4 * (1 - 0.5**3)
    method.set_step(100, 100)
    figures = method.statistics()
    inputs = example_inputs(model)
    model.eval()
    with torch.no_grad():
        masked = model(**inputs)[0]
        method.apply_masks()
        assert torch.equal(masked, model(**inputs)[0])
    folder = save(model, tmp_path / "folded")
    found = load_checkpoint(folder)
    plan = plan_from_zeros(found.encoder)
    dense = [layer_shape(layer) for layer in checkpoint.encoder.layers]
    left = [
        replace(
            layers[0].shape,
            heads=len(part.heads),
            query_key_size=max((len(part.query_key_dimensions.get(head, range(6))) for head in part.heads), default=0),
            value_size=max((len(part.value_dimensions.get(head, range(6))) for head in part.heads), default=0),
            columns=len(part.columns),
        )
        for part in plan.layers
    ]
    flops = [flops_per_token(tuple(shapes), hidden_size=24, sequence_length=LENGTH) for shapes in (left, dense)]
    column = (6 if found.family.is_gated else 4) * 24 * layers[0].times
    assert 0.6 * flops[1] - column < flops[0] <= 0.6 * flops[1]
    assert figures["flops_left"] == pytest.approx(flops[0] / flops[1])
    if shape == "hybrid":  # blocks inside kept heads go, too
        assert figures["sparsity"] > 0.45


def test_what_a_budget_keeps_is_what_scores_highest(tmp_path: Path) -> None:
    _, _, _, method = attached(tmp_path, MovementConfig(shape="struct"), budget=0.5, **SIZES)
    scores = method.parameter_groups()[0].parameters
    method.set_step(100, 100)
    keep = [layer.query.keep for layer in method._layers] + [layer.up.keep for layer in method._layers]
    values = [layer.query.values for layer in method._layers] + [layer.up.values for layer in method._layers]
    assert len(values) == len(scores)
    kept = torch.cat([value[mask > 0] for value, mask in zip(values, keep, strict=True) if mask is not None])
    gone = torch.cat([value[mask == 0] for value, mask in zip(values, keep, strict=True) if mask is not None])
    assert gone.numel()
    # One level of scores divides them, but for the few units that fill the budget up exactly.
    assert (gone > kept.min()).sum() <= 2


@pytest.mark.parametrize("shape", ["struct", "hybrid"])
def test_scores_may_begin_in_the_order_of_their_worth(shape: Any, tmp_path: Path) -> None:
    """Half of the FLOPs then goes to what one-shot selection would keep."""
    _, checkpoint, layers, method = attached(tmp_path, MovementConfig(shape=shape, block=(8, 8)), budget=0.5, **SIZES)
    costs = flops_costs(checkpoint.encoder, sequence_length=LENGTH)
    generator = torch.Generator().manual_seed(1)
    worth = [
        (torch.rand(4, generator=generator).double(), torch.rand(24, generator=generator).double()) for _ in layers
    ]
    found = [
        LayerScores(heads * costs.heads[place][1], columns * costs.columns[place][1])
        for place, (heads, columns) in enumerate(worth)
    ]
    units = rank_scores(found, costs, 2.0)
    everything = torch.cat([part for pair in units for part in pair])
    assert (everything.min(), everything.max()) == (-2.0, 2.0)
    assert torch.equal(everything.argsort(), torch.cat([part for pair in worth for part in pair]).argsort())
    for group in method.parameter_groups():
        for scores in group.parameters:
            scores.data.zero_()
    method.add_to_scores(units)
    method.set_step(100, 100)
    method.apply_masks()
    kept = [
        [int(head) for head in layer.value.weight.view(4, 8, 32).ne(0).any(dim=2).any(dim=1).nonzero()]
        for layer in layers
    ]
    level = [float(heads[keep].min()) for (heads, _), keep in zip(units, kept, strict=True) if keep]
    gone = [
        float(heads[head])
        for (heads, _), keep in zip(units, kept, strict=True)
        for head in range(4)
        if head not in keep
    ]
    assert gone
    assert min(level) > max(gone)  # one level divides all heads


def test_scores_stand_once_in_the_state_dict(tmp_path: Path) -> None:
    for number, shape in enumerate(("struct", "hybrid")):
        config = MovementConfig(shape=shape, block=(8, 8))  # type: ignore[arg-type]
        model, _, layers, method = attached(tmp_path / str(number), config, budget=0.5, **SIZES)
        names = [name for name in model.state_dict() if name.endswith("scores.values")]
        count = 2 if shape == "struct" else 5
        assert len(names) == count * len(layers)
        parameters = {id(parameter) for parameter in model.parameters()}
        assert {id(part) for part in method.parameter_groups()[0].parameters} <= parameters
        assert len([module for module in model.modules() if isinstance(module, BlockScores)]) == len(names)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="32 × 32 cannot be cut into blocks of 5 × 5"):
        attached(tmp_path / "a", MovementConfig(shape="hybrid", block=(5, 5)), **SIZES)
    with pytest.raises(UsageError, match="expected 'hybrid' or 'struct'"):
        attached(tmp_path / "b", MovementConfig(shape="block"), budget=0.5, **SIZES)
