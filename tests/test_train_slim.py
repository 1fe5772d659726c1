"""Slim checkpoints, sliced ones among them, are trained on as they are, with or without a teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import prune_export
from exporters.errors import CheckpointError, OutputError, TrainingError, UsageError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.slim_writing import write_slim
from prune_export.slicing.bases import spectra
from prune_export.slicing.slicer import slice_network
from prune_export.slicing.widths import widths_by_share
from prune_export.slim_model.model import slim_module
from prune_export.surgeon import operate
from prune_export.surgeon.zeros import plan_from_zeros
from prune_export.training.dry_run import dry_run
from prune_export.training.run import train
from tests.models import FAMILY_CASES, linear, make_model
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer
from tests.tiny_training import SIZES, checkpoint_folder, questions_file, tiny_recipe

TEACHER = {"weight": 0.5}


def slim_folder(folder: Path, *, sliced: bool) -> Path:
    """A network without some of its columns and heads, or on narrow streams, beside its tokenizer."""
    if sliced:
        parent = checkpoint_folder(folder / "parent")
        encoder = load_checkpoint(parent).encoder
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(5, 90, (6, 20), generator=generator)
        batches = [
            {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        ] * 2
        bases = spectra(encoder, batches, sensitivity=0.0)
        slim = slice_network(encoder, encoder, batches, widths_by_share(bases, 0.8), bases=bases)
    else:
        model = make_model(FAMILY_CASES[0], "question-answering", **SIZES)
        with torch.no_grad():
            linear(model, FAMILY_CASES[0], 0, "attention_output").weight[:, :8] = 0
            linear(model, FAMILY_CASES[0], 1, "down").weight[:, ::2] = 0
        parent = save_with_tokenizer(model, bert_tokenizer(), folder / "parent")
        encoder = load_checkpoint(parent).encoder
        slim = operate(encoder, plan_from_zeros(encoder))
    checkpoint = load_checkpoint(parent)
    write_slim(slim, checkpoint.config, folder / "model", beside=parent)
    return parent


@pytest.mark.parametrize("sliced", [False, True])
def test_a_slim_checkpoint_is_trained_on(sliced: bool, tmp_path: Path) -> None:
    parent = slim_folder(tmp_path, sliced=sliced)
    before = load_checkpoint(tmp_path / "model")
    assert before.form == "slim"
    assert before.encoder.is_sliced == sliced
    recipe = tiny_recipe(tmp_path, teacher=str(parent), distillation=TEACHER)
    assert dry_run(recipe).stages[0].steps == 6
    result = train(recipe)
    after = load_checkpoint(result.final)
    assert after.form == "slim"
    assert after.encoder.widths == before.encoder.widths
    changed = [not torch.equal(a, b) for a, b in zip(_weights(before), _weights(after), strict=True)]
    assert all(changed)
    assert {path.name for path in result.final.iterdir()} >= {"slim.safetensors", "tokenizer.json", "pruning.json"}
    record = json.loads((result.final / "pruning.json").read_text())
    assert (record["method"], record["stage"], record["steps"]) == ("none", "training", 6)
    parity = prune_export.export(result.final, tmp_path / "onnx").parity
    assert parity is not None
    assert parity.passed
    # What was trained is trained on, and the run can be begun anew: all of it is known as its own.
    again = train(tiny_recipe(tmp_path, model=str(result.final), output=str(tmp_path / "again")))
    assert load_checkpoint(again.final).form == "slim"
    with pytest.raises(OutputError, match="holds a run already"):
        train(recipe)
    assert train(recipe, overwrite=True).final == result.final
    assert train(recipe, resume=True).final == result.final


def _weights(checkpoint: Any) -> list[torch.Tensor]:
    module = slim_module(checkpoint, checkpoint.encoder)
    return [
        parameter for name, parameter in module.named_parameters() if name.endswith(("query.weight", "down.weight"))
    ]


def test_a_training_of_a_slim_checkpoint_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slim_folder(tmp_path, sliced=True)
    recipe = tiny_recipe(tmp_path, trainer={"save_steps": 2})
    whole = load_file(train(recipe).final / "slim.safetensors")

    from prune_export.training.trainer import PruningTrainer

    loss = PruningTrainer.compute_loss

    def failing(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == 5:
            raise TrainingError("killed")
        return loss(self, *arguments, **options)

    other = tiny_recipe(tmp_path, trainer={"save_steps": 2}, output=str(tmp_path / "other"))
    with monkeypatch.context() as patched:
        patched.setattr(PruningTrainer, "compute_loss", failing)
        with pytest.raises(TrainingError, match="killed"):
            train(other)
    resumed = load_file(train(other, resume=True).final / "slim.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_cannot_be_done_with_slim_checkpoints_is_refused(tmp_path: Path) -> None:
    parent = slim_folder(tmp_path, sliced=True)
    gradual = {"kind": "gradual", "samples": 24}
    with pytest.raises(CheckpointError, match="method 'gradual' cannot prune further: expected weights of full size"):
        train(tiny_recipe(tmp_path, method=gradual, budget={"flops": 0.5}))
    with pytest.raises(UsageError, match=r"hidden_weight = 1: .* has a sliced residual stream"):
        train(tiny_recipe(tmp_path, teacher=str(parent), distillation=TEACHER | {"hidden_weight": 1.0}))
    assert not (tmp_path / "run").exists() or not (tmp_path / "run" / "final").exists()
    assert questions_file(tmp_path / "questions.json").is_file()
