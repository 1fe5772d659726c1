"""Sessions: recorded settings, batches in parts and padded, batches that stay where the model runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prune_export
from exporters.encoder import Task
from exporters.errors import OutputError, UsageError
from tests.comparing import largest_difference, torch_outputs
from tests.models import FAMILY_CASES, example_inputs, make_model, save


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path_factory.mktemp("session") / "checkpoint")


def batch(rows: int, length: int, seed: int = 0) -> dict[str, Any]:
    ids = np.random.default_rng(seed).integers(1, 61, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def test_a_session_runs_large_batches_in_parts_with_the_same_answers(checkpoint: Path, tmp_path: Path) -> None:
    prune_export.export(checkpoint, tmp_path / "out", target="cpu", samples=4)
    record = json.loads((tmp_path / "out" / "prune_export.json").read_text())
    inputs = batch(7, 20)
    whole = prune_export.load_session(tmp_path / "out").run(inputs)
    for tokens, runs in ((60, 3), (1, 7), (140, 1), (100, 2)):
        record["session"] = {"tokens_at_once": tokens, "entries": {"session.set_denormal_as_zero": "1"}}
        (tmp_path / "out" / "prune_export.json").write_text(json.dumps(record))
        session = prune_export.load_session(tmp_path / "out", threads=1)
        assert session.settings.tokens_at_once == tokens
        assert session.parts(7, 20) == runs
        found = session.run(inputs)
        for name, expected in whole.items():
            np.testing.assert_allclose(found[name], expected, atol=1e-5)


@pytest.mark.parametrize("task", ["question-answering", "text-classification", "feature-extraction"])
def test_a_session_pads_to_a_multiple_and_cuts_again(task: Task, tmp_path: Path) -> None:
    model = make_model(FAMILY_CASES[0], task, max_position_embeddings=48)
    result = prune_export.export(save(model, tmp_path / "checkpoint"), tmp_path / "out", target="cuda", samples=4)
    assert result.record["session"]["length_multiple"] == 16
    session = prune_export.load_session(tmp_path / "out", provider="cpu")
    inputs = example_inputs(model, length=19)
    encoder = prune_export.inspect(tmp_path / "checkpoint").slim
    found = session.run({name: value.numpy() for name, value in inputs.items()})
    assert largest_difference(torch_outputs(model, encoder, inputs), found) < 1e-5  # and of the same shapes
    # Where the model has no positions for the padding, there is none.
    odd = save(make_model(FAMILY_CASES[0], task, max_position_embeddings=47), tmp_path / "odd")
    assert (
        prune_export.export(odd, tmp_path / "odd-out", target="cuda", samples=4).record["session"]["length_multiple"]
        == 1
    )


def test_settings_that_make_no_sense_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    prune_export.export(checkpoint, tmp_path / "out", target="cpu", samples=4)
    path = tmp_path / "out" / "prune_export.json"
    record = json.loads(path.read_text())
    for wrong in ({"tokens_at_once": 0}, {"length_multiple": "8"}, {"entries": 3}):
        path.write_text(json.dumps(record | {"session": wrong}))
        with pytest.raises(OutputError, match=r"prune_export\.json: damaged.*session"):
            prune_export.load_session(tmp_path / "out")
    del record["session"]
    path.write_text(json.dumps(record))
    assert prune_export.load_session(tmp_path / "out").settings.tokens_at_once is None


def test_a_bound_batch_stays_in_its_place(checkpoint: Path, tmp_path: Path) -> None:
    prune_export.export(checkpoint, tmp_path / "out", target="cpu", samples=4)
    session = prune_export.load_session(tmp_path / "out")
    first, second = batch(3, 11), batch(3, 11, seed=1)
    bound = session.bind(first)
    for inputs in (first, second, first):
        bound.update(inputs)
        bound.run()
        assert largest_difference(session.run(inputs), bound.outputs()) < 1e-6
    assert largest_difference(session.run(second), bound.outputs()) > 1e-2
    with pytest.raises(UsageError, match=r"input_ids: expected int64 of shape \[3, 11\], as bound; found \[3, 12\]"):
        bound.update(batch(3, 12))
    with pytest.raises(UsageError, match="the model takes the input token_type_ids"):
        session.bind({name: first[name] for name in ("input_ids", "attention_mask")})
    with pytest.raises(UsageError, match="CUDA graphs need the provider cuda; found cpu"):
        prune_export.load_session(tmp_path / "out", cuda_graphs=True)


@pytest.mark.cuda
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_bound_batch_on_cuda(cuda_graphs: bool, dtype: str, checkpoint: Path, tmp_path: Path) -> None:
    prune_export.export(checkpoint, tmp_path / "out", target="cuda", dtype=dtype, samples=4)
    session = prune_export.load_session(tmp_path / "out", cuda_graphs=cuda_graphs)
    reference = prune_export.load_session(tmp_path / "out", provider="cpu")
    bound = session.bind(batch(3, 16))
    for seed in (0, 1, 2):
        inputs = batch(3, 16, seed=seed)
        bound.update(inputs)
        bound.run()
        assert largest_difference(reference.run(inputs), bound.outputs()) < (1e-4 if dtype == "fp32" else 2e-2)
