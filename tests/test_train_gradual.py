"""Gradual pruning: the way to the budgets, slim networks at full size and back, steps, whole runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import prune_export
from exporters.errors import UsageError
from exporters.tasks import Task
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.checkpoint.weights import read_weights
from prune_export.data.features import Feature
from prune_export.progress import SILENT
from prune_export.slim_model.model import slim_module
from prune_export.training.features import Collator
from prune_export.training.importance import one_window_each, training_calibration
from prune_export.training.methods import stages_of
from prune_export.training.methods.gradual import flops_schedule
from prune_export.training.network import full_size_weights, remaining_network, with_weights_of
from prune_export.training.run import make_context, train
from tests.comparing import largest_difference, torch_outputs
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, linear, make_model, save
from tests.tiny_training import checkpoint_folder, tiny_recipe

GRADUAL = {"kind": "gradual", "step": 0.75, "recovery_steps": 2, "samples": 24}

# --- the way -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budgets", "step", "expected"),
    [
        ([0.5], 0.5, [(0.5, True)]),
        ([0.5], 0.8, [(0.5**0.25, False), (0.5**0.5, False), (0.5**0.75, False), (0.5, True)]),
        ([0.25, 0.5], 0.6, [(0.5**0.5, False), (0.5, True), (0.5**1.5, False), (0.25, True)]),
        ([0.9, 0.8], 0.5, [(0.9, True), (0.8, True)]),
    ],
)
def test_rungs_by_hand(budgets: list[float], step: float, expected: list[tuple[float, bool]]) -> None:
    found = flops_schedule(budgets, step)
    assert [part for _, part in found] == [part for _, part in expected]
    assert [part for part, _ in found] == pytest.approx([part for part, _ in expected])


@pytest.mark.parametrize("budgets", [[], [0.0], [1.0], [0.5, 0.5], [1.2]])
def test_budgets_that_are_none(budgets: list[float]) -> None:
    with pytest.raises(UsageError, match="expected one or more different fractions between 0 and 1"):
        flops_schedule(budgets, 0.8)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, [None] * 4),
        ({"learning_rates": [2e-4, 4e-4]}, [4e-4, 4e-4, 2e-4, 2e-4]),
        ({"learning_rates": [2e-4, 4e-4], "recovery_learning_rate": 1e-5}, [1e-5, 4e-4, 1e-5, 2e-4]),
        ({"recovery_learning_rate": 1e-5}, [1e-5, None, 1e-5, None]),
    ],
)
def test_each_budget_has_a_learning_rate(keys: dict[str, Any], expected: list[float | None], tmp_path: Path) -> None:
    """They are given in the order of the budgets, here the smaller one first, and hold on the way to them as well."""
    recipe = tiny_recipe(tmp_path, method=GRADUAL | {"step": 0.6} | keys, budget={"flops": [0.25, 0.5]})
    assert [stage.flops_fraction for stage in stages_of(recipe)] == pytest.approx([0.5**0.5, 0.5, 0.5**1.5, 0.25])
    assert [stage.learning_rate for stage in stages_of(recipe)] == expected


def test_another_number_of_learning_rates_is_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, method=GRADUAL | {"learning_rates": [1e-4]}, budget={"flops": [0.25, 0.5]})
    with pytest.raises(UsageError, match=r"learning_rates: expected one per budget of budget\.flops, 2; found 1"):
        stages_of(recipe)


def test_the_window_with_the_answer_stands_for_its_question() -> None:
    def window(example: int, start: int) -> Feature:
        return Feature(example, np.arange(4), np.zeros(4, np.int64), start=start, end=start)

    windows = [window(0, 0), window(0, 3), window(0, 2), window(1, 0), window(1, 0)]  # 0 is [CLS]: no answer here
    assert one_window_each(windows) == [windows[1], windows[3]]


def test_a_seed_decides_the_examples_that_scores_see_and_their_order(tmp_path: Path) -> None:
    def batches(seed: int) -> list[list[list[int]]]:
        context, _ = make_context(tiny_recipe(tmp_path, seed=seed), tmp_path / "head", SILENT)
        found = training_calibration(context, 24)
        assert found.samples == sum(len(batch["input_ids"]) for batch in found.batches) == 24
        return [batch["input_ids"].tolist() for batch in found.batches]

    first = batches(0)
    assert len(first) > 4
    assert batches(0) == first
    other = batches(1)
    assert sorted(row for batch in other for row in batch) != sorted(row for batch in first for row in batch)


@pytest.mark.parametrize(("answers", "decide"), [("data", True), ("network", False)])
def test_whose_answers_decide_what_stays(answers: str, decide: bool, tmp_path: Path) -> None:
    """Scores by the network's own answers are the same whatever the data's answers are."""
    recipe = tiny_recipe(tmp_path, method=GRADUAL | {"answers": answers}, budget={"flops": 0.3, "sequence_length": 40})
    context, _ = make_context(recipe, tmp_path / "head", SILENT)
    moved = tuple(replace(feature, start=3, end=3) for feature in context.features)
    kept = []
    for name, features in (("as-they-are", context.features), ("moved", moved)):
        (stage,) = [stage for stage in stages_of(recipe) if stage.publish]
        assert stage.prepare is not None
        stage.prepare(tmp_path / "model", tmp_path / name, replace(context, features=features))
        record = json.loads((tmp_path / name / "pruning.json").read_text())
        assert record["answers"] == answers
        kept.append(remaining_network(load_checkpoint(tmp_path / name)).plan)
    assert (kept[0] != kept[1]) == decide


# --- slim networks -------------------------------------------------------------------------------------------------------


def holed(case: FamilyCase, task: Task | None = None) -> Any:
    """Heads, columns and whole blocks are gone; single weights of what stands are zero, too."""
    model = make_model(case, task or case.task)
    with torch.no_grad():
        linear(model, case, 0, "attention_output").weight[:, 6:12] = 0
        linear(model, case, 0, "query").weight[:3] = 0  # half of a head's query: it stands
        linear(model, case, 0, "down").weight[:, [1, 5]] = 0
        linear(model, case, 0, "up").weight[2] = 0  # its bias is not: a constant, which stands
        if case.model_type != "albert":
            linear(model, case, 1, "attention_output").weight.zero_()
            linear(model, case, 2, "down").weight.zero_()
    return model


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_there_and_back_again(case: FamilyCase, tmp_path: Path) -> None:
    """The slim network computes what the masked one does; what it is trained to is found at full size."""
    checkpoint = load_checkpoint(save(holed(case), tmp_path / "masked"))
    network = remaining_network(checkpoint)
    assert network.heads[0] == (0, 2, 3)
    gone = (1, 2, 5) if checkpoint.family.is_gated else (1, 5)  # a gate times zero is zero
    assert network.columns[0] == tuple(column for column in range(20) if column not in gone)
    model, oracle = slim_module(checkpoint, network.encoder), load_reference_model(checkpoint)
    model, oracle = slim_module(checkpoint, network.encoder), load_reference_model(checkpoint)
    inputs = example_inputs(oracle)

    def difference(one: Any, other: Any) -> float:
        return largest_difference(*(torch_outputs(part, checkpoint.encoder, inputs) for part in (one, other)))

    assert difference(model, oracle) < 1e-4
    with torch.no_grad():
        for parameter in model.parameters():  # as training does: embeddings, norms and head as well
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert difference(model, oracle) > 0.01
    weights = read_weights(checkpoint.source.folder, checkpoint.family)
    after = with_weights_of(network, model)
    write_masked(checkpoint, after.plan, tmp_path / "out", changed=full_size_weights(checkpoint, weights, after))
    found = load_checkpoint(tmp_path / "out")
    assert difference(model, load_reference_model(found)) < 1e-4
    assert remaining_network(found).plan == network.plan
    query = load_file(tmp_path / "out/model.safetensors")
    name = next(key for key in query if key.endswith(f"{case_path(checkpoint)}.weight"))
    assert query[name][:3].ne(0).all()  # zeros inside a head that stands were weights like others


def case_path(checkpoint: Any) -> str:
    return f"{checkpoint.family.layer(checkpoint.config, 0)}.{checkpoint.family.module('attention.query_weight')}"


# --- whole runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_two_budgets_in_one_run_and_resuming(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    recipe = tiny_recipe(
        tmp_path,
        method=GRADUAL,
        budget={"flops": [0.6, 0.2], "sequence_length": 40},
        distillation={"weight": 0.5, "hidden_weight": 0.1},
        trainer={"save_steps": 2, "logging_steps": 1},
    )
    result = train(recipe, keep_checkpoints=True)
    assert [path.name for path in result.published] == ["flops-0.6", "flops-0.2"]
    for path, budget in zip(result.published, (0.6, 0.2), strict=True):
        summary = prune_export.inspect(path).summary
        kept = summary.flops_after[40] / summary.flops_before[40]
        assert budget - 0.12 < kept <= budget
    straight = load_file(result.final / "model.safetensors")
    published = load_file(result.published[-1] / "model.safetensors")
    assert all(torch.equal(straight[name], published[name]) for name in straight)
    exported = prune_export.export(result.final, tmp_path / "onnx", samples=4)
    assert exported.parity is not None
    assert exported.parity.passed
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert {"loss_task", "loss_logits", "loss_hidden"} <= set(lines[0])
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    assert stages[0] == "01-flops-0.775-on-the-way"
    assert stages[1] == "02-flops-0.6"
    # A run that was killed in its last training: the steps before are not done again, and the end is the same.
    last = tmp_path / "run/checkpoints" / stages[-1]
    for gone in (result.final, result.published[-1], last / "checkpoint-6"):
        shutil.rmtree(gone)
    stamp = (result.published[0] / "model.safetensors").stat().st_mtime_ns
    resumed = train(recipe, resume=True)
    assert (result.published[0] / "model.safetensors").stat().st_mtime_ns == stamp
    again = load_file(resumed.final / "model.safetensors")
    assert all(torch.equal(again[name], straight[name]) for name in straight)


class Listener:
    """Keeps the stages that it is told of, with the number of their parts."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []

    def stage(self, text: str, total: int | None = None) -> None:
        self.stages.append((text, total))

    def advance(self, *_: object) -> None: ...

    def note(self, text: str) -> None: ...

    def pause(self) -> None: ...


def test_whole_blocks_go_and_training_makes_good(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    recipe = tiny_recipe(
        tmp_path,
        method=GRADUAL | {"score": "taylor", "rearrangement": False, "reconstruction": "none", "step": 0.3},
        budget={"flops": 0.3},
        schedule={"steps": 60},
        optimiser={"batch_size": 16, "learning_rate": 3e-3},
    )
    listener = Listener()
    result = train(recipe, progress=listener)
    assert {("Scoring for 0.3", 24), ("Reconstructing at 0.3", 2)} <= set(listener.stages)
    assert any(layer.after.heads == 0 or layer.after.columns == 0 for layer in result.summary.layers)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    record = json.loads((result.final / "pruning.json").read_text())["prepared"]
    assert record["score"] == "taylor"
    assert record["data"]["samples"] == 24


@pytest.mark.parametrize("kind", ["gradual", "l0"])
def test_text_classification(kind: str, tmp_path: Path) -> None:
    """Labels instead of spans; shared layers (ALBERT) are one layer, gates and all."""
    pytest.importorskip("accelerate")
    lines = ["sentence\tlabel", *(f"{'abc' if n % 2 else 'xyz'} {n % 7}\t{n % 2}" for n in range(24))]
    (tmp_path / "sst2.tsv").write_text("\n".join(lines) + "\n")
    case = next(case for case in FAMILY_CASES if case.model_type == "albert")
    checkpoint_folder(tmp_path / "model", "text-classification", case=case, num_labels=2)
    data = {"train": str(tmp_path / "sst2.tsv"), "dataset": "sst2", "max_seq_length": 16, "doc_stride": 0}
    method = GRADUAL if kind == "gradual" else {"kind": "l0", "retrain_steps": 2}
    recipe = tiny_recipe(
        tmp_path,
        data=data,
        method=method,
        budget={"flops": 0.5},
        schedule={"steps": 2},
        distillation={"hidden_weight": 0.1},
    )
    summary = train(recipe).summary
    assert summary.flops_after[40] <= 0.52 * summary.flops_before[40]
    assert len({(layer.after.heads, layer.after.columns) for layer in summary.layers}) == 1


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, "expected one or more different fractions"),
        ({"budget": {"flops": 1.0}}, "expected one or more different fractions"),
        ({"budget": {"flops": 0.05}, "method": GRADUAL | {"keep_layers": [0, 1]}}, "cannot be met"),
        ({"budget": {"flops": 0.5}, "method": GRADUAL | {"keep_layers": [7]}}, "method.keep_layers"),
        ({"budget": {"flops": 0.5}, "method": GRADUAL | {"samples": 0}}, "method.samples"),
        ({"budget": {"flops": 0.5}, "method": GRADUAL | {"align": 0}}, "method.align"),
    ],
)
def test_bad_recipes(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    with pytest.raises(UsageError, match=message):
        train(tiny_recipe(tmp_path, **{"method": GRADUAL} | sections))


def test_stages_see_the_examples_in_orders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short stages would otherwise all be trained on the same first examples of a large data set."""
    pytest.importorskip("accelerate")
    seen: list[list[int]] = []
    original = Collator.__call__

    def noting(self: Collator, features: Any) -> Any:
        seen.append([feature.example for feature in features])
        return original(self, features)

    monkeypatch.setattr(Collator, "__call__", noting)
    method = GRADUAL | {"step": 0.5, "reconstruction": "none", "samples": 4}
    train(tiny_recipe(tmp_path, method=method, budget={"flops": [0.6, 0.4]}, schedule={"steps": 2}))
    first, second = seen[:2], seen[len(seen) // 2 :][:2]
    assert first != second
