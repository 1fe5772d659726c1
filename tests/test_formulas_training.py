"""Training's formulas against a few lines of torch and NumPy, and the Hugging Face Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
from transformers import Trainer, TrainingArguments

from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.pruning.costs import flops_costs
from prune_export.tasks import SPECS
from prune_export.training.methods.l0 import L0Config, L0Gates, L0Target
from prune_export.training.methods.movement import FlopsBudget, MovementConfig, MovementPruning
from prune_export.training.recipe import ScheduleSection
from prune_export.training.stage import LayerModules, layer_modules
from prune_export.training.trainer import PruningTrainer
from tests.models import DROPOUTS, FAMILY_CASES, FamilyCase, example_inputs, make_model, save

BERT = FAMILY_CASES[0]
WITHOUT_DROPOUT = dict.fromkeys(DROPOUTS, 0.0)


def network(
    folder: Path, case: FamilyCase = BERT, task: Any = "question-answering"
) -> tuple[Any, Checkpoint, tuple[LayerModules, ...]]:
    made = make_model(case, task, **WITHOUT_DROPOUT)
    checkpoint = load_checkpoint(save(made, folder))
    model = load_reference_model(checkpoint)
    return model, checkpoint, layer_modules(checkpoint, model)


def trainer_of(model: Any, folder: Path, examples: Any, *, method: Any = None, **arguments: Any) -> PruningTrainer:
    settings: dict[str, Any] = {
        "output_dir": str(folder / "run"),
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    arguments = settings | arguments
    return PruningTrainer(
        method=method, objective=None, model=model, args=TrainingArguments(**arguments), train_dataset=examples
    )


def examples_for(model: Any, count: int, task: Any = "question-answering") -> list[dict[str, torch.Tensor]]:
    """Examples of one length, with answers or labels."""
    inputs = example_inputs(model, batch=count + 2)  # the first two are padded
    labels = {"start_positions": torch.arange(count) % 7, "end_positions": 3 + torch.arange(count) % 11}
    if task == "text-classification":
        labels = {"labels": torch.arange(count) % 3}
    return [
        {name: value[row + 2] for name, value in inputs.items()} | {name: value[row] for name, value in labels.items()}
        for row in range(count)
    ]


@pytest.mark.parametrize(
    ("case", "task"),
    [*((case, "text-classification") for case in FAMILY_CASES), (BERT, "question-answering")],
    ids=str,
)
def test_a_step_is_that_of_the_mean_loss(case: FamilyCase, task: str, tmp_path: Path) -> None:
    """Three batches of two make one step: w - η (∇ of the mean loss of all six + decay · w), without decay for biases and
    norms; which those are the Hugging Face Trainer says."""
    model, _, _ = network(tmp_path / "model", case, task)
    reference, _, _ = network(tmp_path / "same", case, task)
    examples = examples_for(model, 6, task)
    rate, decay = 0.1, 0.5
    trainer = trainer_of(
        model,
        tmp_path,
        examples,
        optim="sgd",
        learning_rate=rate,
        weight_decay=decay,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        max_steps=1,
    )
    decayed = Trainer.get_decay_parameter_names(trainer, reference)
    assert 0 < len(decayed) < len(list(reference.parameters()))
    trainer.train()
    reference.train()
    reference(**{name: torch.stack([one[name] for one in examples]) for name in examples[0]}).loss.backward()
    for (name, found), start in zip(model.named_parameters(), reference.parameters(), strict=True):
        step = (0 if start.grad is None else start.grad) + (decay * start if name in decayed else 0)
        torch.testing.assert_close(found, (start - rate * step).detach(), rtol=1e-4, atol=2e-5, msg=name)


def test_only_gates_keep_their_learning_rate(tmp_path: Path) -> None:
    """Weights follow the linear schedule; gates and multipliers learn as fast at the end as at the beginning."""
    model, checkpoint, layers = network(tmp_path / "model")
    costs = flops_costs(checkpoint.encoder, sequence_length=32)
    method = L0Gates(L0Config(), L0Target(flops=0.5), costs, learning_rate=0.25, warmup=0.0, cooldown=0.3, seed=0)
    method.attach(model, layers)
    trainer = trainer_of(
        model, tmp_path, examples_for(model, 2), method=method, learning_rate=0.01, lr_scheduler_type="linear"
    )
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    assert trainer.optimizer is not None
    assert trainer.lr_scheduler is not None
    own = {id(parameter): group for group in method.parameter_groups() for parameter in group.parameters}
    assert {group.name for group in own.values()} == {"gates", "multipliers"}
    for step in range(10):
        for group in trainer.optimizer.param_groups:
            special = {own[id(parameter)].learning_rate for parameter in group["params"] if id(parameter) in own}
            wanted = special.pop() if special else 0.01 * (1 - step / 10)
            assert group["lr"] == pytest.approx(wanted), step
        trainer.optimizer.step()
        trainer.lr_scheduler.step()


def test_movements_scores_follow_the_schedule(tmp_path: Path) -> None:
    model, _, layers = network(tmp_path / "model")
    schedule = ScheduleSection(steps=10)
    method = MovementPruning(MovementConfig(shape="struct"), schedule, score_learning_rate=0.5, sequence_length=16)
    method.attach(model, layers)
    trainer = trainer_of(
        model, tmp_path, examples_for(model, 2), method=method, learning_rate=0.01, lr_scheduler_type="linear"
    )
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    assert trainer.optimizer is not None
    assert trainer.lr_scheduler is not None
    for step in range(10):
        rates = {round(group["lr"] / (1 - step / 10), 9) for group in trainer.optimizer.param_groups}
        assert rates == {0.01, 0.5}
        trainer.optimizer.step()
        trainer.lr_scheduler.step()


def test_a_row_of_a_kept_head_keeps_its_best_block(tmp_path: Path) -> None:
    """Hybrid at an exact budget: of a head that stays, blocks not below the lowest score that stays, and each row's best."""
    model, checkpoint, layers = network(tmp_path / "model")
    costs = flops_costs(checkpoint.encoder, sequence_length=16)
    method = MovementPruning(
        MovementConfig(shape="hybrid", block=(2, 4)),
        ScheduleSection(steps=10),
        score_learning_rate=0.1,
        sequence_length=16,
        budget=FlopsBudget(0.3, costs),
    )
    method.attach(model, layers)
    generator = torch.Generator().manual_seed(0)
    for scores in method.parameter_groups()[0].parameters:
        scores.data = torch.randn(scores.shape, generator=generator)
    method.set_step(10, 10)
    found: list[Any] = []  # of each layer: values and mask of each projection (rows are those of heads), of columns
    for part in method._layers:
        projections = [part.query, part.key, part.value, part.attention_output]
        arrays = [(p.values.detach().numpy(), p.hard().detach().numpy() > 0) for p in projections]
        arrays[3] = (arrays[3][0].T, arrays[3][1].T)
        found.append((arrays, part.up.values.detach().numpy()[:, 0], part.up.hard().detach().numpy()[:, 0] > 0))
    of_head = [np.repeat(np.arange(4), len(values) // 4) for values, _ in found[0][0]]
    kept_scores, lonely = [], 0
    for arrays, columns, stay in found:
        heads = np.stack(
            [[v[of == head].mean() for head in range(4)] for (v, _), of in zip(arrays, of_head, strict=True)]
        )
        alive = [head for head in range(4) if arrays[0][1][of_head[0] == head].any()]
        kept_scores += [*heads.mean(axis=0)[alive], *columns[stay]]
    for arrays, _, _ in found:
        for (values, mask), of in zip(arrays, of_head, strict=True):
            alive = np.array([arrays[0][1][of_head[0] == head].any() for head in of])
            best = values == values.max(axis=1, keepdims=True)
            np.testing.assert_array_equal(mask, ((values >= min(kept_scores) - 1e-12) | best) & alive[:, None])
            lonely += int((alive & (values < min(kept_scores)).all(axis=1)).sum())
    assert lonely > 0  # rows of which nothing would be left


# --- Fisher information by drawn answers -----------------------------------------------------------------------------------


def second_moments(task: Any, outputs: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> np.ndarray:
    """The mean over rows of the squared gradient of each row's loss by its first output, `[size]`."""
    first = next(iter(outputs.values())).requires_grad_()
    SPECS[task].sample_losses(outputs, batch, torch.Generator().manual_seed(0)).sum().backward()
    assert first.grad is not None
    return first.grad.double().square().mean(dim=0).numpy()


def test_drawn_positions_give_the_true_fisher_information() -> None:
    """Kunstner et al. 2019, equation 3: for a categorical distribution p, by logits, the diagonal is p (1 - p)."""
    rows, logits = 40_000, np.array([1.5, 0.0, -1.0, 0.5, 9.0])
    batch = {"attention_mask": torch.tensor([[1, 1, 1, 1, 0]]).repeat(rows, 1)}
    outputs = {name: torch.tensor(logits).float().repeat(rows, 1) for name in ("start_logits", "end_logits")}
    found = second_moments("question-answering", outputs, batch)
    p = np.exp(logits[:4]) / np.exp(logits[:4]).sum()  # the padding, though its logit is the highest, is no answer
    np.testing.assert_allclose(
        found, [*(p * (1 - p) / 4), 0], rtol=0.03
    )  # the loss is half of the start's and the end's
    given = batch | {name: torch.zeros(rows, dtype=torch.long) for name in ("start_positions", "end_positions")}
    by_data = second_moments("question-answering", {name: value.detach() for name, value in outputs.items()}, given)
    np.testing.assert_allclose(by_data, [(1 - p[0]) ** 2 / 4, *(p[1:] ** 2 / 4), 0], rtol=1e-4)


@pytest.mark.parametrize("logits", [[0.3, -1.0, 2.0], [0.7]], ids=["classes", "regression"])
def test_drawn_labels_give_the_true_fisher_information(logits: list[float]) -> None:
    found = second_moments("text-classification", {"logits": torch.tensor(logits).repeat(40_000, 1)}, {})
    p = np.exp(logits) / np.exp(logits).sum()
    expected = p * (1 - p) if len(logits) > 1 else np.array([4.0])  # of (x - y)² with y ~ N(x, 1)
    np.testing.assert_allclose(found, expected, rtol=0.03)
