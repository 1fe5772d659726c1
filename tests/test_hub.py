"""The command with a hub id: real processes against a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import string
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering, BertTokenizerFast

from tests.hub_server import HubServer

pytestmark = pytest.mark.network

ID = "madlag/bert-base-uncased-squadv1-x2.44-f87.7-d26-hybrid-filled-v1"
TOKEN = "hf_the_right_one"
HIDDEN, HEADS, LAYERS, INTERMEDIATE = 32, 4, 2, 48
PRUNED_HEADS = {0: [1, 3], 1: []}
PRUNED_COLUMNS = {0: [0, 5, 6, 7], 1: [47]}
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *".,?'",
    *string.ascii_lowercase,
    *(f"##{letter}" for letter in "aeinorst"),
    *("the", "of", "is", "in", "and", "long", "bridge", "town", "birds", "eat", "winter", "what", "how", "was"),
]


@dataclass(frozen=True, slots=True)
class Machine:
    """A user's machine: runs the command in an environment that knows the hub at `endpoint` and has its own cache."""

    home: Path
    endpoint: str

    @property
    def cache(self) -> Path:
        return self.home / "hub"

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING")) and not name.lower().endswith("_proxy")
        }
        own = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.home),
            "HF_HUB_CACHE": str(self.cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return subprocess.run(
            [sys.executable, "-m", "prune_export.cli.main", *map(str, arguments), "--quiet"],
            env=kept | own | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def export(self, model: str, output: Path, *arguments: str | Path, **environment: str) -> dict[str, Any]:
        """Exports, which must succeed; the record."""
        result = self.run("--model", model, "--output", output, "--samples", "4", *arguments, **environment)
        assert result.returncode == 0, result.stderr
        record = json.loads((output / "prune_export.json").read_text(encoding="utf-8"))
        assert isinstance(record, dict)
        return record

    def revision(self, model: str, *arguments: str | Path, **environment: str) -> str:
        """The commit that --dry-run, which must succeed, has looked at."""
        result = self.run("--model", model, "--dry-run", "--json", *arguments, **environment)
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout)["source"]
        assert found["model"] == model
        return str(found["revision"])

    def refusal(self, model: str, output: Path, *arguments: str | Path, alone: bool = False, **environment: str) -> str:
        """The one line of the command's error, which must be the user's to mend and leave nothing behind.

        `alone` where stderr must hold that line only: huggingface_hub writes its bars and warnings there too.
        """
        result = self.run("--model", model, "--output", output, *arguments, **environment)
        assert result.returncode == 1, (result.returncode, result.stdout, result.stderr)
        assert "Traceback" not in result.stderr
        assert result.stdout == ""
        assert not output.exists()
        *others, line = result.stderr.splitlines()
        assert line.startswith(f"prune-export: error: '{model}'"), result.stderr
        assert not alone or not others, result.stderr
        return line


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def machine(hub: HubServer, tmp_path: Path) -> Machine:
    return Machine(tmp_path / "home", hub.endpoint)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's folder like the published ones: weights in two formats, and files that no export needs."""
    folder = tmp_path_factory.mktemp("checkpoint")
    weights = write_checkpoint(folder)
    torch.save(weights, folder / "pytorch_model.bin")
    for name in ("tf_model.h5", "training_args.bin", "model_card/big.png", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not needed")
    return folder


def write_checkpoint(folder: Path, *, seed: int = 0) -> dict[str, Tensor]:
    """Writes config.json, model.safetensors and the tokenizer in the hub's form: heads cut out, columns zeroed.

    The heads are cut by hand, since transformers 5 cannot do it any more.
    """
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_hidden_layers=LAYERS,
        intermediate_size=INTERMEDIATE,
        max_position_embeddings=128,
    )
    generator = torch.Generator().manual_seed(seed)
    shapes = BertForQuestionAnswering(config).state_dict()
    weights = {
        name: torch.randn(value.shape, generator=generator) * 0.2 for name, value in sorted(shapes.items())
    }  # the biases too, which a fresh network has at zero
    for layer in range(LAYERS):
        name = f"bert.encoder.layer.{layer}"
        width = HIDDEN // HEADS
        gone = {head * width + offset for head in PRUNED_HEADS[layer] for offset in range(width)}
        rows = torch.tensor([row for row in range(HIDDEN) if row not in gone])
        for part in ("query", "key", "value"):
            weights[f"{name}.attention.self.{part}.weight"] = weights[f"{name}.attention.self.{part}.weight"][rows]
            weights[f"{name}.attention.self.{part}.bias"] = weights[f"{name}.attention.self.{part}.bias"][rows]
        out = f"{name}.attention.output.dense.weight"
        weights[out] = weights[out][:, rows].contiguous()
        weights[f"{name}.intermediate.dense.weight"][PRUNED_COLUMNS[layer]] = 0
        weights[f"{name}.intermediate.dense.bias"][PRUNED_COLUMNS[layer]] = 0
        weights[f"{name}.output.dense.weight"][:, PRUNED_COLUMNS[layer]] = 0
    said = json.loads(config.to_json_string(use_diff=False)) | {
        "architectures": ["BertForQuestionAnswering"],
        "pruned_heads": {str(layer): heads for layer, heads in PRUNED_HEADS.items()},
    }
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    assert (folder / "tokenizer.json").is_file()
    return weights


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_hub_id_is_exported(hub: HubServer, machine: Machine, checkpoint: Path, tmp_path: Path) -> None:
    commit = hub.add(ID, checkpoint)
    output = tmp_path / "out"
    record = machine.export(ID, output)
    beside = {"config.json"} | {
        path.name for path in checkpoint.iterdir() if path.name.startswith(("tokenizer", "vocab", "special_tokens"))
    }
    # Only what is needed was downloaded: safetensors and not the same weights pickled, nothing of another framework.
    assert hub.downloads == {*beside, "model.safetensors"}
    assert {path.name for path in output.iterdir()} == {*beside, "model.onnx", "prune_export.json"}
    for name in beside:
        assert digest(output / name) == digest(checkpoint / name)
    assert record["source"]["model"] == ID
    assert record["source"]["revision"] == commit
    assert record["source"]["form"] == "hub"
    assert record["source"]["weights_sha256"] == {"model.safetensors": digest(checkpoint / "model.safetensors")}
    assert record["parity"]["passed"] is True
    assert [layer["heads"] for layer in record["plan"]["layers"]] == ["0,2", "0-3"]  # what is kept
    assert [layer["columns"] for layer in record["plan"]["layers"]] == ["1-4,8-47", "0-46"]

    # From now on the cache is enough: where the hub must not be asked, is down, or is gone.
    asked = hub.requests
    assert machine.export(ID, tmp_path / "offline", HF_HUB_OFFLINE="1")["source"] == record["source"]
    assert hub.requests == asked
    hub.failing = True
    assert machine.revision(ID) == commit
    assert hub.requests > asked
    hub.stop()
    assert machine.export(ID, tmp_path / "gone")["source"] == record["source"]
    assert digest(tmp_path / "gone/model.onnx") == digest(output / "model.onnx")


@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["unreachable", "offline"])
def test_without_hub_and_cache(
    hub: HubServer, machine: Machine, checkpoint: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    hub.add(ID, checkpoint)
    if not environment:
        hub.stop()
    message = machine.refusal(ID, tmp_path / "out", alone=True, **environment)
    assert "the hub cannot be reached, and the cache does not hold all of it" in message
    assert ("Connection refused" in message) == (not environment)
    assert hub.requests == 0


def test_revisions(hub: HubServer, machine: Machine, checkpoint: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, seed=1)
    first = hub.add(ID, tmp_path, refs=("v1.0", "refs/pr/1"))
    last = hub.add(ID, checkpoint)
    record = machine.export(ID, tmp_path / "tag", "--revision", "v1.0")
    assert record["source"]["revision"] == first
    assert record["source"]["weights_sha256"] == {"model.safetensors": digest(tmp_path / "model.safetensors")}
    assert machine.revision(ID, "--revision", "refs/pr/1") == first
    assert machine.revision(ID, "--revision", last) == last
    message = machine.refusal(ID, tmp_path / "unknown", "--revision", "v9")
    assert message.endswith(f"'{ID}' has no revision 'v9' on the hub")
    # A commit is found in the cache too; a branch that was never asked for is not.
    hub.stop()
    assert machine.revision(ID, "--revision", last) == last
    assert "the cache does not hold all of revision 'main'" in machine.refusal(
        ID, tmp_path / "main", "--revision", "main"
    )


def test_refusals_of_the_hub(hub: HubServer, machine: Machine, checkpoint: Path, tmp_path: Path) -> None:
    commit = hub.add("owner/private", checkpoint, token=TOKEN)
    hub.add("owner/gated", checkpoint, gated=True)
    output = tmp_path / "out"
    assert "no such repository on the hub (a private one needs --token)" in machine.refusal("owner/none", output)
    assert "no such repository on the hub (a private one needs --token)" in machine.refusal("owner/private", output)
    assert "the hub refuses access; check --token" in machine.refusal("owner/private", output, "--token", "hf_wrong")
    assert "is gated: accept its terms on the hub and pass --token" in machine.refusal("owner/gated", output)
    assert hub.downloads == set()
    assert machine.revision("owner/private", "--token", TOKEN) == commit
    assert "model.safetensors" in hub.downloads


def test_a_repository_without_weights(hub: HubServer, machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/tf_model.h5").write_bytes(b"of another framework")
    hub.add("owner/none", tmp_path / "repository")
    message = machine.refusal("owner/none", tmp_path / "out")
    assert "no weights on the hub; expected one of slim.safetensors, model.safetensors, " in message
    assert hub.downloads == set()


@pytest.mark.parametrize("name", ["a/b/c", "./nowhere"])
def test_neither_a_folder_nor_an_id(hub: HubServer, machine: Machine, tmp_path: Path, name: str) -> None:
    message = machine.refusal(name, tmp_path / "out", alone=True)
    assert message.endswith(f"'{name}': no such folder, and not a hub id (owner/name) either")
    assert hub.requests == 0


def test_the_cache_is_where_it_was_asked_for(
    hub: HubServer, machine: Machine, checkpoint: Path, tmp_path: Path
) -> None:
    commit = hub.add(ID, checkpoint)
    own = tmp_path / "own"
    assert machine.revision(ID, "--cache-dir", own) == commit
    snapshot = own / f"models--{ID.replace('/', '--')}" / "snapshots" / commit
    assert digest(snapshot / "model.safetensors") == digest(checkpoint / "model.safetensors")
    assert not machine.cache.exists() or not any(machine.cache.glob("models--*"))
    hub.stop()
    assert machine.revision(ID, "--cache-dir", own) == commit


@pytest.mark.parametrize("form", ["pickled", "sharded"])
def test_other_forms_of_weights(hub: HubServer, machine: Machine, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    weights = write_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    if form == "pickled":
        torch.save(weights, folder / "pytorch_model.bin")
        files = {"pytorch_model.bin"}
    else:
        files = write_shards(folder, weights)
    hub.add(ID, folder)
    record = machine.export(ID, tmp_path / "out")
    assert record["parity"]["passed"] is True
    assert record["source"]["weights_sha256"] == {name: digest(folder / name) for name in files}


def write_shards(folder: Path, weights: dict[str, Tensor]) -> set[str]:
    """Writes the weights as two safetensors files and their index; returns the names of all three."""
    names = sorted(weights)
    parts = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, held in parts.items() for name in held}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    return {index.name, *parts}


def test_a_broken_connection(hub: HubServer, machine: Machine, checkpoint: Path, tmp_path: Path) -> None:
    commit = hub.add(ID, checkpoint)
    output = tmp_path / "out"
    hub.cut = {"tokenizer.json"}
    failed = "the download from the hub failed; run the command again"
    assert failed in machine.refusal(ID, output)
    # A cache with the weights counts as whole, so they must not come before the rest.
    assert "model.safetensors" not in hub.downloads
    hub.cut = {"model.safetensors"}
    assert failed in machine.refusal(ID, output)
    assert hub.downloads >= {"config.json", "tokenizer.json", "model.safetensors"}
    assert "the cache does not hold all of it" in machine.refusal(ID, output, HF_HUB_OFFLINE="1")
    hub.cut = set()
    record = machine.export(ID, output)
    assert record["source"]["revision"] == commit
    assert record["source"]["weights_sha256"] == {"model.safetensors": digest(checkpoint / "model.safetensors")}
    assert record["parity"]["passed"] is True
