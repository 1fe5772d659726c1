"""A model folder whose configuration leads to code, to the network or to another model is refused before it does.

Where a package that transformers would call is not installed, a stub of it records that it was reached; the same folder
given to transformers directly shows that the stub is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import BertConfig, BertForQuestionAnswering, BertModel

from exporters.errors import CheckpointError
from prune_export import inspect
from prune_export.checkpoint.config_keys import check_config, own_attention
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.checkpoint.source import Source
from prune_export.checkpoint.tokenizer import load_tokenizer
from prune_export.cli.main import main
from prune_export.parity.inputs import text_tokenizer
from prune_export.training.starting_checkpoint import write_with_head
from tests.tiny_checkpoints import change_config, make_checkpoint
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer
from tests.tiny_training import SIZES, questions_file, tiny_recipe

ROOT = Path(__file__).resolve().parent.parent

# --- stubs of the packages that transformers would call ----------------------------------------------------------------

_NOTE = """
import os
def note(text):
    with open(os.environ["RECORD"], "a") as file:
        file.write(text + "\\n")
"""
_KERNELS = (
    _NOTE
    + """
class Kind(type):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything
class Anything(metaclass=Kind):
    def __init__(self, *arguments, **options): pass
    def __call__(self, *arguments, **options): return Anything()
def same(*arguments, **options): return lambda kind: kind
use_kernel_forward_from_hub = use_kernel_func_from_hub = use_kernelized_func = same
def get_kernel(name, *arguments, **options):
    note(f"kernel {name}")
    raise RuntimeError("the stub was reached")
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Anything
"""
)
_IMPORTED = _NOTE + "note(f'imported {__name__}')\n"
_OWN_CODE = (
    _NOTE + "note('own code')\nfrom transformers import BertConfig\nclass Own(BertConfig):\n    model_type = 'bert'\n"
)

_TRANSFORMERS = """
import json, sys
from transformers import AutoConfig, BertForQuestionAnswering
for name, folder in json.loads(sys.argv[1]).items():
    print(name, flush=True)
    try:
        if name == "own code":
            AutoConfig.from_pretrained(folder, trust_remote_code=True)
        else:
            BertForQuestionAnswering.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        print(" ".join(str(error).split()), flush=True)
"""
_OURS = """
import json, sys
import prune_export
from prune_export.cli.main import main
print(prune_export.__file__, flush=True)
for name, folder in json.loads(sys.argv[1]).items():
    print(name, main(["--model", folder, "--output", folder + "-out", "--quiet", "--samples", "4"]), flush=True)
"""

CASES: dict[str, dict[str, Any]] = {
    "kernel": {"_attn_implementation": "owner/kernel"},
    "kernel by another name": {"attribute_map": {"x": "_attn_implementation_internal"}, "x": "owner/other"},
    "flash attention": {"_attn_implementation": "flash_attention_2"},
    "quantizer": {
        "quantization_config": {"quant_method": "compressed-tensors", "config_groups": {}, "format": "dense"}
    },
    "own code": {"auto_map": {"AutoConfig": "own.Own"}},
}


def stubs(folder: Path) -> Path:
    """`kernels`, `peft` and `compressed_tensors`, as if installed."""
    for name, content, version in (
        ("kernels", _KERNELS, "0.18.2"),
        ("compressed_tensors", _IMPORTED, "0.99.0"),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(content)
        metadata = folder / f"{name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def run(script: str, folders: dict[str, str], stub: Path, record: Path) -> tuple[str, str]:
    """What `script` printed, and what the stubs recorded."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(stub), str(ROOT))),
        "RECORD": str(record),
        "HF_MODULES_CACHE": str(record.parent / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    ended = subprocess.run(
        [sys.executable, "-c", script, json.dumps(folders)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr, record.read_text() if record.exists() else ""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("hostile")
    found = {}
    for number, (name, keys) in enumerate(CASES.items()):
        folder = make_checkpoint(root / str(number))
        change_config(folder, **keys)
        (folder / "own.py").write_text(_OWN_CODE)
        found[name] = str(folder)
    return found


def test_transformers_alone_would_reach_each_stub(folders: dict[str, str], tmp_path: Path) -> None:
    printed, record = run(_TRANSFORMERS, folders, stubs(tmp_path / "stubs"), tmp_path / "record")
    assert "kernel owner/kernel" in record, printed
    if transformers.__version__ >= "5":  # before, BERT had none
        assert "kernel kernels-community/" in record, printed
    assert "imported compressed_tensors" in record, printed
    assert "own code" in record, printed
    assert transformers.__version__ >= "5" or "kernel owner/other" in record, printed


def test_no_stub_is_reached(folders: dict[str, str], tmp_path: Path) -> None:
    printed, record = run(_OURS, folders, stubs(tmp_path / "stubs"), tmp_path / "record")
    assert record == ""
    assert str(ROOT) in printed
    assert "flash attention 0" in printed, printed  # a plain name, and ignored
    for name in folders.keys() - {"flash attention"}:
        assert f"{name} 1" in printed, printed
    for fact in (
        "'owner/kernel'",
        "has attribute_map",
        "has quantization_config",
        "runs its own code",
        "never run here",
    ):
        assert fact in printed
    assert "Traceback" not in printed


# --- the keys, one by one ----------------------------------------------------------------------------------------------


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 1) -> str:
    """The one line of an error."""
    capsys.readouterr()
    assert main([*map(str, words), "--quiet"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    return printed.err


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"_attn_implementation": "owner/kernel@main:name"}, "fetch and run code"),
        ({"attn_implementation": "owner/kernel"}, "attn_implementation is 'owner/kernel'"),
        ({"_attn_implementation_internal": "owner/kernel"}, "fetch and run code"),
        ({"_attn_implementation": {"": "owner/kernel"}}, "fetch and run code"),
        ({"_attn_implementation": ["sdpa"]}, "fetch and run code"),
        ({"_attn_implementation": "paged|owner/kernel"}, "fetch and run code"),
        ({"_attn_implementation": 3}, "fetch and run code"),
        ({"_experts_implementation": "owner/kernel"}, "fetch and run code"),
        ({"text_config": {"x": [{"_attn_implementation": "owner/kernel"}]}}, "fetch and run code"),
        ({"auto_map": {"AutoModel": "owner/name--modeling.Own"}}, "runs its own code"),
        ({"auto_map": "x"}, "runs its own code"),
        ({"text_config": {"auto_map": {"AutoConfig": "a.B"}}}, "runs its own code"),
        ({"custom_pipelines": {"x": {"impl": "own.Own"}}}, "runs its own code"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized weights"),
        ({"compression_config": {"x": 1}}, "compressed weights"),
        ({"use_kernels": True}, "kernels"),
        ({"base_model_name_or_path": "owner/other"}, "adapter"),
        ({"configuration_files": ["config.4.0.0.json"]}, "another file"),
        ({"transformers_weights": "../other.safetensors"}, "another file"),
        ({"gguf_file": "x.gguf"}, "another file"),
        ({"sub_configs": {"x": 1}}, "sub_configs"),
        ({"per_layer_config": {"0": {"hidden_size": 3}}}, "per_layer_config"),
        ({"fusion_config": {"patch_embeddings": True}}, "fusion_config"),
        ({"distributed_config": {"tp_plan": "auto"}}, "distributed_config"),
        ({"dtype": "load"}, "expected dtype to name a type such as float32; found 'load'"),
        ({"torch_dtype": ["float32"]}, "expected torch_dtype"),
        ({"dtype": "hub.load"}, "expected dtype"),
        ({"chunk_size_feed_forward": "2"}, "chunk_size_feed_forward to be a whole number of 0 or more; found '2'"),
        ({"chunk_size_feed_forward": -1}, "found '-1'"),
        ({"chunk_size_feed_forward": True}, "found 'True'"),
        ({"chunk_size_feed_forward": 1.5}, "found '1.5'"),
    ],
)
def test_a_key_is_refused(
    changes: dict[str, Any], fact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_checkpoint(tmp_path / "model")
    change_config(folder, **changes)
    line = refusal(capsys, "--model", folder, "--output", tmp_path / "out")
    assert fact in line
    assert "config.json" in line
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        inspect(folder)
    recipe = tiny_recipe(tmp_path, model=str(folder), task="question-answering")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        write_with_head(Source(str(folder), folder, None), recipe, tmp_path / "head")


@pytest.mark.parametrize(
    "keys",
    [
        {"_attn_implementation": None, "auto_map": None, "quantization_config": None, "use_kernels": False},
        {
            "_attn_implementation": "eager",
            "torch_dtype": "float16",
            "_name_or_path": "owner/name",
            "_commit_hash": "00",
        },
        {"_attn_implementation": "flex_attention", "dtype": "bfloat16", "_attn_implementation_autoset": True},
        {"label2id": {"auto_map": 0, "use_kernels": 1}},
    ],
)
def test_what_does_no_harm_is_taken(keys: dict[str, Any]) -> None:
    check_config(keys, "config.json")


def test_deep_configurations_are_looked_through() -> None:
    inner: dict[str, Any] = {"auto_map": {"AutoConfig": "a.B"}}
    for _ in range(100_000):
        inner = {"x": [inner]}
    with pytest.raises(CheckpointError, match="own code"):
        check_config(inner, "config.json")
    while inner:  # Python would take it apart recursively
        inner = inner["x"].pop() if "x" in inner else {}


# --- what models are made with -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["eager", "flash_attention_2", "flex_attention", None])
def test_the_attention_is_our_own(named: str | None, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    change_config(folder, _attn_implementation=named)
    oracle: Any = load_reference_model(load_checkpoint(folder))
    assert oracle.config._attn_implementation == "sdpa"


def test_eager_where_the_class_has_nothing_else() -> None:
    class Plain(BertModel):
        _supports_sdpa = False

    assert own_attention(BertConfig(), Plain)._attn_implementation == "eager"


def test_the_attention_is_the_default_of_transformers(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    oracle: Any = load_reference_model(load_checkpoint(folder))
    default = BertForQuestionAnswering.from_pretrained(folder).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(oracle(ids).start_logits, default(ids).start_logits)


def test_chunks_of_the_feed_forward_change_nothing(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    plain: Any = load_reference_model(load_checkpoint(folder))
    change_config(folder, chunk_size_feed_forward=8)
    chunked: Any = load_reference_model(load_checkpoint(folder))
    ids = torch.arange(5, 20)[None]  # of no multiple of 8
    with torch.no_grad():
        assert torch.equal(chunked(ids).start_logits, plain(ids).start_logits)
        with pytest.raises(ValueError, match="multiple"):
            BertForQuestionAnswering.from_pretrained(folder).eval()(ids)
    assert main(["--model", str(folder), "--output", str(tmp_path / "out"), "--quiet", "--samples", "4"]) == 0


# --- adapters and tokenizers -------------------------------------------------------------------------------------------


def test_an_adapter_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_checkpoint(tmp_path / "model")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "elsewhere")}))
    assert "merge the adapter" in refusal(capsys, "--model", folder, "--output", tmp_path / "out")
    with pytest.raises(CheckpointError, match="adapter"):
        write_with_head(
            Source(str(folder), folder, None),
            tiny_recipe(tmp_path, model=str(folder), task="question-answering"),
            tmp_path / "head",
        )


def tokenizer_folder(folder: Path) -> Path:
    return save_with_tokenizer(BertModel(BertConfig(**SIZES, num_attention_heads=4)), bert_tokenizer(), folder)


def change_tokenizer(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}, "runs its own code"),
        ({"auto_map": ["own.Own", None]}, "runs its own code"),
        ({"gguf_file": "x"}, "has gguf_file"),
        ({"init_inputs": ["/etc/passwd"]}, "has init_inputs"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "needs a fast tokenizer"),
        ({"tokenizer_class": "RagTokenizer"}, "needs a fast tokenizer"),
        ({"tokenizer_class": "pipeline"}, "needs a fast tokenizer"),
        ({"tokenizer_class": "AutoModel"}, "needs a fast tokenizer"),
        ({"tokenizer_class": 3}, "needs a fast tokenizer"),
        ({"tokenizer_class": ["BertTokenizer"]}, "needs a fast tokenizer"),
    ],
)
def test_a_tokenizer_is_refused(changes: dict[str, Any], fact: str, tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "model")
    assert load_tokenizer(folder) is not None
    change_tokenizer(folder, **changes)
    with pytest.raises(CheckpointError, match=fact):
        load_tokenizer(folder)
    encoder: Any = None
    assert text_tokenizer(folder, encoder)[0] is None


def test_the_class_that_config_json_names_is_checked(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "model")
    change_tokenizer(folder, tokenizer_class=None)
    change_config(folder, tokenizer_class="RagTokenizer")
    with pytest.raises(CheckpointError, match="needs a fast tokenizer"):
        load_tokenizer(folder)


def test_an_exported_folder_with_a_hostile_config(tmp_path: Path) -> None:
    """evaluate and verify read a tokenizer through config.json, which AutoTokenizer reads, too."""
    folder = tokenizer_folder(tmp_path / "model")
    change_config(folder, _attn_implementation="owner/kernel")
    with pytest.raises(CheckpointError, match="owner/kernel"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["tokenizer_file", "vocab_file"])
def test_transformers_would_read_the_other_file(name: str, tmp_path: Path) -> None:
    """The refusal has a reason: the key wins over the folder's own file, in transformers 4."""
    from transformers import AutoTokenizer

    if transformers.__version__ >= "5":
        pytest.skip("transformers 5 takes the folder's files")
    folder = tokenizer_folder(tmp_path / "model")
    change_tokenizer(folder, **{name: str(tmp_path / "nowhere")})
    if name == "vocab_file":
        (folder / "tokenizer.json").unlink()
    load: Callable[..., Any] = AutoTokenizer.from_pretrained
    with pytest.raises(Exception, match=r"No such file|Can't find|Converting from"):
        load(folder)


# --- configurations that load others ---------------------------------------------------------------------------------


def code_of_its_own(folder: Path, marker: Path) -> Path:
    """A model's folder whose configuration is Python that makes `marker`."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "evilx", "auto_map": {"AutoConfig": "evil.C"}}))
    code = "from transformers import PretrainedConfig\n"
    code += f"open({str(marker)!r}, 'w').close()\nclass C(PretrainedConfig):\n    model_type = 'evilx'\n"
    (folder / "evil.py").write_text(code)
    return folder


def nested(folder: Path) -> dict[str, Any]:
    """A configuration that transformers 4 loads another model's by, with the leave to run its code in it."""
    inner = {"model_type": "evilx", "_name_or_path": str(folder)}
    return {"model_type": "lightglue", "trust_remote_code": True, "keypoint_detector_config": inner}


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers copies code to be run into a folder, and keeps what it has imported."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


def test_transformers_runs_the_code_of_a_configuration_in_a_configuration(tmp_path: Path) -> None:
    """The reason for what follows: nobody asked for the inner model, and trust_remote_code=False was given."""
    if transformers.__version__ >= "5":
        pytest.skip("transformers 5 has no such configuration")
    marker = tmp_path / "ran"
    evil = code_of_its_own(tmp_path / "evil", marker)
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / "config.json").write_text(json.dumps(nested(evil)))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    script = "import sys, transformers; transformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=False)"
    subprocess.run([sys.executable, "-c", script, str(outer)], env=environment, check=False, capture_output=True)
    assert marker.exists()
    marker.unlink()
    script = "import sys, transformers\nfrom prune_export.checkpoint.remote_code import no_remote_code\n"
    script += "with no_remote_code(): transformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=False)"
    ended = subprocess.run(
        [sys.executable, "-c", script, str(outer)], env=environment, check=False, capture_output=True, text=True
    )
    assert "RemoteCodeError" in ended.stderr
    assert not marker.exists()


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("verb", ["evaluate", "export", "prune", "verify", "bench"])
@pytest.mark.parametrize("kind", ["nested", "NaN", "surrogate", "rag"])
def test_no_verb_runs_it(
    verb: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the model_type, through a class of tokenizers, and where our reader and transformers' differ."""
    marker = tmp_path / "ran"
    evil = code_of_its_own(tmp_path / "evil", marker)
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # who is asked says yes
    model = tokenizer_folder(tmp_path / "model")
    questions = questions_file(tmp_path / "questions.json", count=8)
    assert (
        main(["--model", str(model), "--output", str(tmp_path / "onnx"), "--target", "cpu", "--no-verify", "--quiet"])
        == 0
    )
    folder = tmp_path / "onnx" if verb in ("evaluate", "verify") else model
    if kind == "nested":
        (folder / "config.json").write_text(json.dumps(nested(evil)))
        (folder / "tokenizer_config.json").write_text("{}")
    elif kind == "rag":
        inner = {"model_type": "resnet"}
        (folder / "config.json").write_text(
            json.dumps({"model_type": "rag", "question_encoder": inner, "generator": inner})
        )
        (folder / "tokenizer_config.json").write_text("{}")
        for part in ("question_encoder_tokenizer", "generator_tokenizer"):
            shutil.copytree(evil, folder / part)
            (folder / part / "tokenizer_config.json").write_text(
                json.dumps({"auto_map": {"AutoTokenizer": ["evil.C", None]}})
            )
    else:
        change_config(folder, question_encoder=nested(evil), generator=nested(evil))
        value = "NaN" if kind == "NaN" else '"\\ud800"'
        (folder / "tokenizer_config.json").write_text(f'{{"tokenizer_class": "RagTokenizer", "x": {value}}}')
    words = {
        "evaluate": ["--model", folder, "--data", questions, "--max-seq-length", "24", "--doc-stride", "4"],
        "export": ["--model", folder, "--output", tmp_path / "out", "--samples", "4"],
        "prune": ["--model", folder, "--calibration", questions, "--flops", "0.7", "--output", tmp_path / "out"],
        "verify": ["--model", model, "--onnx", folder, "--samples", "4"],
        "bench": [
            "--model",
            folder,
            "--rows",
            "optimum",
            "--batch-size",
            "1",
            "--sequence-length",
            "8",
            "--rounds",
            "1",
        ],
    }[verb]
    if verb == "bench":
        pytest.importorskip("optimum.exporters.onnx")
        words += ["--seconds", "0.01"]
    code = main([verb, *map(str, words), "--quiet"])
    assert not marker.exists()
    assert "Traceback" not in capsys.readouterr().err
    assert code in (0, 1)  # a tokenizer that is not loaded is left out where one can do without
