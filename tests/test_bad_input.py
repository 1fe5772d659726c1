"""Bad input gets one clear line and an exit code: no traceback, nothing written, nothing in the input ever run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor
from transformers import BertForSequenceClassification

from prune_export.cli.main import main
from tests.tiny_checkpoints import (
    change_config,
    change_weights,
    make_checkpoint,
    tensors,
    to_pickle,
    to_shards,
    write_index,
)

Damage = Callable[[Path], object]

QUERY = "bert.encoder.layer.1.attention.self.query.weight"
TASKS = "question-answering, text-classification, token-classification, feature-extraction, fill-mask"


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("sound") / "checkpoint")


@pytest.fixture
def checkpoint(sound: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "checkpoint"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads than cores only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Ended:
    """How a command ended; `error` is its one line without the program's name."""

    code: int
    out: str
    error: str


Command = Callable[..., Ended]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs the command line in this process; fails if it prints anything but one line of error on stderr."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*words: str | Path) -> Ended:
        capfd.readouterr()
        samples = () if "--samples" in words else ("--samples", "4")
        code = main([*map(str, words), *samples, "--quiet"])
        captured = capfd.readouterr()
        if code == 0:
            return Ended(code, captured.out, "")
        error = captured.err.removeprefix("prune-export: error: ")
        assert error != captured.err, captured.err
        assert "Traceback" not in error
        if code != 3:  # a failed comparison lists the cases that failed
            assert error.count("\n") == 1, error
        return Ended(code, captured.out, error.strip())

    yield run
    signal.signal(signal.SIGTERM, before)


# --- damage to config.json ------------------------------------------------------------------------------------------


def config(**changes: object) -> Damage:
    return lambda folder: change_config(folder, **changes)


def config_text(text: str) -> Damage:
    return lambda folder: (folder / "config.json").write_text(text)


def without(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


CONFIGS = [
    pytest.param(without("config.json"), ("is not a checkpoint", "config.json is missing"), id="no config"),
    pytest.param(config_text("{nope"), ("config.json: not readable as JSON", "byte 1"), id="not JSON"),
    pytest.param(config_text(""), ("config.json: not readable as JSON",), id="empty"),
    pytest.param(config_text("[1]"), ("config.json: expected `object`, got `array`",), id="a list"),
    pytest.param(
        config(model_type="gpt2"),
        ('"gpt2"', "supported: bert, roberta, xlm-roberta, camembert, electra, distilbert, albert"),
        id="another architecture",
    ),
    pytest.param(config(model_type=None), ("model_type in config.json is null", "supported: bert"), id="no model_type"),
    pytest.param(config(model_type=["bert"]), ("model_type", "bert"), id="model_type a list"),
    pytest.param(config(architectures=None), ("cannot tell the task", "none", f"--task, one of {TASKS}"), id="no task"),
    pytest.param(
        config(architectures=["BertForPreTraining"]),
        ("cannot tell the task", "BertForPreTraining", "give --task"),
        id="a task that is none",
    ),
    pytest.param(
        config(architectures="BertModel"), ("cannot tell the task", "give --task"), id="architectures a string"
    ),
    pytest.param(config(architectures=[3]), ("architectures",), id="architectures numbers"),
    pytest.param(config(hidden_size=16), ("position_embeddings", "[40, 32]", "[40, 16]", "config.json"), id="hidden"),
    pytest.param(
        config(intermediate_size=64),
        ("bert.encoder.layer.0.intermediate.dense.weight", "[48, 32]", "[64, 32]", "config.json"),
        id="intermediate",
    ),
    pytest.param(config(vocab_size=61), ("word_embeddings", "[60, 32]", "[61, 32]"), id="vocabulary"),
    pytest.param(config(num_hidden_layers=3), ("'bert.encoder.layer.2.", "is missing"), id="more layers than weights"),
    pytest.param(
        config(num_hidden_layers=1),
        ("'bert.encoder.layer.1.", "config.json, with 1 layers, does not have"),
        id="fewer layers than weights",
    ),
    pytest.param(config(num_attention_heads=5), ("hidden size 32", "5 attention heads"), id="heads do not divide"),
    pytest.param(
        config(num_attention_heads=0),
        ("config.json: expected a whole number of 1 or more for the heads", "found 0"),
        id="no heads",
    ),
    pytest.param(config(layer_norm_eps="x"), ("config.json", "eps", "'x'"), id="epsilon a string"),
    pytest.param(config(hidden_size="x"), ("config.json", "'x'"), id="hidden a string"),
    pytest.param(config(num_hidden_layers="two"), ("config.json", "'two'"), id="layers a string"),
    pytest.param(config(pad_token_id=999), ("pad_token_id", "below the vocabulary's 60", "999"), id="padding outside"),
    pytest.param(config(pad_token_id=-1), ("pad_token_id", "-1"), id="padding below 0"),
    pytest.param(
        config(position_embedding_type="relative_key"),
        ("'relative_key'", "expected 'absolute'"),
        id="relative positions",
    ),
    pytest.param(
        config(hidden_act="swish7"), ("activation 'swish7'", "expected one of gelu, gelu_new"), id="an activation"
    ),
    pytest.param(
        config(layer_norm_type="rms"), ("layer_norm_type is 'rms'", "expected 'layer_norm' or 'no_norm'"), id="a norm"
    ),
    pytest.param(config(is_decoder=True), ("describes a decoder", "expected an encoder"), id="a decoder"),
    pytest.param(
        config(pruned_heads={"1": [0]}),
        (QUERY, "[32, 32]", "[24, 32]", "pruned_heads leave 3 of 4 heads of layer 1"),
        id="pruned_heads, full weights",
    ),
    pytest.param(
        config(pruned_heads={"5": [0]}), ("pruned_heads names layer 5", "2 layers of 4 heads"), id="no such layer"
    ),
    pytest.param(config(pruned_heads={"0": [9]}), ("layer 0, heads [9]", "2 layers of 4 heads"), id="no such head"),
    pytest.param(config(pruned_heads={"0": [-1]}), ("layer 0, heads [-1]",), id="a head below 0"),
    pytest.param(
        config(pruned_heads={"0": 5}), ("expected pruned_heads to map layers to lists",), id="a head, no list"
    ),
    pytest.param(config(pruned_heads=[1, 2]), ("pruned_heads", "[1, 2]"), id="pruned_heads a list"),
    pytest.param(config(pruned_heads={"x": [0]}), ("pruned_heads", "x"), id="pruned_heads of no layer"),
]


@pytest.mark.parametrize(("damage", "facts"), CONFIGS)
def test_a_configuration_that_cannot_be(
    damage: Damage, facts: tuple[str, ...], checkpoint: Path, command: Command, tmp_path: Path
) -> None:
    refused(damage, facts, checkpoint, command, tmp_path)


def refused(
    damage: Damage,
    facts: tuple[str, ...],
    checkpoint: Path,
    command: Command,
    tmp_path: Path,
    *words: str | Path,
    code: int = 1,
) -> None:
    damage(checkpoint)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    ended = command("--model", checkpoint, "--output", tmp_path / "out", *words)
    assert ended.code == code, ended.error
    for fact in facts:
        assert fact in ended.error
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# --- damage to the weights ------------------------------------------------------------------------------------------


def weights(change: Callable[[dict[str, Tensor]], object]) -> Damage:
    return lambda folder: change_weights(folder, change)


def rewritten(change: Callable[[bytes], bytes], name: str = "model.safetensors") -> Damage:
    def damage(folder: Path) -> None:
        content = change((folder / name).read_bytes())
        (folder / name).unlink()
        (folder / name).write_bytes(content)

    return damage


def pickled(content: object = None, change: Callable[[bytes], bytes] | None = None, **options: Any) -> Damage:
    def damage(folder: Path) -> None:
        to_pickle(folder, content, **options)
        if change is not None:
            rewritten(change, "pytorch_model.bin")(folder)

    return damage


def sharded(change: Callable[[Path, dict[str, str]], object]) -> Damage:
    return lambda folder: change(folder, to_shards(folder))


def index(content: Callable[[dict[str, str]], object]) -> Damage:
    return sharded(lambda folder, weight_map: write_index(folder, content(weight_map)))


def set_values(name: str, value: float, count: int) -> Damage:
    return weights(lambda found: found[name].view(-1)[:count].fill_(value))


def another_layer(found: dict[str, Tensor]) -> None:
    found |= {name.replace("layer.1.", "layer.2."): found[name].clone() for name in list(found) if "layer.1." in name}


class Touches:
    """Unpickled carelessly, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


HALF = rewritten(lambda content: content[: len(content) // 2])

WEIGHTS = [
    pytest.param(
        without("model.safetensors"),
        ("no weights; expected model.safetensors, model.safetensors.index.json, pytorch_model.bin or",),
        id="none",
    ),
    pytest.param(HALF, ("model.safetensors: damaged or truncated (38,876 bytes found)", "copy it again"), id="half"),
    pytest.param(
        rewritten(lambda content: content[:40]),
        ("model.safetensors: damaged or truncated (40 bytes found)",),
        id="cut in the header",
    ),
    pytest.param(
        rewritten(lambda content: content[:-1]), ("model.safetensors: damaged or truncated",), id="the last byte"
    ),
    pytest.param(
        rewritten(lambda _: b""), ("model.safetensors: damaged or truncated (0 bytes found)",), id="an empty file"
    ),
    pytest.param(
        rewritten(lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 77752\n"),
        ("model.safetensors: a Git LFS pointer", "git lfs pull"),
        id="a Git LFS pointer",
    ),
    pytest.param(
        pickled(change=lambda content: content[: len(content) // 2]),
        ("pytorch_model.bin: damaged or truncated",),
        id="half of a pickle",
    ),
    pytest.param(
        pickled(change=lambda _: b"garbage" * 100),
        ("pytorch_model.bin: damaged or truncated (700 bytes found): not what torch.save writes",),
        id="garbage",
    ),
    pytest.param(
        pickled(change=lambda _: b""),
        ("pytorch_model.bin: damaged or truncated (0 bytes found)",),
        id="an empty pickle",
    ),
    pytest.param(
        pickled(change=lambda content: content[: len(content) * 3 // 4], _use_new_zipfile_serialization=False),
        ("pytorch_model.bin: damaged or truncated",),
        id="a cut pickle of the old format",
    ),
    pytest.param(
        pickled([torch.ones(1)]),
        ("pytorch_model.bin: expected a mapping of names to tensors; found list",),
        id="a pickled list",
    ),
    pytest.param(
        pickled({"state_dict": {"a": torch.ones(1)}}),
        ("expected a mapping of names to tensors; found dict under 'state_dict'", "state_dict() alone"),
        id="tensors one level down",
    ),
    pytest.param(pickled({1: torch.ones(1)}), ("found Tensor under 1",), id="numbers for names"),
    pytest.param(
        pickled(torch.nn.Linear(2, 2)),
        ("pytorch_model.bin: refused", "torch.nn.modules.linear.Linear", "safetensors"),
        id="a pickled module",
    ),
    pytest.param(pickled({"a": torch.ones(2, 2).to_sparse()}), ("the tensor 'a' is sparse",), id="a sparse tensor"),
    pytest.param(
        sharded(lambda folder, _: (folder / "model-00002-of-00002.safetensors").unlink()),
        ("index.json: the shard 'model-00002-of-00002.safetensors' is missing (2 shards expected)",),
        id="a missing shard",
    ),
    pytest.param(
        sharded(lambda folder, _: rewritten(lambda content: content[:999], "model-00002-of-00002.safetensors")(folder)),
        ("model-00002-of-00002.safetensors: damaged or truncated (999 bytes found)",),
        id="a cut shard",
    ),
    pytest.param(
        index(
            lambda weight_map: {"weight_map": {name: f"../checkpoint/{shard}" for name, shard in weight_map.items()}}
        ),
        ("the shard '../checkpoint/model-00001-of-00002.safetensors' is not beside the index; refused",),
        id="a shard elsewhere",
    ),
    pytest.param(index(lambda _: {}), ('damaged; expected JSON with a "weight_map"',), id="an index of nothing"),
    pytest.param(index(lambda _: [1]), ('damaged; expected JSON with a "weight_map"',), id="an index that is a list"),
    pytest.param(
        index(lambda _: {"weight_map": {"a": "x" * 300}}),
        ("is not beside the index; refused",),
        id="a shard's long name",
    ),
    pytest.param(index(lambda _: {"weight_map": {"a": 3}}), ("expected `str`, got `int`",), id="a shard 3"),
    pytest.param(index(lambda _: {"weight_map": {}}), ("index.json: the tensor", "is missing"), id="an empty index"),
    pytest.param(index(lambda weight_map: {"weight_map": weight_map}), ("metadata",), id="an index without metadata"),
    pytest.param(
        set_values(QUERY, float("nan"), 3), (f"the tensor '{QUERY}' holds 3 NaN or infinite values of 1024",), id="NaN"
    ),
    pytest.param(
        set_values("qa_outputs.bias", float("-inf"), 1),
        ("the tensor 'qa_outputs.bias' holds 1 NaN or infinite values of 2",),
        id="infinity",
    ),
    pytest.param(
        weights(lambda found: found.update({QUERY: found[QUERY].to(torch.int32)})),
        (f"the tensor '{QUERY}' is of type torch.int32; expected floating point",),
        id="integers",
    ),
    pytest.param(
        weights(lambda found: found.update({QUERY: found[QUERY].to(torch.float8_e4m3fn)})),
        (
            f"'{QUERY}' is of type torch.float8_e4m3fn; expected floating point (float32, ",
            "dequantize the weights first",
        ),
        id="float8",
    ),
    pytest.param(
        weights(lambda found: found.pop(QUERY)),
        (f"the tensor '{QUERY}' is missing; expected shape [32, 32]",),
        id="a missing tensor",
    ),
    pytest.param(weights(dict.clear), ("model.safetensors: the tensor", "is missing"), id="no tensors"),
    pytest.param(
        weights(lambda found: found.update({QUERY: found[QUERY][:24].clone()})),
        (f"the tensor '{QUERY}' has shape [24, 32]; expected [32, 32] (from config.json)",),
        id="a shape",
    ),
    pytest.param(
        weights(another_layer),
        ("'bert.encoder.layer.2.", "(and 15 more) of layers that config.json, with 2 layers, does not have"),
        id="another layer",
    ),
]


@pytest.mark.parametrize(("damage", "facts"), WEIGHTS)
def test_weights_that_cannot_be(
    damage: Damage, facts: tuple[str, ...], checkpoint: Path, command: Command, tmp_path: Path
) -> None:
    refused(damage, facts, checkpoint, command, tmp_path)


@pytest.mark.parametrize("no_verify", [(), ("--no-verify",)], ids=["verified", "not verified"])
def test_weights_too_large_for_fp16(
    no_verify: tuple[str, ...], checkpoint: Path, command: Command, tmp_path: Path
) -> None:
    damage = set_values("qa_outputs.weight", 1e5, 1)
    facts = ("fp16", "output.weight", "100000", "65504", "--dtype fp32")
    refused(damage, facts, checkpoint, command, tmp_path, "--dtype", "fp16", *no_verify)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(pickled(), id="pickle"),
        pytest.param(pickled(_use_new_zipfile_serialization=False), id="pickle before torch 1.6"),
        pytest.param(
            sharded(lambda folder, found: write_index(folder, {"metadata": {}, "weight_map": found})), id="shards"
        ),
        pytest.param(
            lambda folder: to_pickle(
                folder, {name: torch.nn.Parameter(value) for name, value in tensors(folder).items()}
            ),
            id="parameters",
        ),
        pytest.param(
            weights(lambda found: found.update({name: value.double() for name, value in found.items()})), id="f64"
        ),
        pytest.param(
            weights(lambda found: found.update({name: value.bfloat16() for name, value in found.items()})), id="bf16"
        ),
    ],
)
def test_unusual_weights_that_are_fine(damage: Damage, checkpoint: Path, command: Command, tmp_path: Path) -> None:
    damage(checkpoint)
    assert command("--model", checkpoint, "--output", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "model.onnx").is_file()


@pytest.mark.parametrize(
    "options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}], ids=["zip", "old", "protocol 4"]
)
def test_pickled_code_is_never_run(options: dict[str, Any], checkpoint: Path, command: Command, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    damage = pickled({"a": Touches(mark)}, **options)
    facts = (
        "pytorch_model.bin: ",
        "" if "pickle_protocol" in options else "refused, it holds Python objects",
        "afetensors",
    )
    refused(damage, facts[:2], checkpoint, command, tmp_path)
    assert not mark.exists()


def test_a_bare_pickle_is_never_run(checkpoint: Path, command: Command, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (checkpoint / "model.safetensors").unlink(missing_ok=True)
        (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Touches(mark), protocol=protocol))
        assert command("--model", checkpoint, "--output", tmp_path / "out").code == 1
    assert not mark.exists()


@pytest.mark.parametrize("model_type", ["bert", "evil"])
def test_remote_code_is_never_run(model_type: str, checkpoint: Path, command: Command, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    names = {
        "AutoConfig": "evil.Config",
        "AutoModelForQuestionAnswering": "evil.Model",
        "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
    }
    change_config(checkpoint, auto_map=names, model_type=model_type)
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"auto_map": names, "tokenizer_class": "Tokenizer"}))
    (checkpoint / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    ended = command("--model", checkpoint, "--output", tmp_path / "out")
    assert ended.code == 1
    assert not mark.exists()
    assert not (tmp_path / "out" / "evil.py").exists()


# --- options --------------------------------------------------------------------------------------------------------

OPTIONS = [
    (("--task", "translation"), 1, ("'translation' is not supported", f"expected one of {TASKS}")),
    (("--task", "text-classification"), 1, ("bert.pooler.dense.weight", "missing", "'text-classification' needs it")),
    (("--task", "token-classification"), 1, ("classifier.weight", "missing", "'token-classification' needs it")),
    (("--task", "fill-mask"), 1, ("cls.predictions", "missing", "'fill-mask' needs it")),
    (("--opset", "16"), 1, ("opset 16 is not supported; expected 17 to ",)),
    (("--opset", "99"), 1, ("opset 99 is not supported; expected 17 to ",)),
    (("--opset", "-3"), 2, ("--opset -3: expected a whole number from 1",)),
    (("--atol", "-1"), 2, ("--atol -1: expected a number above 0",)),
    (("--atol", "0"), 2, ("--atol 0: expected a number above 0",)),
    (("--opset", "new"), 2, ("--opset new: expected a whole number from 1",)),
    (("--atol", "x"), 2, ("--atol x: expected a number above 0",)),
    (("--atol", "nan"), 2, ("--atol nan: expected a number above 0",)),
    (("--atol", "inf"), 2, ("--atol inf: expected a number above 0",)),
    (("--samples", "1"), 2, ("--samples 1: expected a whole number from 4 to",)),
    (("--samples", "-1"), 2, ("--samples -1: expected a whole number from 4 to",)),
    pytest.param(("--seed", "-1"), 2, ("--seed -1",)),
    (("--revision", "main"), 1, ("--revision main", "is a folder; revisions are the hub's")),
]


@pytest.mark.parametrize(("words", "code", "facts"), OPTIONS)
def test_options_out_of_range(
    words: tuple[str, ...], code: int, facts: tuple[str, ...], checkpoint: Path, command: Command, tmp_path: Path
) -> None:
    refused(lambda _: None, facts, checkpoint, command, tmp_path, *words, code=code)


@pytest.mark.parametrize(
    "words",
    [
        ("--target", "tpu"),
        ("--dtype", "int4"),
        ("--no-such-option",),
        ("surplus",),
    ],
)
def test_options_that_argparse_refuses(words: tuple[str, ...], checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--model", str(checkpoint), "--output", str(tmp_path / "out"), *words])
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_output_is_needed(checkpoint: Path, command: Command) -> None:
    ended = command("--model", checkpoint)
    assert ended.code == 2
    assert "--output is needed" in ended.error


def test_an_empty_output_is_not_this_folder(
    checkpoint: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ended = command("--model", checkpoint, "--output", "")
    assert ended.code == 1
    assert "--output is empty" in ended.error
    assert not any(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("model", "facts"),
    [
        ("missing/folder/here", ("'missing/folder/here': no such folder, and not a hub id (owner/name) either",)),
        ("checkpoint/config.json", ("is a file; expected a checkpoint's folder or a hub id",)),
        ("", ("the model's name is an empty string; expected a folder or a hub id",)),
        ("~nobody-by-this-name/x", ("nobody-by-this-name",)),
    ],
)
def test_a_model_that_is_not_there(
    model: str,
    facts: tuple[str, ...],
    checkpoint: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    ended = command("--model", model, "--output", "out")
    assert ended.code == (1 if model else 2)
    for fact in facts:
        assert fact in ended.error
    assert not Path("out").exists()


# --- plans ----------------------------------------------------------------------------------------------------------

LAYER = {"heads": "0-3", "columns": "0-47"}


def plan(*layers: object, **others: object) -> str:
    return json.dumps({"format": "prune-export/plan", "version": 1, "layers": list(layers), **others})


PLANS = [
    (None, ("plan.json: no such file; expected a pruning plan",)),
    ("{", ("plan.json: not readable as JSON", "truncated")),
    ("[]", ('plan.json: expected an object with "format": "prune-export/plan" and a list "layers"',)),
    (plan(LAYER), ("the plan has 1 layers, the model has 2",)),
    (plan(LAYER, {**LAYER, "heads": "0-4"}), ("layer 1: the plan keeps head 4", "heads there are 0-3")),
    (plan({**LAYER, "columns": "0-48"}, LAYER), ("layer 0: the plan keeps column 48, but the model has 48 columns",)),
    (plan(LAYER, LAYER, version=2), ('"version": 1; found', '"version": 2')),
    (plan(LAYER, LAYER, format="other"), ('found "format": "other"',)),
    (plan(LAYER, []), ('layer 1: expected an object with "heads" and "columns"',)),
    (plan(LAYER, {**LAYER, "heads": "a-b"}), ("layer 1, heads: expected indices", '"a-b"')),
    (plan(LAYER, {**LAYER, "heads": [True]}), ("layer 1, heads: expected indices", "[true]")),
    (plan(LAYER, {**LAYER, "heads": "1,1"}), ("layer 1, heads: expected distinct indices",)),
    (plan(LAYER, {**LAYER, "heads": [-1]}), ("layer 1, heads: expected indices", "[-1]")),
    pytest.param(plan(LAYER, {**LAYER, "heads": "3-0"}), ("layer 1, heads", '"3-0"')),
    (
        plan(LAYER, {**LAYER, "value_dimensions": {"0": "0-99"}}),
        ("layer 1, head 0: the plan keeps value dimension 99, but a head has 8",),
    ),
    (
        plan(LAYER, {"heads": "1", "columns": "", "value_dimensions": {"0": "0"}}),
        ("layer 1: the plan has value dimensions for head 0, which does not stay",),
    ),
]


@pytest.mark.parametrize(("text", "facts"), PLANS)
def test_plans_that_do_not_fit(
    text: str | None, facts: tuple[str, ...], checkpoint: Path, command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    refused(lambda _: None, facts, checkpoint, command, tmp_path, "--plan", path)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("{", ("pruning.json: not readable as JSON",)),
        (plan(LAYER), ("the plan has 1 layers, the model has 2",)),
        (
            plan(LAYER, {**LAYER, "heads": "0-2"}),
            ("pruning.json: layer 1: heads [3] are pruned by it, but their weights are not zero", "--plan"),
        ),
        (plan({**LAYER, "columns": "0-40"}, LAYER), ("pruning.json: layer 0: columns [41, 42, ", "not zero")),
    ],
)
def test_pruning_json_that_contradicts_the_weights(
    text: str, facts: tuple[str, ...], checkpoint: Path, command: Command, tmp_path: Path
) -> None:
    refused(lambda folder: (folder / "pruning.json").write_text(text), facts, checkpoint, command, tmp_path)


# --- outputs --------------------------------------------------------------------------------------------------------


def test_an_output_that_exists(checkpoint: Path, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_bytes(b"mine")
    refused(lambda _: None, ("out already holds model.onnx; --overwrite",), checkpoint, command, tmp_path)
    (out / "model.onnx").unlink()
    assert command("--model", checkpoint, "--output", out).code == 0
    refused(lambda _: None, ("out holds an earlier export; --overwrite replaces it",), checkpoint, command, tmp_path)
    assert command("--model", checkpoint, "--output", out, "--overwrite").code == 0
    shutil.rmtree(out)
    out.write_bytes(b"mine")
    refused(lambda _: None, ("out is a file; expected a folder",), checkpoint, command, tmp_path)


def test_a_failed_comparison_leaves_the_earlier_export(checkpoint: Path, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command("--model", checkpoint, "--output", out).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    ended = command("--model", checkpoint, "--output", out, "--overwrite", "--atol", "1e-30")
    assert ended.code == 3
    assert "does not answer like the original; nothing was written" in ended.error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not list(tmp_path.glob(".prune-export-*"))


def test_no_space(checkpoint: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1000))
    refused(lambda _: None, ("no space in", "MiB needed, 0 MiB free"), checkpoint, command, tmp_path)


def test_json_gives_the_error_on_stdout(checkpoint: Path, command: Command, tmp_path: Path) -> None:
    ended = command("--model", checkpoint, "--output", tmp_path / "out", "--opset", "1", "--json")
    assert json.loads(ended.out) == {"error": ended.error, "exit_code": 1}


# --- verify ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def exports(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`qa`, the export of the sound checkpoint; `classes`, of a text classifier; `relu.onnx`, of nothing."""
    folder = tmp_path_factory.mktemp("exports")
    classifier = make_checkpoint(folder / "classifier", model_class=BertForSequenceClassification)
    before = signal.getsignal(signal.SIGTERM)
    for checkpoint, name in ((sound, "qa"), (classifier, "classes")):
        assert main(["--model", str(checkpoint), "--output", str(folder / name), "--quiet", "--target", "cpu"]) == 0
    signal.signal(signal.SIGTERM, before)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "relu.onnx")
    return folder


def record(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "prune_export.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def record_text(text: str) -> Damage:
    return lambda folder: (folder / "prune_export.json").write_text(text)


def two_models(folder: Path) -> None:
    shutil.copyfile(folder / "model.onnx", folder / "other.onnx")
    (folder / "prune_export.json").unlink()


def no_files(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


EXPORTS = [
    pytest.param(shutil.rmtree, 1, ("no such file or folder; expected an exported model",), id="nowhere"),
    pytest.param(no_files, 1, ("expected one .onnx file; found none",), id="an empty folder"),
    pytest.param(two_models, 1, ("expected one .onnx file; found model.onnx, other.onnx",), id="two models"),
    pytest.param(record_text("{"), 1, ("prune_export.json: damaged",), id="a record that is no JSON"),
    pytest.param(record_text("[]"), 1, ("prune_export.json: damaged",), id="a record that is a list"),
    pytest.param(record(version=9), 1, ("prune_export.json", "version 1", "9 - at `$.version`"), id="a newer record"),
    pytest.param(
        record(model="gone.onnx"), 1, ("prune_export.json", "gone.onnx"), id="a record of a file that is gone"
    ),
    pytest.param(record(dtype="int3"), 1, ("int3",), id="a record of a dtype"),
    pytest.param(record(model=3), 1, ("prune_export.json",), id="a record of no model"),
    pytest.param(record(task="none"), 1, ("'none' - at `$.task`",), id="a record of a task"),
    pytest.param(
        rewritten(lambda content: content[:5000], "model.onnx"),
        1,
        ("model.onnx: ONNX Runtime cannot load it",),
        id="a cut model",
    ),
    pytest.param(
        rewritten(lambda _: b"", "model.onnx"), 1, ("model.onnx: ONNX Runtime cannot load it",), id="an empty model"
    ),
    pytest.param(record(plan_given=True), 2, ("exported with --plan; give the same --plan",), id="a plan is needed"),
]


@pytest.mark.parametrize(("damage", "code", "facts"), EXPORTS)
def test_verify_of_a_damaged_export(
    damage: Damage, code: int, facts: tuple[str, ...], sound: Path, exports: Path, command: Command, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exports / "qa", tmp_path / "onnx"))
    damage(folder)
    ended = command("verify", "--model", sound, "--onnx", folder)
    assert ended.code == code
    for fact in facts:
        assert fact in ended.error


def test_verify_of_another_tasks_model(sound: Path, exports: Path, command: Command) -> None:
    ended = command("verify", "--model", sound, "--onnx", exports / "classes")
    assert ended.code == 1
    assert "'text-classification' needs it" in ended.error
    ended = command("verify", "--model", sound, "--onnx", exports / "classes", "--task", "question-answering")
    assert ended.code == 3
    assert "has no output end_logits, start_logits; it has logits" in ended.error


def test_verify_with_an_empty_task(sound: Path, exports: Path, command: Command) -> None:
    ended = command("verify", "--model", sound, "--onnx", exports / "qa", "--task", "")
    assert "the task '' is not supported" in ended.error


def test_verify_of_a_model_with_other_inputs(sound: Path, exports: Path, command: Command) -> None:
    ended = command("verify", "--model", sound, "--onnx", exports / "relu.onnx")
    assert ended.code in (1, 3)
    assert "input" in ended.error


def test_verify_without_the_provider(sound: Path, exports: Path, command: Command) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    ended = command("verify", "--model", sound, "--onnx", exports / "qa", "--provider", "cuda")
    assert ended.code == 1
    assert "CUDAExecutionProvider is not in the installed onnxruntime" in ended.error
    assert "pip install 'prune-export[gpu]'" in ended.error


def test_verify_with_a_junit_file_that_cannot_be(sound: Path, exports: Path, command: Command, tmp_path: Path) -> None:
    ended = command("verify", "--model", sound, "--onnx", exports / "qa", "--junit", tmp_path)
    assert ended.code == 1
    assert str(tmp_path) in ended.error


def test_verify_gives_errors_as_json(sound: Path, tmp_path: Path, command: Command) -> None:
    ended = command("verify", "--model", sound, "--onnx", tmp_path / "none", "--json")
    assert json.loads(ended.out) == {"error": ended.error, "exit_code": 1}


# --- as a user runs it ----------------------------------------------------------------------------------------------


def as_process(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prune_export.cli.main", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_one_line_from_a_real_process(checkpoint: Path, tmp_path: Path) -> None:
    HALF(checkpoint)
    done = as_process("--model", checkpoint, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert done.stdout == ""
    progress, error = done.stderr.splitlines()
    assert progress == "Reading the checkpoint …"
    assert error.startswith(
        f"prune-export: error: {checkpoint / 'model.safetensors'}: damaged or truncated (38,876 bytes"
    )
    assert not (tmp_path / "out").exists()


def test_a_closed_pipe_is_no_traceback(sound: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "prune_export.cli.main", "--model", sound, "--output", tmp_path / "out"]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert "cannot write" not in done.stderr


@pytest.mark.parametrize(
    ("mode", "facts"),
    [
        ("model.safetensors", ("model.safetensors: no permission to read it",)),
        ("config.json", ("config.json: no permission to read it",)),
        (".", ("ermission",)),
    ],
)
def test_a_checkpoint_that_may_not_be_read(mode: str, facts: tuple[str, ...], sound: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        shutil.copytree(sound, folder / "checkpoint")
        for path in (folder / "checkpoint").iterdir():
            path.chmod(0o644)
        (folder / "checkpoint" / mode).chmod(0o600)
        before = signal.getsignal(signal.SIGTERM)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(writer, 2)
            code = 99
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                sys.stderr = os.fdopen(2, "w", closefd=False)
                code = main(["--model", str(folder / "checkpoint"), "--output", str(folder / "out"), "--quiet"])
                sys.stderr.flush()
            finally:
                os._exit(code)
        os.close(writer)
        with os.fdopen(reader) as file:
            error = file.read()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        signal.signal(signal.SIGTERM, before)
        assert "Traceback" not in error
        error = error.splitlines()[-1]  # ONNX Runtime may warn first that it has no home folder to keep its events in
        assert error.startswith("prune-export: error: ")
        for fact in facts:
            assert fact in error
        assert not (folder / "out").exists()
