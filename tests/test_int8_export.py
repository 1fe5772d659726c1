"""--dtype int8 from end to end: what is judged, what stays in fp32, what the record says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
import torch

import prune_export
from exporters.errors import DataError, ParityError, UsageError, WriteError
from prune_export.cli.main import main
from tests.models import FAMILY_CASES, make_model, save


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path_factory.mktemp("int8") / "checkpoint")


def doubled(folder: Path, copy: Path, name: str) -> Path:
    """A copy of an exported folder with one initializer doubled."""
    shutil.copytree(folder, copy)
    model = onnx.load(copy / "model.onnx")
    item = next(item for item in model.graph.initializer if item.name == name)
    item.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item) * 2, name))
    onnx.save(model, copy / "model.onnx")
    return copy


def test_an_export_is_smaller_recorded_and_verified(checkpoint: Path, tmp_path: Path) -> None:
    whole = prune_export.export(checkpoint, tmp_path / "fp32", target="cpu", samples=4)
    result = prune_export.export(checkpoint, tmp_path / "int8", dtype="int8", samples=4)
    assert result.record["target"] == "cpu"  # what auto means for int8, wherever it runs
    found = result.record["quantization"]
    assert found == {
        "activations": "dynamic",
        "calibrated_on": None,
        "embeddings": False,
        "maps": 18,
        "float_maps": [],
        "measured": [],
    }
    assert whole.record["quantization"] is None
    assert result.summary.bytes_after is not None
    assert whole.summary.bytes_after is not None
    assert any("Give --data" in note for note in result.notes)
    assert prune_export.verify(checkpoint, tmp_path / "int8", samples=4).passed
    assert prune_export.verify(checkpoint, tmp_path / "int8", samples=4).tolerance.limit == 0.3
    wrong = doubled(tmp_path / "int8", tmp_path / "wrong", "layer_0/feed_forward/down.weight_scale")
    assert not prune_export.verify(checkpoint, wrong, samples=4).passed
    # A limit that 8 bits cannot meet: every block is tried in fp32, and the answer is still no.
    with pytest.raises(ParityError):
        prune_export.export(checkpoint, tmp_path / "none", dtype="int8", atol=1e-7, samples=4)
    assert not (tmp_path / "none").exists()


def test_what_was_asked_for_stays_in_fp32(checkpoint: Path, tmp_path: Path) -> None:
    kept = ["layer_0", "layer_1/attention", "layer_2/feed_forward/down"]
    result = prune_export.export(checkpoint, tmp_path / "out", dtype="int8", keep_float=kept, samples=4)
    floats = result.record["quantization"]["float_maps"]
    assert len(floats) == 6 + 4 + 1
    assert result.record["quantization"]["maps"] == 18 - 11
    integers = {
        item.name for item in onnx.load(result.model).graph.initializer if item.data_type == onnx.TensorProto.INT8
    }
    assert integers == {
        *(f"layer_1/feed_forward/{part}.weight_int8" for part in ("up", "down")),
        *(f"layer_2/attention/{part}.weight_int8" for part in ("query_key_value", "output")),
        "layer_2/feed_forward/up.weight_int8",
    }
    with pytest.raises(UsageError, match=r"--keep-float layer_7: no linear map.*such as layer_0/attention/query"):
        prune_export.export(checkpoint, tmp_path / "bad", dtype="int8", keep_float=["layer_7"])


def test_blocks_that_lose_too_much_stay_in_fp32(tmp_path: Path) -> None:
    """One intermediate column far above the others: its range leaves the others no steps."""
    model = make_model(FAMILY_CASES[0], "question-answering")
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.intermediate.dense.bias[0] = 3000.0
        layer.output.dense.weight[:, 0] = 1e-4
        layer.output.dense.weight[:, 1:] *= 3
    result = prune_export.export(save(model, tmp_path / "checkpoint"), tmp_path / "out", dtype="int8", samples=4)
    found = result.record["quantization"]
    assert [loss["block"] for loss in found["measured"]] == ["layer_1/feed_forward"]
    assert found["float_maps"] == ["layer_1/feed_forward/down", "layer_1/feed_forward/up"]
    assert found["maps"] == 16
    assert any("stay in fp32: layer_1/feed_forward" in note for note in result.notes)


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_static_ranges_come_from_data(shared: Path, target: str, tmp_path: Path) -> None:
    data = shared / "data" / "qa" / "squadshifts-new_wiki.json"
    result = prune_export.export(
        shared / "models" / "minilm-qa-masked",
        tmp_path / "out",
        dtype="int8",
        target=target,
        calibration=data,
        limit=24,
        samples=4,
        atol=0.5,
        quantize_embeddings=True,
    )
    found = result.record["quantization"]
    assert (found["activations"], found["maps"], found["embeddings"]) == ("static", 36 - len(found["float_maps"]), True)
    assert found["calibrated_on"] == f"24 examples of {data}"
    graph = onnx.load(result.model).graph
    zeros = {n.input[2] for n in graph.node if n.op_type == "QuantizeLinear"}
    types = {item.data_type for item in graph.initializer if item.name in zeros}
    assert types == {onnx.TensorProto.INT8 if target == "portable" else onnx.TensorProto.UINT8}


def test_the_metric_is_judged_on_data(shared: Path, tmp_path: Path) -> None:
    checkpoint, data = shared / "models" / "minilm-qa-masked", shared / "data" / "qa" / "xquad-en.json"
    result = prune_export.export(
        checkpoint, tmp_path / "out", dtype="int8", data=data, limit=40, max_loss=6.0, samples=4
    )
    assert result.parity is not None
    quality = result.parity.quality
    assert quality is not None
    assert (quality.examples, quality.metric, quality.max_loss) == (40, "f1", 6.0)
    assert quality.reference > 50
    assert quality.loss <= 6.0
    assert quality.same >= 28
    assert result.record["parity"]["quality"] == quality.to_json()
    assert not any("Give --data" in note for note in result.notes)
    # The negative control: a wrong scale early on, judged by the metric alone.
    wrong = doubled(tmp_path / "out", tmp_path / "wrong", "layer_0/feed_forward/up.weight_scale")
    report = prune_export.verify(checkpoint, wrong, data=data, limit=40, max_loss=6.0, samples=4, atol=100.0)
    assert report.quality is not None
    assert not report.quality.passed
    assert not report.passed
    assert "points lost, allowed 6" in report.explain()


def test_bad_options_are_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for change in ({"keep_float": ["layer_0"]}, {"quantize_embeddings": True}, {"calibration": "x.json"}):
        with pytest.raises(UsageError, match=r"for --dtype int8 only; found --dtype fp32"):
            prune_export.export(checkpoint, out, **change)  # type: ignore[arg-type]
    with pytest.raises(WriteError, match="int8 is not for the target cuda"):
        prune_export.export(checkpoint, out, dtype="int8", target="cuda")
    with pytest.raises(UsageError, match="--max-loss -1"):
        prune_export.export(checkpoint, out, dtype="int8", data="x.json", max_loss=-1.0)
    for alone in ({"limit": 5}, {"max_loss": 0.5}, {"dataset": "sst2"}):
        option = f"--{next(iter(alone)).replace('_', '-')} {next(iter(alone.values()))}"
        with pytest.raises(UsageError, match=f"^{option} is about examples, and there are none"):
            prune_export.export(checkpoint, out, **alone)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=f"^{option} is about examples, and there are none"):
            prune_export.verify(checkpoint, out, **alone)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"--max-loss 1\.0 is about examples"):
        prune_export.export(checkpoint, out, dtype="int8", calibration="x.json", limit=5, max_loss=1.0)
    with pytest.raises(DataError, match="no such file"):
        prune_export.export(checkpoint, out, dtype="int8", calibration="x.json", limit=5)
    with pytest.raises(DataError, match="no such file"):
        prune_export.export(checkpoint, out, dtype="int8", data="x.json")
    features = save(make_model(FAMILY_CASES[0], "feature-extraction"), tmp_path / "features")
    with pytest.raises(DataError, match="no data readers for feature-extraction"):
        prune_export.export(features, out, dtype="int8", calibration="x.json")
    assert main(["--model", str(checkpoint), "--output", str(out), "--calibration", "x.json", "--json"]) == 2
    assert "for --dtype int8 only" in json.loads(capsys.readouterr().out)["error"]
    assert not out.exists()
