"""DeBERTa's configurations, and files that lie beside its weights: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.torch import load_file, save_file

import prune_export
from exporters.errors import UnsupportedError, WriteError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from prune_export.checkpoint.inspection import operate_on
from prune_export.checkpoint.load import load_checkpoint
from prune_export.families.state_dict import state_dict
from prune_export.slim_model.model import slim_module
from tests.comparing import largest_difference, onnx_outputs, torch_outputs
from tests.deberta import V1, V2
from tests.models import FamilyCase, example_inputs, make_model, save


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        (V2, {"position_biased_input": True, "type_vocab_size": 2}),
        (V2, {"position_biased_input": True, "type_vocab_size": 1}),
        (V2, {"type_vocab_size": 1}),
        (V2, {"relative_attention": False, "position_biased_input": True}),
        (V2, {"relative_attention": False, "pos_att_type": None, "position_biased_input": True}),
        (V2, {"pos_att_type": "p2c|c2p", "position_buckets": -1, "max_relative_positions": -1}),
        (V2, {"norm_rel_ebd": "none", "share_att_key": False}),
        (V2, {"max_position_embeddings": 16, "hidden_act": "gelu_new", "pooler_hidden_act": "tanh"}),
        (V1, {"position_biased_input": True, "type_vocab_size": 0, "max_relative_positions": -1}),
        (V1, {"relative_attention": False, "position_biased_input": True}),
        (V1, {"pos_att_type": "c2p"}),
    ],
    ids=str,
)
def test_variants_of_configurations(case: FamilyCase, changes: dict[str, Any], tmp_path: Path) -> None:
    for task in ("text-classification", "fill-mask"):
        model = make_model(case, task, **changes)
        checkpoint = load_checkpoint(save(model, tmp_path / task))
        slim = operate_on(checkpoint).slim
        inputs = example_inputs(model, length=14)
        assert ("token_type_ids" in slim.inputs) == (model.config.type_vocab_size > 1)  # optimum #491
        expected = torch_outputs(model, slim, inputs)
        assert largest_difference(expected, torch_outputs(slim_module(checkpoint, slim), slim, inputs)) < 1e-5
        for target in ("cpu", "portable", "cuda"):
            assert largest_difference(expected, onnx_outputs(slim, inputs, tmp_path, target=target)) < 1e-5, target
        full = type(model)(model.config).eval()
        report = full.load_state_dict(state_dict(checkpoint.family, checkpoint.config, slim), strict=False)
        assert (report.missing_keys, report.unexpected_keys) == ([], [])
        assert largest_difference(expected, torch_outputs(full, slim, inputs)) < 1e-5


@pytest.mark.parametrize("case", [V1, V2], ids=str)
def test_the_new_head_for_masked_tokens(case: FamilyCase, tmp_path: Path) -> None:
    """transformers 4 overwrites the word embeddings of such a network, and saves it without them."""
    model = make_model(case, "fill-mask", legacy=False)
    folder = save(model, tmp_path / "model")
    if transformers.__version__ < "5":
        with pytest.raises(UnsupportedError, match=r"legacy is false, and transformers 4.* expected transformers 5"):
            load_checkpoint(folder)
        return
    checkpoint = load_checkpoint(folder)
    slim = operate_on(checkpoint).slim
    assert slim.head.decoder.weight is slim.embeddings.word  # type: ignore[union-attr]
    inputs = example_inputs(model)
    expected = torch_outputs(model, slim, inputs)
    assert largest_difference(expected, onnx_outputs(slim, inputs, tmp_path)) < 1e-5
    full = type(model)(model.config).eval()
    report = full.load_state_dict(state_dict(checkpoint.family, checkpoint.config, slim), strict=False)
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    assert largest_difference(expected, torch_outputs(full, slim, inputs)) < 1e-5


REFUSED = [
    (V2, {"conv_kernel_size": 3}, "conv_kernel_size is 3; expected 0 .*; take a checkpoint without one"),
    (V2, {"attention_head_size": 7}, "attention_head_size is 7; expected hidden_size / num_attention_heads, 6; take"),
    (V2, {"embedding_size": 12}, "embedding_size is 12; expected the hidden size, 24; take"),
    (V2, {"pooler_hidden_size": 12}, "pooler_hidden_size is 12; expected the hidden size, 24; take"),
    (V2, {"pooler_hidden_act": "selu"}, "pooler_hidden_act is 'selu'; expected one of gelu"),
    (
        V2,
        {"position_buckets": 9},
        "position_buckets is 9 with distances up to 32; expected an even number below 62; set",
    ),
    (V2, {"position_buckets": 64}, "position_buckets is 64 with distances up to 32; expected an even number below 62"),
    (V2, {"max_relative_positions": 10**7}, "max_relative_positions is 10000000; expected at most 65,536; set"),
    (
        V2,
        {"pos_att_type": ["c2p", "p2p"]},
        r"pos_att_type is \['c2p', 'p2p'\]; expected 'c2p', 'p2c' or both, each once",
    ),
    (V2, {"pos_att_type": ["c2p", "c2p"]}, "expected 'c2p', 'p2c' or both, each once; set"),
    (V2, {"pos_att_type": None}, "pos_att_type is None; expected 'c2p', 'p2c' or both; set relative_attention"),
    (V2, {"layer_norm_type": "no_norm"}, "layer_norm_type is 'no_norm'; expected layer_norm"),
    (V2, {"pruned_heads": {"0": [1]}}, "cannot run in a network of the type deberta-v2"),
    (V1, {"talking_head": True}, "talking_head is True; expected false; take"),
    (V1, {"embedding_size": 12}, "embedding_size is 12; expected the hidden size, 24; take"),
    (V1, {"pruned_heads": {"0": [1]}}, "cannot run in a network of the type deberta"),
]


@pytest.mark.parametrize(("case", "changes", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused(case: FamilyCase, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = save(make_model(case, case.task), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UnsupportedError, match=words) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_what_has_no_form_is_refused(tmp_path: Path) -> None:
    for changes in ({}, {"relative_attention": False, "position_biased_input": True}):
        checkpoint = load_checkpoint(
            save(make_model(V2, "question-answering", **changes), tmp_path / str(len(changes)))
        )
        with pytest.raises(WriteError, match=r"cuda-packed has no form .* Distances; expected DotProduct"):
            build(checkpoint.encoder, TARGETS["cuda-packed"], PRECISIONS["fp16"])


def test_what_a_tokenizer_returns_beside_the_inputs(tmp_path: Path) -> None:
    """optimum #491: "Invalid Feed Input Name: token_type_ids"; an unreadable tokenizer beside the model fails no export."""
    model = make_model(V2, "question-answering")
    folder = save(model, tmp_path / "model")
    (folder / "spm.model").write_bytes(b"no sentencepiece model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "DebertaV2Tokenizer"}))
    result = prune_export.export(folder, tmp_path / "out", target="cpu", samples=4)
    assert result.parity is not None
    assert result.parity.passed
    inputs = {name: value.numpy() for name, value in example_inputs(model).items()}
    session = prune_export.load_session(tmp_path / "out")
    more = session.run(inputs | {"token_type_ids": np.ones_like(inputs["input_ids"])})
    assert largest_difference(session.run(inputs), more) == 0


@pytest.mark.parametrize("case", [V1, V2], ids=str)
def test_a_fill_mask_head_that_transformers_would_invent(case: FamilyCase, tmp_path: Path) -> None:
    """Published checkpoints hold `lm_predictions`, and say nothing of `legacy`, which is then true."""
    folder = save(make_model(case, "fill-mask"), tmp_path / "model")
    stored = load_file(folder / "model.safetensors")
    renamed = {
        name.replace("cls.predictions.transform", "lm_predictions.lm_head").replace(
            "cls.predictions", "lm_predictions.lm_head"
        ): value
        for name, value in stored.items()
    }
    (folder / "model.safetensors").unlink()
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(prune_export.CheckpointError, match=r"cls\.predictions.*the task 'fill-mask' needs it"):
        load_checkpoint(folder)
