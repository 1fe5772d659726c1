"""L0 gates: the distribution and the Lagrangian by hand, gates on a network against masks by hooks, exact ends."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils import parametrize

import prune_export
from exporters.errors import UsageError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.pruning.costs import flops_costs
from prune_export.pruning.gates import gated, hugging_face_layers
from prune_export.training.methods.l0 import L0Config, L0Gates, L0Target
from prune_export.training.methods.l0_gates import at_test_time, lagrangian, probability_open, sample, target_at
from prune_export.training.run import train
from prune_export.training.stage import layer_modules
from tests.models import DROPOUTS, FAMILY_CASES, FamilyCase, example_inputs, make_model, save
from tests.tiny_training import tiny_recipe

# --- formulas ------------------------------------------------------------------------------------------------------------


def test_samples_by_hand() -> None:
    """Louizos et al. 2018, equations 10 and 11, with β = 2/3, γ = -0.1, ζ = 1.1."""
    middle = sample(torch.tensor([0.0]), torch.tensor([0.5]))
    assert middle.item() == pytest.approx(0.5)  # s = 1/2, stretched to 1/2 · 1.2 - 0.1
    # u = 0.9: logit log 9; log α = -log 9 cancels it. u = 0.8, log α = log 2: s = sigmoid(1.5 · log 8).
    s = 8**1.5 / (1 + 8**1.5)
    found = sample(torch.tensor([-math.log(9), math.log(2)]), torch.tensor([0.9, 0.8]))
    assert found.tolist() == pytest.approx([0.5, min(1.0, s * 1.2 - 0.1)])
    # Stretched beyond the ends, and cut off there: exactly 0, exactly 1.
    assert sample(torch.tensor([-4.0, 4.0]), torch.tensor([0.5, 0.5])).tolist() == [0.0, 1.0]


def test_the_chance_to_be_open_by_hand_and_by_counting() -> None:
    """Equation 12."""
    by_hand = 11 ** (2 / 3) / (1 + 11 ** (2 / 3))  # log α = 0: sigmoid(-2/3 · log(0.1 / 1.1))
    assert probability_open(torch.tensor(0.0)).item() == pytest.approx(by_hand)
    log_alpha = torch.tensor([-3.0, -1.0, 0.5])
    uniform = torch.rand(40_000, 3, generator=torch.Generator().manual_seed(0))
    counted = sample(log_alpha.expand_as(uniform), uniform).ne(0).float().mean(dim=0)
    assert torch.allclose(counted, probability_open(log_alpha), atol=0.01)


def test_gates_at_test_time_by_hand() -> None:
    """Equation 13: 0 up to log α = -log 11, 1 from log 11 on."""
    found = at_test_time(torch.tensor([-math.log(11) - 0.01, 0.0, math.log(3), math.log(11) + 0.01]))
    assert found.tolist() == pytest.approx([0.0, 0.5, 0.75 * 1.2 - 0.1, 1.0])


def test_the_lagrangian_and_its_target_by_hand() -> None:
    found = lagrangian(torch.tensor(0.3), 0.5, torch.tensor([-2.0, 10.0]))
    assert found.item() == pytest.approx(-2 * -0.2 + 10 * 0.04)
    targets = [target_at(step, 100, 0.5, warmup=0.2, cooldown=0.3) for step in (0, 20, 45, 70, 100)]
    assert targets == pytest.approx([0.0, 0.0, 0.25, 0.5, 0.5])
    # Where nothing lies between the first and the last part, the target jumps.
    targets = [target_at(step, 100, 0.5, warmup=0.5, cooldown=0.5) for step in (0, 49, 50, 100)]
    assert targets == [0.0, 0.0, 0.5, 0.5]


# --- on a network --------------------------------------------------------------------------------------------------------


def attached(folder: Path, config: L0Config, target: L0Target, **options: Any) -> tuple[L0Gates, Any, Any]:
    checkpoint = load_checkpoint(folder)
    model = load_reference_model(checkpoint)
    costs = flops_costs(checkpoint.encoder, sequence_length=32)
    settings: dict[str, Any] = {"learning_rate": 0.05, "warmup": 0.0, "cooldown": 0.3, "seed": 3} | options
    method = L0Gates(config, target, costs, **settings)
    method.attach(model, layer_modules(checkpoint, model))
    return method, model, checkpoint


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_gates_multiply_contexts_and_activations(case: FamilyCase, tmp_path: Path) -> None:
    """The oracle multiplies by hooks, where McCarley et al. put their gates."""
    original = make_model(case, case.task, **dict.fromkeys(DROPOUTS, 0.0))
    method, model, checkpoint = attached(save(original, tmp_path), L0Config(initial_log_alpha=0.3), L0Target(flops=0.5))
    method.set_step(5, 100)
    model.train()  # gates are drawn; there is no dropout
    inputs = example_inputs(model)
    values = [part.gates.values().detach() for part in method._gated]
    untouched = load_reference_model(checkpoint)
    with torch.no_grad():
        found = model(**inputs)[0]
        with gated(hugging_face_layers(checkpoint, untouched)) as hooks:
            factors = hooks.open(len(inputs["input_ids"]))
            for factor, value in zip(factors, values, strict=True):
                factor.copy_(value.expand_as(factor))
            expected = untouched(**inputs)[0]
        dense = untouched(**inputs)[0]
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, dense, atol=1e-3)


def test_a_step_draws_the_same_whatever_was_drawn_before(tmp_path: Path) -> None:
    folder = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path)
    one, _, _ = attached(folder, L0Config(), L0Target(flops=0.5))
    other, _, _ = attached(folder, L0Config(), L0Target(flops=0.5))
    one.set_step(7, 100)
    first = [part.gates.uniform for part in one._gated]
    torch.rand(10)
    other.set_step(6, 100)
    assert not torch.equal(other._gated[0].gates.uniform, first[0])
    other.set_step(7, 100)
    assert all(torch.equal(part.gates.uniform, seen) for part, seen in zip(other._gated, first, strict=True))


def test_gates_may_begin_in_the_order_of_their_worth(tmp_path: Path) -> None:
    folder = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path)
    method, _, _ = attached(folder, L0Config(initial_log_alpha=2.0), L0Target(flops=0.5))
    units = [(torch.linspace(-1, 1, 4) + place, torch.linspace(1, -1, 20) * place) for place in range(3)]
    method.add_to_log_alpha(units)
    for part in method._gated:
        wanted = 2.0 + units[part.layer][0 if part.kind == "heads" else 1]
        assert torch.equal(part.gates.log_alpha, wanted)
    best = method.kept()
    assert best[2][1] == tuple(range(len(best[2][1])))  # the first columns of the last layer are worth most
    assert len(best[0][0]) < len(best[2][0])


def test_the_expected_flops_by_hand(tmp_path: Path) -> None:
    folder = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path)
    method, _, _ = attached(folder, L0Config(), L0Target(flops=0.5))
    for part in method._gated:
        part.gates.log_alpha.data.fill_(-50.0)
    method._gated[0].gates.log_alpha.data[1] = 50.0  # one head of three layers of four
    # 24 hidden, heads of 6: 2 · (4 · 24 · 6) + 2 · 2 · 32 · 6 for scores and contexts; columns 2 · 2 · 24.
    head, column = 2 * 4 * 24 * 6 + 4 * 32 * 6, 4 * 24
    assert method.statistics()["flops_left"] == pytest.approx(head / (3 * (4 * head + 20 * column)), rel=1e-4)
    assert method.statistics()["heads_left"] == pytest.approx(1.0, rel=1e-4)


def test_the_multipliers_bring_the_network_to_its_target(tmp_path: Path) -> None:
    """Without a task, by the contract's parameter groups alone."""
    folder = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path)
    method, _, _ = attached(folder, L0Config(), L0Target(flops=0.4), learning_rate=0.1)
    groups = [
        {"params": list(group.parameters), "lr": group.learning_rate, "maximize": group.maximize}
        for group in method.parameter_groups()
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    for step in range(300):
        method.set_step(step, 300)
        optimizer.zero_grad()
        method.penalty().backward()
        optimizer.step()
    assert method.statistics()["flops_left"] == pytest.approx(0.4, abs=0.03)
    assert method.statistics()["flops_target"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("config", "target"),
    [
        (L0Config(), L0Target(flops=0.5)),
        (L0Config(blocks="feed_forward"), L0Target(flops=0.8)),
        (L0Config(blocks="attention"), L0Target(flops=0.8)),
        (L0Config(), L0Target(heads=0.5, columns=0.25)),
        (L0Config(constraint="penalty"), L0Target()),
    ],
    ids=["jointly", "feed-forward", "attention", "separately", "as the gates are"],
)
def test_what_is_folded_is_exactly_the_budget(config: L0Config, target: L0Target, tmp_path: Path) -> None:
    folder = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path / "model")
    method, model, checkpoint = attached(folder, config, target)
    before = {name: value.clone() for name, value in load_reference_model(checkpoint).state_dict().items()}
    torch.manual_seed(0)
    for part in method._gated:
        part.gates.log_alpha.data.normal_(0.0, 3.0)
    kept = method.kept()
    method.apply_masks()
    assert set(model.state_dict()) == set(before)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.save_pretrained(tmp_path / "folded")
    found = load_checkpoint(tmp_path / "folded")
    plan = prune_export.inspect(tmp_path / "folded").plan.layers
    costs = flops_costs(found.encoder, sequence_length=32)
    counts = tuple((len(layer.heads), len(layer.columns)) for layer in plan)
    for layer, (heads, columns) in zip(plan, kept, strict=True):  # gates that are 0 at test time go in any case
        assert set(layer.heads) <= set(heads)
        assert set(layer.columns) <= set(columns)
    if target.flops is not None:
        wanted = tuple((len(heads), len(columns)) for heads, columns in kept)
        assert costs.total(wanted) <= target.flops * costs.dense
        assert costs.total(wanted) > target.flops * costs.dense - costs.heads[0][1]
    elif target.separate:
        assert sum(len(heads) for heads, _ in kept) == 6
        assert sum(len(columns) for _, columns in kept) == 15
    else:
        assert counts == tuple((len(heads), len(columns)) for heads, columns in kept)
        assert 0 < sum(heads for heads, _ in counts) < 12
    # Gone units leave no weight and no bias behind; gates between 0 and 1 are in the weights.
    state = model.state_dict()
    for index, layer in enumerate(plan):
        path = f"bert.encoder.layer.{index}"
        gone = [column for column in range(20) if column not in layer.columns]
        assert state[f"{path}.intermediate.dense.weight"][gone].eq(0).all()
        assert state[f"{path}.intermediate.dense.bias"][gone].eq(0).all()
        assert state[f"{path}.output.dense.weight"][:, gone].eq(0).all()
        stay = list(layer.columns)
        assert torch.equal(
            state[f"{path}.intermediate.dense.weight"][stay], before[f"{path}.intermediate.dense.weight"][stay]
        )
    if config.blocks == "feed_forward":
        assert all(heads == 4 for heads, _ in counts)
    if config.blocks == "attention":
        assert all(columns == 20 for _, columns in counts)
    assert method.statistics() == pytest.approx(
        {
            "heads_left": sum(heads for heads, _ in counts),
            "columns_left": sum(columns for _, columns in counts),
            "flops_left": costs.total(counts) / costs.dense,
        }
    )


# --- whole trainings -----------------------------------------------------------------------------------------------------

L0 = {"kind": "l0", "retrain_steps": 3}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_gates_on_a_frozen_network_then_retraining(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    recipe = tiny_recipe(
        tmp_path,
        method=L0,
        budget={"flops": 0.5},
        distillation={"weight": 0.5},
        schedule={"steps": 8},
        optimiser={"score_learning_rate": 0.3},
        trainer={"logging_steps": 1, "save_steps": 2},
    )
    result = train(recipe, keep_checkpoints=True)
    kept = result.summary.flops_after[40] / result.summary.flops_before[40]
    assert kept <= 0.5
    before = load_file(tmp_path / "model/model.safetensors")
    gates = load_file(tmp_path / "run/stages/01-gates/model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(gates[name], before[name])  # frozen
    assert not torch.equal(load_file(result.final / "model.safetensors")[name], before[name])  # retrained
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    gate_lines = [line for line in lines if line["stage"] == "01-gates" and "loss" in line]
    assert {"heads_left", "columns_left", "flops_left", "flops_target", "flops_lambda_1", "loss_penalty"} <= set(
        gate_lines[0]
    )
    assert "loss_logits" not in gate_lines[0]  # distillation is for retraining
    assert any("loss_logits" in line for line in lines)
    # The gates' noise is that of the step: going on from a checkpoint ends in the same weights.
    straight = load_file(result.final / "model.safetensors")
    checkpoints = tmp_path / "run/checkpoints/01-gates"
    for path in (result.final, tmp_path / "run/stages/01-gates"):
        shutil.rmtree(path)
    shutil.rmtree(checkpoints / "checkpoint-8")
    shutil.rmtree(tmp_path / "run/checkpoints/02-retraining")
    resumed = train(recipe, resume=True)
    again = load_file(resumed.final / "model.safetensors")
    assert all(torch.equal(again[key], straight[key]) for key in straight)
    # Layers that run twice draw nothing anew, and frozen embeddings do not keep gradients from the gates.
    thrifty = replace(recipe, optimiser=replace(recipe.optimiser, gradient_checkpointing=True))
    found = load_file(train(replace(thrifty, output=str(tmp_path / "thrifty"))).final / "model.safetensors")
    assert all(torch.allclose(found[key], straight[key], atol=1e-5) for key in straight)


def test_gates_together_with_the_weights(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    method = {"kind": "l0", "frozen": False}
    recipe = tiny_recipe(tmp_path, method=method, budget={"heads": 0.5, "columns": 0.5})
    result = train(recipe)
    assert sum(layer.after.heads for layer in result.summary.layers) == 4
    assert sum(layer.after.columns for layer in result.summary.layers) == 24
    before = load_file(tmp_path / "model/model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(load_file(result.final / "model.safetensors")[name], before[name])


def test_a_training_begins_in_the_order_of_the_fisher_information(tmp_path: Path) -> None:
    """Six steps at 0.05 move no gate far: at the end they lie as far apart as they were put."""
    pytest.importorskip("accelerate")
    spreads = {}
    for initial in ("fisher", "constant"):
        method = {"kind": "l0", "initial": initial, "initial_spread": 20.0, "initial_samples": 8}
        recipe = tiny_recipe(tmp_path, output=str(tmp_path / initial), method=method, budget={"flops": 0.5})
        train(recipe, keep_checkpoints=True)
        (saved,) = (tmp_path / initial / "checkpoints/01-gates").glob("checkpoint-6/model.safetensors")
        gates = torch.cat([value for name, value in load_file(saved).items() if name.endswith("log_alpha")])
        spreads[initial] = float(gates.max() - gates.min())
    assert spreads["fisher"] == pytest.approx(40.0, abs=2.0)
    assert spreads["constant"] < 2.0


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"budget": {"flops": 0.5}, "method": {"kind": "l0", "initial_samples": 1}},
            "method.initial_samples: expected a whole number of 2 or more",
        ),
        (
            {"budget": {"flops": 0.5}, "method": {"kind": "l0", "initial_spread": -1.0}},
            "method.initial_spread: expected a number of 0 or more",
        ),
        ({}, "a Lagrangian needs a target"),
        ({"budget": {"flops": [0.5, 0.3]}}, "l0 gates lead to one budget"),
        ({"budget": {"flops": 0.5, "heads": 0.5}}, "expected either flops or heads; found both"),
        ({"budget": {"flops": 0.0}}, "budget.flops: expected a number above 0"),
        ({"budget": {"flops": 0.1}, "method": {"kind": "l0", "blocks": "attention"}}, "cannot be met"),
    ],
)
def test_bad_recipes(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    with pytest.raises(UsageError, match=message):
        train(tiny_recipe(tmp_path, **{"method": L0} | sections))
