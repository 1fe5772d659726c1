"""What int8 measures before it writes: errors and ranges against NumPy, and what the network is fed meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prune_export
from exporters.encoder import Encoder
from exporters.errors import DataError, UsageError
from exporters.onnx.precision import PRECISIONS, Quantization
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import quantizable_maps
from prune_export.data.examples import Text, TextData
from prune_export.data.glue_tasks import GLUE_TASKS
from prune_export.options.export import QuantizationOptions
from prune_export.progress import SILENT, Silent
from prune_export.quantization.attempts import _few, _named, _texts, attempts, check_options
from prune_export.quantization.ranges import observe_ranges
from prune_export.quantization.samples import data_batches, text_batches
from prune_export.quantization.sensitivity import (
    BlockLoss,
    _relative_error,
    quantized_blocks,
    rank_blocks,
    with_worst_in_float,
)
from tests.models import FAMILY_CASES, example_inputs, make_model, save
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer

BERT = FAMILY_CASES[0]
MASK = np.array([[1, 1, 0], [0, 1, 1]])


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model(BERT, "text-classification")


@pytest.fixture(scope="module")
def encoder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return prune_export.inspect(save(model, tmp_path_factory.mktemp("quantization"))).checkpoint.encoder


@pytest.mark.parametrize("by_token", [True, False])
def test_the_error_of_a_block_is_relative_and_leaves_padding_out(by_token: bool) -> None:
    generator = np.random.default_rng(0)
    shape = (2, 3, 4) if by_token else (2, 3)  # as many classes as tokens
    exact, found = generator.normal(size=(2, 2, *shape)).astype(np.float32)  # two batches
    batches = [{"attention_mask": MASK}, {"attention_mask": 1 - MASK}]
    change = size = 0.0
    for a, b, batch in zip(exact, found, batches, strict=True):
        kept = (
            np.broadcast_to((batch["attention_mask"] == 1)[..., None], shape)
            if by_token
            else np.ones(shape, dtype=bool)
        )
        change += float(((a - b)[kept].astype(np.float64) ** 2).sum())
        size += float((a[kept].astype(np.float64) ** 2).sum())
    error = _relative_error([{"logits": a} for a in exact], [{"logits": b} for b in found], batches, by_token=by_token)
    assert error == pytest.approx(np.sqrt(change / size), rel=1e-6)
    nothing = [{"logits": a * 0} for a in exact]
    assert _relative_error(nothing, nothing, batches, by_token=by_token) == 0.0
    large = [{"logits": np.full(shape, 2e19, dtype=np.float32)}] * 2  # squares that float32 cannot hold
    assert _relative_error(
        large, [{"logits": one["logits"] * 2} for one in large], batches, by_token=by_token
    ) == pytest.approx(1)


def test_blocks_that_lose_most_come_first(encoder: Encoder, model: Any) -> None:
    """Each loss is of one block alone: a network whose other maps stay in fp32, run by hand."""
    batches = [{name: value.numpy() for name, value in example_inputs(model, seed=seed).items()} for seed in (0, 1)]
    kept = Quantization(
        keep_float=frozenset({"layer_0/attention/query", "layer_2/feed_forward/up", "layer_2/feed_forward/down"})
    )
    blocks = quantized_blocks(encoder, kept)
    assert list(blocks) == [
        "layer_0/attention",
        "layer_0/feed_forward",
        "layer_1/attention",
        "layer_1/feed_forward",
        "layer_2/attention",
    ]
    assert blocks["layer_0/attention"] == tuple(f"layer_0/attention/{name}" for name in ("key", "value", "output"))
    counted: list[int] = []
    losses = rank_blocks(
        encoder,
        TARGETS["portable"],
        replace(kept, embeddings=True),
        batches,
        advance=lambda: counted.append(1),
    )
    assert len(counted) == 5
    assert {loss.block: loss.maps for loss in losses} == blocks
    errors = [loss.error for loss in losses]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0
    without = rank_blocks(encoder, TARGETS["portable"], kept, batches)
    assert losses == without  # embeddings in 8 bits are no block's loss


def test_ever_more_of_the_worst_stay_in_float() -> None:
    losses = [BlockLoss(f"b{i}", (f"b{i}/x", f"b{i}/y"), 1.0 / (i + 1)) for i in range(6)]
    base = Quantization(keep_float=frozenset({"own"}))
    found = list(with_worst_in_float(base, losses))
    assert [len(worst) for _, worst in found] == [1, 2, 4]
    for quantization, worst in found:
        assert worst == tuple(losses[: len(worst)])
        assert quantization.keep_float == {"own", *(name for loss in worst for name in loss.maps)}
    assert [len(worst) for _, worst in with_worst_in_float(base, losses[:5])] == [1, 2, 4]
    assert [len(worst) for _, worst in with_worst_in_float(base, losses[:4])] == [1, 2]
    assert list(with_worst_in_float(base, losses[:1])) == []


def test_ranges_are_the_extremes_over_all_batches(encoder: Encoder, model: Any) -> None:
    """Of what goes into each linear map of the Hugging Face model."""
    inputs = [example_inputs(model, seed=seed) for seed in (0, 1)]
    seen: dict[str, list[torch.Tensor]] = {}
    hooks = []
    for index, layer in enumerate(model.bert.encoder.layer):
        for name, module in (
            (f"layer_{index}/attention/query", layer.attention.self.query),
            (f"layer_{index}/attention/output", layer.attention.output.dense),
            (f"layer_{index}/feed_forward/up", layer.intermediate.dense),
            (f"layer_{index}/feed_forward/down", layer.output.dense),
        ):
            hooks.append(
                module.register_forward_pre_hook(lambda _, given, name=name: seen.setdefault(name, []).append(given[0]))
            )
    for one in inputs:
        with torch.no_grad():
            model(**one)
    for hook in hooks:
        hook.remove()
    counted: list[int] = []
    batches = [{name: value.numpy() for name, value in one.items()} for one in inputs]
    found = observe_ranges(encoder, TARGETS["portable"], batches, advance=lambda: counted.append(1))
    assert len(counted) == 2
    assert set(found) == set(quantizable_maps(encoder))
    for index in range(2):  # of the last layer only the first token asks
        for name in ("attention/query", "attention/output", "feed_forward/up", "feed_forward/down"):
            values = torch.cat([value.flatten() for value in seen[f"layer_{index}/{name}"]])
            assert found[f"layer_{index}/{name}"] == pytest.approx((float(values.min()), float(values.max())), abs=1e-4)


def test_names_of_maps_blocks_and_layers() -> None:
    maps = ("layer_1/attention/query", "layer_1/attention/key", "layer_1/feed_forward/up", "layer_10/attention/query")
    assert _named((), maps) == frozenset()
    assert _named(("layer_1",), maps) == set(maps[:3])
    assert _named(("layer_1/attention", "layer_10/attention/query"), maps) == {maps[0], maps[1], maps[3]}
    with pytest.raises(
        UsageError, match=r"expected names such as layer_1/attention/query, layer_1/attention or layer_1$"
    ):
        _named(("layer",), maps)


def test_ranking_takes_the_first_batches_up_to_32_rows() -> None:
    batches = tuple({"input_ids": np.zeros((rows, 2), dtype=np.int64)} for rows in (16, 15, 1, 4, 4))
    assert [len(batch["input_ids"]) for batch in _few(batches)] == [16, 15, 1]
    assert [len(batch["input_ids"]) for batch in _few(batches[1:])] == [15, 1, 4, 4]
    assert [len(batch["input_ids"]) for batch in _few(batches[:2])] == [16, 15]


def test_what_the_network_is_fed(tmp_path: Path) -> None:
    tokenizer = bert_tokenizer()
    model = make_model(BERT, "text-classification", vocab_size=len(tokenizer), max_position_embeddings=300)
    folder = save_with_tokenizer(model, tokenizer, tmp_path)
    encoder = prune_export.inspect(folder).slim
    texts = tuple(Text(str(i), "a " * (10 * i + 1), None, 0) for i in range(30))
    batches = data_batches(TextData("test", GLUE_TASKS["sst2"], texts), encoder, model.config.to_dict(), tokenizer)
    assert all(set(batch) == set(encoder.inputs) for batch in batches)
    assert sum(len(batch["input_ids"]) for batch in batches) == 30
    assert sorted(int(row.sum()) for batch in batches for row in batch["attention_mask"]) == sorted(
        min(10 * i + 3, 128) for i in range(30)
    )
    assert all(batch["input_ids"].size <= 2048 for batch in batches)
    assert len(batches) == 2
    (text,) = text_batches(encoder, tokenizer, seed=0)
    assert text["input_ids"][0, 0] == tokenizer.cls_token_id
    random = text_batches(encoder, None, seed=0)
    assert len(random) == 4
    assert not np.array_equal(random[1]["input_ids"], text_batches(encoder, None, seed=1)[1]["input_ids"])


@pytest.mark.parametrize("calibrated", [False, True])
def test_attempts(calibrated: bool, tmp_path: Path) -> None:
    """First what was asked for, then with ever more of the worst blocks in fp32; ranges only where there are data."""
    tokenizer = bert_tokenizer()
    model = make_model(BERT, "text-classification", vocab_size=len(tokenizer), num_labels=2)
    found = prune_export.inspect(save_with_tokenizer(model, tokenizer, tmp_path))
    data = TextData("made", GLUE_TASKS["sst2"], tuple(Text(str(i), "a b c", None, 0) for i in range(9)))
    options = QuantizationOptions(
        calibration=data if calibrated else None, keep_float=("layer_0",), quantize_embeddings=True, limit=5
    )
    check_options(options, PRECISIONS["int8"])
    with pytest.raises(UsageError, match="for --dtype int8 only"):
        check_options(options, PRECISIONS["fp32"])
    check_options(QuantizationOptions(limit=5), PRECISIONS["fp32"])
    tried = list(attempts(found, TARGETS["portable"], PRECISIONS["int8"], options, progress=SILENT))
    assert len(tried) == 1 + 2  # of 4 blocks in 8 bits 0, 1, 2 stay in fp32
    own = {name for name in quantizable_maps(found.slim) if name.startswith("layer_0/")}
    for attempt, count in zip(tried, (0, 1, 2), strict=True):
        assert attempt.maps == 18
        assert attempt.quantization.embeddings
        assert (attempt.quantization.ranges is not None) == calibrated
        assert attempt.calibrated_on == ("5 examples of made" if calibrated else None)
        assert len(attempt.worst) == count
        assert attempt.quantization.keep_float == own | {name for loss in attempt.worst for name in loss.maps}
        record = attempt.to_json()
        assert record["activations"] == ("static" if calibrated else "dynamic")
        assert record["maps"] == 18 - len(attempt.quantization.keep_float)
        assert record["float_maps"] == sorted(attempt.quantization.keep_float)
        assert record["measured"] == [{"block": loss.block, "error": loss.error} for loss in attempt.worst]
    (floating,) = attempts(found, TARGETS["portable"], PRECISIONS["fp16"], options, progress=SILENT)
    assert (floating.quantization, floating.maps) == (Quantization(), 0)


def test_batches_fit_the_models_positions_and_options_reach_the_reader(tmp_path: Path) -> None:
    tokenizer = bert_tokenizer()
    model = make_model(BERT, "text-classification", vocab_size=len(tokenizer), num_labels=2)  # 40 positions
    found = prune_export.inspect(save_with_tokenizer(model, tokenizer, tmp_path / "model"))
    data = TextData("test", GLUE_TASKS["sst2"], (Text("1", "a " * 200, None, 0), Text("2", "a", None, 0)))
    (batch,) = data_batches(data, found.slim, model.config.to_dict(), tokenizer)
    assert batch["input_ids"].shape == (2, 40)
    (text,) = _texts(found, 0)
    assert (text["input_ids"][:, 0] == tokenizer.cls_token_id).all()
    rte = tmp_path / "dev.tsv"
    rte.write_text("index\tsentence1\tsentence2\tlabel\n0\ta b\tb\tentailment\n")
    options = QuantizationOptions(calibration=rte, dataset="stsb", limit=5)
    with pytest.raises(DataError):
        next(attempts(found, TARGETS["portable"], PRECISIONS["int8"], options, progress=SILENT))
    stages: list[tuple[str, int | None]] = []

    class Noted(Silent):
        def stage(self, description: str, total: int | None = None) -> None:
            stages.append((description, total))

    options = replace(options, calibration=data, dataset=None)
    list(attempts(found, TARGETS["portable"], PRECISIONS["int8"], options, progress=Noted()))
    assert stages == [("Observing ranges", 1), ("Finding the blocks that lose most", 6)]
