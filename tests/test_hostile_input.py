"""Files that were made to hang, to fill the memory or to reach what is not theirs: one line, at once, in bounded memory."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from exporters.errors import CheckpointError, DataError, OutputError, PlanError, UsageError, WeightsError
from prune_export.checkpoint import sizes
from prune_export.checkpoint.folder import own_files
from prune_export.checkpoint.tokenizer import load_tokenizer, read_config
from prune_export.checkpoint.weights import read_weights
from prune_export.cli.main import main
from prune_export.data.read import read_examples
from prune_export.facts.plan import read_plan
from prune_export.facts.record import find_exported
from prune_export.families import FAMILIES
from prune_export.files.reading import ReadingError, clipped, decode_json, read_bytes, user_path
from prune_export.training.checkpoints import check_state
from prune_export.training.recipe_file import read_recipe
from prune_export.verbs.load_session import load_session
from tests.confined import Ended, confined
from tests.tiny_checkpoints import change_config, make_checkpoint, to_pickle, to_shards, write_index
from tests.tiny_tokenizers import bert_tokenizer

Attack = Callable[[Path], object]

SECONDS = 10
MEBIBYTES = 300
DEEP = "[" * 100_000
LONGEST_LINE = 900  # of an error: a temporary folder's path, and what is said about it


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with a tokenizer."""
    folder = make_checkpoint(tmp_path_factory.mktemp("hostile") / "checkpoint", vocabulary=90)
    bert_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A child of fork has no other threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def refused(*words: str | Path, facts: tuple[str, ...], code: int = 1, mebibytes: float = MEBIBYTES) -> Ended:
    """Runs the command line confined; it has to end with one line that holds `facts`, soon and within the memory."""
    ended = confined(lambda: main([*map(str, words), "--quiet"]))
    assert ended.code == code, (ended.code, ended.error[-2000:])
    assert ended.error.startswith("prune-export: error: ")
    assert ended.error.count("\n") == 1, ended.error
    assert len(ended.error) < LONGEST_LINE, ended.error
    for fact in facts:
        assert fact in ended.error, ended.error
    assert ended.seconds < SECONDS
    assert ended.mebibytes < mebibytes
    return ended


def raises(kind: type[Exception], work: Callable[[], object], *facts: str, mebibytes: float = MEBIBYTES) -> None:
    """Runs `work` confined; it has to raise exactly `kind` with one line that holds `facts`."""

    def run() -> int:
        try:
            work()
        except Exception as error:
            print(type(error).__name__, error)
        return 0

    ended = confined(run)
    assert ended.code == 0, (ended.code, ended.error[-2000:])
    assert ended.out.split(" ")[0] == kind.__name__, ended.out[:2000]
    assert ended.out.count("\n") == 1, ended.out
    assert len(ended.out) < LONGEST_LINE
    for fact in facts:
        assert fact in ended.out, ended.out
    assert ended.seconds < SECONDS
    assert ended.mebibytes < mebibytes


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link(path: Path, target: str | Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def text(name: str, content: str) -> Attack:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def sparse(path: Path, size: int) -> None:
    """A file that says to be large and takes no room."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


# --- the reader itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (pipe, "not a regular file but a pipe"),
        (lambda path: link(path, "/dev/zero"), "not a regular file but a device"),
        (Path.mkdir, "not a regular file but a folder"),
        (lambda path: sparse(path, 1 << 40), "too large: 1,099,511,627,776 bytes; at most 1,000 are read"),
        (lambda path: link(path, path.name), "a link that leads to itself"),
        (lambda path: link(path, "/proc/self/smaps"), "too large; at most 1,000 bytes are read"),
        (lambda _: None, "no such file"),
    ],
    ids=["pipe", "device", "folder", "huge", "loop", "grows", "nothing"],
)
def test_only_regular_files_of_bounded_size_are_read(
    make: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    make(tmp_path / "file")
    start = time.monotonic()
    with pytest.raises(ReadingError) as found:
        read_bytes(tmp_path / "file", limit=1_000)
    assert str(found.value) == reason
    assert found.value.missing is (reason == "no such file")
    assert time.monotonic() - start < 1


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(ReadingError, match=r"^not a regular file$"):
            read_bytes(Path("socket"), limit=1_000)


def test_a_file_within_the_limit_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1_000)
    assert read_bytes(tmp_path / "file", limit=1_000) == b"x" * 1_000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (DEEP.encode(), "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"1" * 5_000, "out of range"),
        (b"NaN", "malformed"),
        (b"[-Infinity]", "malformed"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"", "truncated"),
        (b'{"a": 1} {', "malformed"),
    ],
    ids=["deep list", "deep object", "digits", "NaN", "infinity", "1e999", "not UTF-8", "empty", "more"],
)
def test_what_is_no_json(content: bytes, reason: str) -> None:
    with pytest.raises(ReadingError) as found:
        decode_json(content, object)
    assert reason in str(found.value)
    assert "\n" not in str(found.value)


def test_a_type_that_was_not_expected() -> None:
    with pytest.raises(ReadingError, match=r"^expected `int`, got `str` - at `\$\[0\]`$"):
        decode_json('["a"]', list[int])


def test_quoted_content_stays_on_one_short_line() -> None:
    assert clipped("a\nb\x1b[31m\u2028") == "a\\nb\\x1b[31m\\u2028"
    assert len(clipped("x" * 10_000)) == 80


@pytest.mark.parametrize(
    "name", ["~nobody-of-that-name/x", "a\0b", "x" * 300, "a/" * 5_000], ids=["nobody", "NUL", "long", "deep"]
)
def test_paths_that_cannot_be(name: str, tmp_path: Path) -> None:
    with pytest.raises(ReadingError) as found:
        user_path(name)
    assert "\n" not in str(found.value)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("model = 'm'\noutput = 'o'\n[data]\ntrain = 'd'\n")
    for words in (
        ("inspect", "--model", name),
        ("verify", "--model", tmp_path, "--onnx", name),
        ("evaluate", "--model", tmp_path, "--data", name + ".json"),
    ):
        if "\0" not in name:  # no command line can hold it
            refused(*words, facts=("error",), code=2 if words[0] == "verify" else 1)
    if "\0" not in name:
        refused("bench", "--onnx", name, facts=("no path can be",) if name[0] == "~" else (), code=2)
        refused("inspect", "--model", "owner/name", "--cache-dir", name, code=2, facts=())
    with pytest.raises(CheckpointError):
        read_weights_of(name)
    with pytest.raises(DataError):
        read_examples(name + ".json")
    with pytest.raises(OutputError):
        find_exported(name)


def read_weights_of(name: str) -> None:
    from prune_export.checkpoint.load import load_checkpoint

    load_checkpoint(name)


# --- config.json ----------------------------------------------------------------------------------------------------


def config(**changes: object) -> Attack:
    return lambda folder: change_config(folder, **changes)


CONFIGS = [
    pytest.param(config(num_labels=10**9), ("num_labels; found 1000000000",), id="labels"),
    pytest.param(config(num_labels=2.5), ("num_labels; found 2.5",), id="labels a float"),
    pytest.param(config(num_labels="9"), ("num_labels; found '9'",), id="labels a string"),
    pytest.param(config(num_labels=True), ("num_labels; found True",), id="labels true"),
    pytest.param(config(num_hidden_layers=10**9), ("num_hidden_layers; found 1000000000",), id="layers"),
    pytest.param(config(num_hidden_layers=-1), ("num_hidden_layers; found -1",), id="layers below 0"),
    pytest.param(
        config(num_attention_heads=10**10, pruned_heads={"0": [1]}), ("num_attention_heads; found",), id="heads"
    ),
    pytest.param(
        config(num_hidden_layers=10**9, pruned_heads={"999999999": [1]}), ("num_hidden_layers",), id="pruned heads"
    ),
    pytest.param(config(hidden_size=10**7), ("at most 131,072 for hidden_size",), id="hidden"),
    pytest.param(config(intermediate_size=10**8), ("at most 1,048,576 for intermediate_size",), id="intermediate"),
    pytest.param(config(vocab_size=10**9), ("at most 16,777,216 for vocab_size",), id="vocabulary"),
    pytest.param(config(max_position_embeddings=10**9), ("for max_position_embeddings",), id="positions"),
    pytest.param(config(type_vocab_size=10**9), ("for type_vocab_size",), id="types"),
    pytest.param(
        config(id2label={str(index): "" for index in range(400_000)}),
        ("id2label to map at most 131,072",),
        id="id2label",
    ),
    pytest.param(
        config(id2label={str(index): "LABEL" for index in range(1_000_000)}),
        ("config.json: too large",),
        id="a million",
    ),
    pytest.param(config(id2label={"x": "y"}), ("id2label to map whole numbers",), id="id2label of letters"),
    pytest.param(config(id2label=[1]), ("id2label to map", "[1]"), id="id2label a list"),
    pytest.param(config(model_type="distilbert", n_layers=10**9), ("n_layers",), id="DistilBERT's layers"),
    pytest.param(config(model_type="distilbert", num_hidden_layers=10**9), ("num_hidden_layers",), id="by an alias"),
    pytest.param(config(model_type="distilbert", n_heads=10**10), ("n_heads",), id="DistilBERT's heads"),
    pytest.param(config(model_type="distilbert", dim=10**9), ("dim",), id="DistilBERT's size"),
    pytest.param(config(model_type="distilbert", hidden_dim=10**9), ("hidden_dim",), id="DistilBERT's columns"),
    pytest.param(config(model_type="albert", inner_group_num=10**9), ("inner_group_num",), id="ALBERT's inner layers"),
    pytest.param(config(model_type="albert", num_hidden_groups=10**9), ("num_hidden_groups",), id="ALBERT's groups"),
    pytest.param(
        config(model_type="albert", num_hidden_layers=1000, inner_group_num=1000),
        ("at most 1,000 layers; found 1,000,000",),
        id="ALBERT's layers together",
    ),
    pytest.param(config(model_type="electra", embedding_size=10**9), ("embedding_size",), id="ELECTRA's embeddings"),
    pytest.param(
        lambda folder: (folder / "config.json").write_text(
            json.dumps(json.loads((folder / "config.json").read_text()) | {"type_vocab_size": None})
        ),
        ("None",),
        id="types null",
    ),
    pytest.param(config(foo={"bar": [10**30]}), ("at most 64 bits",), id="a number of 100 bits"),
    pytest.param(config(pad_token_id="0"), ("pad_token_id; found '0'",), id="padding a string"),
    pytest.param(
        config(hidden_size=131_072, intermediate_size=1 << 20, num_hidden_layers=1000, num_attention_heads=4),
        ("describes a network of", "GB of memory"),
        id="together more than the memory",
    ),
    pytest.param(config(vocab_size=16 << 20, hidden_size=131_072), ("describes a network of",), id="a giant table"),
    pytest.param(
        text("config.json", '{"a": ' + DEEP), ("config.json: not readable as JSON: nested too deep",), id="deep"
    ),
    pytest.param(
        text("config.json", '{"num_labels": ' + "1" * 5_000 + "}"), ("config.json", "out of range"), id="digits"
    ),
    pytest.param(text("config.json", '{"a": NaN}'), ("config.json: not readable as JSON",), id="NaN"),
    pytest.param(text("config.json", json.dumps({"model_type": "x\n" * 10_000})), ("model_type",), id="a long type"),
    pytest.param(lambda folder: pipe(folder / "config.json"), ("config.json", "pipe"), id="a pipe"),
    pytest.param(lambda folder: link(folder / "config.json", "/dev/zero"), ("config.json", "device"), id="a device"),
    pytest.param(lambda folder: sparse(folder / "config.json", 1 << 40), ("config.json: too large",), id="a terabyte"),
    pytest.param(
        lambda folder: (
            change_config(folder, configuration_files=["config.4.0.0.json"]),
            (folder / "config.4.0.0.json").write_text('{"model_type": "bert", "num_labels": 1000000000}'),
        ),
        ("configuration_files",),
        id="another file in its place",
    ),
]


@pytest.mark.parametrize(("attack", "facts"), CONFIGS)
def test_configurations(attack: Attack, facts: tuple[str, ...], checkpoint: Path) -> None:
    attack(checkpoint)
    refused("inspect", "--model", checkpoint, facts=facts)


def test_the_largest_number_of_labels_is_taken(checkpoint: Path) -> None:
    change_config(checkpoint, num_labels=sizes.MOST_LABELS, architectures=["BertForTokenClassification"])
    refused("inspect", "--model", checkpoint, facts=("'classifier.weight' is missing", f"[{sizes.MOST_LABELS}, 32]"))


def test_a_configuration_beside_an_exported_model(checkpoint: Path) -> None:
    change_config(checkpoint, num_labels=10**9)
    raises(CheckpointError, lambda: load_tokenizer(checkpoint), "num_labels")
    raises(CheckpointError, lambda: read_config(checkpoint), "num_labels")


def test_training_with_a_new_head_checks_first(checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"model = '{checkpoint}'\noutput = '{tmp_path}/run'\ntask = 'text-classification'\n"
        "[data]\ntrain = 'x.tsv'\n[schedule]\nsteps = 1\n"
    )
    change_config(checkpoint, num_hidden_layers=10**9)
    refused("train", recipe, facts=("num_hidden_layers",))


def test_sigterm_ends_it(checkpoint: Path) -> None:
    """In the midst of reading."""
    script = (
        "import os, signal, sys, threading\n"
        "from prune_export.cli.main import main\n"
        "from prune_export.checkpoint import load\n"
        "find = load._family\n"
        "def slow(*words):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return find(*words)\n"
        "load._family = slow\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, "inspect", "--model", str(checkpoint), "--quiet"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (found.returncode, found.stderr.count("\n")) == (143, 1), found.stderr


# --- weights --------------------------------------------------------------------------------------------------------


def safetensors(header: bytes | dict[str, Any], data: bytes = b"", *, length: int | None = None) -> Attack:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()

    def attack(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(content) if length is None else length) + content + data)

    return attack


def entry(first: int, last: int, shape: list[int], kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [first, last]}


def empty_tensors(folder: Path) -> None:
    """1.4 million of them, in the 80 MB that a header takes."""
    one = '"%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    safetensors(("{" + ",".join(one % index for index in range(1_400_000)) + "}").encode())(folder)


def many_tensors(folder: Path) -> None:
    """As many as 8 MiB of header hold."""
    one = '"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    safetensors(("{" + ",".join(one % index for index in range(140_000)) + "}").encode())(folder)


def pickled(make: Callable[[Path], object]) -> Attack:
    def attack(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        make(folder / "pytorch_model.bin")

    return attack


def zipped(name: str, content: bytes, *, compression: int = zipfile.ZIP_STORED) -> Attack:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr(name, content)

    return pickled(make)


def many_entries(path: Path) -> None:
    """A directory of 1.4 million entries, written by hand: zipfile takes minutes."""
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"x"
    central = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    count, size = 1_400_000, len(central) * 1_400_000
    where = len(local) + size
    end_64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, len(local))
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, where, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    with path.open("wb") as file:
        file.write(local + central * count + end_64 + locator + end)


def giant_bytearray(protocol: int) -> bytes:
    """What torch's weights-only unpickler is glad to make."""
    assert protocol == 2
    return b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (1 << 35).to_bytes(5, "little") + b"\x85R."


def doubled_strings() -> bytes:
    """`encode(encode("x", "hex"), "hex")` and so on, 40 times."""
    start, end = b"\x80\x02", b"."
    for _ in range(40):
        start += b"c_codecs\nencode\n"
        end = b"X\x03\x00\x00\x00hex\x86R" + end
    return start + b"X\x08\x00\x00\x00xxxxxxxx" + end


def torch_zip(content: bytes) -> Attack:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", b"3\n")
            archive.writestr("archive/byteorder", b"little")

    return pickled(make)


def to_bomb(path: Path) -> None:
    """The tensors' own values compressed: 4 GB of zeros in 4 MB, as an entry that says to be a tensor."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.", zipfile.ZIP_STORED)
        with archive.open("archive/data/0", "w", force_zip64=True) as file:
            for _ in range(256):
                file.write(bytes(1 << 20))


WEIGHTS = [
    pytest.param(empty_tensors, ("model.safetensors", "a header of", "at most 8,388,608"), id="1.4 M empty tensors"),
    pytest.param(many_tensors, ("140,000 tensors; at most 65,536",), id="140,000 tensors in 8 MiB"),
    pytest.param(safetensors(b"{}", length=1 << 63), ("a header of 9,223,372,036,854,775,808",), id="length 2^63"),
    pytest.param(safetensors(b"{}", length=(1 << 64) - 1), ("a header of",), id="length 2^64"),
    pytest.param(safetensors(b"{}", length=5_000), ("it ends in the header",), id="a header longer than the file"),
    pytest.param(safetensors({"a": entry(0, 1 << 40, [1 << 38])}), ("'a' lies outside of the file",), id="outside"),
    pytest.param(safetensors({"a": entry(4, 0, [1])}, bytes(4)), ("'a' lies outside",), id="backwards"),
    pytest.param(
        safetensors({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, bytes(4)),
        ("model.safetensors: damaged",),
        id="overlap",
    ),
    pytest.param(
        safetensors({"a": entry(0, 4, [1 << 62, 4])}, bytes(4)), ("'a' has the shape",), id="a shape beyond 2^62"
    ),
    pytest.param(safetensors({"a": entry(0, 4, [1] * 100)}, bytes(4)), ("'a' has the shape",), id="100 dimensions"),
    pytest.param(safetensors({"a": entry(0, 4, [1 << 30])}, bytes(4)), ("model.safetensors: damaged",), id="a lie"),
    pytest.param(safetensors(DEEP.encode()), ("model.safetensors: damaged", "expected `object`"), id="deep"),
    pytest.param(safetensors({"a": "b" * 100_000}), ("model.safetensors: damaged",), id="no entry"),
    pytest.param(lambda folder: pipe(folder / "model.safetensors"), ("model.safetensors", "pipe"), id="a pipe"),
    pytest.param(lambda folder: link(folder / "model.safetensors", "/dev/zero"), ("model.safetensors",), id="a device"),
    pytest.param(pickled(many_entries), ("a zip directory of 1,400,000 entries",), id="a zip of 1.4 M entries"),
    pytest.param(torch_zip(b"\x80\x02" + b"]0" * (2 << 20) + b"}."), ("data.pkl' in it has",), id="a huge data.pkl"),
    pytest.param(
        zipped("archive/data.pkl", bytes(300 << 20), compression=zipfile.ZIP_DEFLATED),
        ("is compressed, which torch.save never does",),
        id="a zip bomb",
    ),
    pytest.param(pickled(to_bomb), ("data/0' in it is compressed",), id="a zip bomb as a tensor"),
    pytest.param(torch_zip(giant_bytearray(2)), ("refused", "builtins.bytearray"), id="a giant bytearray"),
    pytest.param(torch_zip(doubled_strings()), ("refused", "_codecs.encode"), id="strings doubled 40 times"),
    pytest.param(
        pickled(lambda path: path.write_bytes(giant_bytearray(2))),
        ("refused", "builtins.bytearray"),
        id="a bare pickle",
    ),
    pytest.param(
        lambda folder: to_pickle(folder, {"a": torch.zeros(1).expand(1 << 40)}),
        ("'a' of shape [1099511627776] repeats its values",),
        id="one value as a terabyte",
    ),
    pytest.param(
        pickled(lambda path: sparse(path, 1 << 40)), ("pytorch_model.bin: damaged",), id="a terabyte of nothing"
    ),
    pytest.param(pickled(lambda path: pipe(path)), ("pytorch_model.bin", "pipe"), id="a pickle as a pipe"),
]


@pytest.mark.parametrize(("attack", "facts"), WEIGHTS)
def test_weights(attack: Attack, facts: tuple[str, ...], checkpoint: Path) -> None:
    attack(checkpoint)
    refused("inspect", "--model", checkpoint, facts=facts)


def index_of(weight_map: object) -> Attack:
    def attack(folder: Path) -> None:
        to_shards(folder)
        write_index(folder, {"metadata": {}, "weight_map": weight_map})

    return attack


def a_pipe_as_shard(folder: Path) -> None:
    pipe(folder / next(iter(to_shards(folder).values())))


def a_device_as_shard(folder: Path) -> None:
    link(folder / next(iter(to_shards(folder).values())), "/dev/zero")


INDICES = [
    pytest.param(
        index_of({str(number): f"{number}.safetensors" for number in range(5_000)}), ("names 5,000 shards",), id="5,000"
    ),
    pytest.param(index_of({"a": "../model.safetensors"}), ("is not beside the index",), id="above"),
    pytest.param(index_of({"a": "/etc/passwd"}), ("'/etc/passwd' is not beside the index",), id="absolute"),
    pytest.param(index_of({"a": "a\0b"}), ("is not beside the index",), id="NUL"),
    pytest.param(index_of({"a": ".."}), ("'..' is not beside the index",), id="the folder above"),
    pytest.param(index_of({"a": "b" * 10_000}), ("is not beside the index",), id="a long name"),
    pytest.param(index_of([DEEP]), ('"weight_map"', "expected `object`"), id="a list"),
    pytest.param(a_pipe_as_shard, ("pipe",), id="a pipe"),
    pytest.param(a_device_as_shard, ("device",), id="a device"),
]


@pytest.mark.parametrize(("attack", "facts"), INDICES)
def test_indices(attack: Attack, facts: tuple[str, ...], checkpoint: Path) -> None:
    attack(checkpoint)
    refused("inspect", "--model", checkpoint, facts=facts)


def test_pipes_in_an_index_are_refused_by_the_reader_itself(checkpoint: Path) -> None:
    """Also where nobody has looked at the folder before."""
    a_pipe_as_shard(checkpoint)
    raises(WeightsError, lambda: read_weights(checkpoint, FAMILIES["bert"]), "is not a regular file")
    (checkpoint / "model.safetensors.index.json").unlink()
    pipe(checkpoint / "model.safetensors")
    raises(WeightsError, lambda: read_weights(checkpoint, FAMILIES["bert"]), "not a regular file, nor a link to one")


def test_weights_may_lie_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").rename(tmp_path / "weights")
    link(checkpoint / "model.safetensors", tmp_path / "weights")
    assert main(["inspect", "--model", str(checkpoint), "--quiet"]) == 0


def test_pickles_as_torch_writes_them_are_taken(checkpoint: Path) -> None:
    path = to_pickle(checkpoint)
    assert main(["inspect", "--model", str(checkpoint), "--quiet"]) == 0
    state = torch.load(path, weights_only=True)
    torch.save({name: torch.nn.Parameter(value) for name, value in state.items()}, path, pickle_protocol=2)
    assert main(["inspect", "--model", str(checkpoint), "--quiet"]) == 0


# --- exported folders -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def exported_once(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    before = signal.getsignal(signal.SIGTERM)
    assert (
        main(["--model", str(original), "--output", str(folder), "--quiet", "--target", "cpu", "--samples", "4"]) == 0
    )
    signal.signal(signal.SIGTERM, before)
    return folder


@pytest.fixture
def exported(exported_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_once, tmp_path / "onnx"))


def record(folder: Path, **changes: object) -> None:
    path = folder / "prune_export.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def moved_out(folder: Path) -> Path:
    """The model in the folder beside."""
    other = folder.parent / "other"
    other.mkdir()
    return Path(shutil.move(folder / "model.onnx", other / "model.onnx"))


EXPORTS: list[Any] = [
    pytest.param(lambda folder: record(folder, model="../other/model.onnx"), "not a plain file name", id="above"),
    pytest.param(lambda folder: record(folder, model=str(folder.parent / "other/model.onnx")), "plain", id="absolute"),
    pytest.param(lambda folder: record(folder, model="."), "not a plain file name", id="the folder"),
    pytest.param(lambda folder: record(folder, model=".."), "not a plain file name", id="the folder above"),
    pytest.param(lambda folder: record(folder, model=""), "not a plain file name", id="nothing"),
    pytest.param(lambda folder: record(folder, model="a\0b"), "not a plain file name", id="NUL"),
    pytest.param(lambda folder: record(folder, model="x" * 5_000), "not a plain file name", id="long"),
    pytest.param(lambda folder: record(folder, model="\udc80"), "damaged", id="half a character"),
    pytest.param(
        lambda folder: link(folder / "model.onnx", folder.parent / "other/model.onnx"), "leads out of", id="a link"
    ),
    pytest.param(
        lambda folder: (
            link(folder / "sub", folder.parent / "other"),
            link(folder / "model.onnx", "sub/model.onnx"),
        ),
        "leads out of",
        id="a link by a link",
    ),
    pytest.param(lambda folder: pipe(folder / "model.onnx"), "not a regular file", id="a pipe"),
    pytest.param(lambda folder: link(folder / "model.onnx", "/dev/zero"), "not a regular file", id="a device"),
]


@pytest.mark.parametrize(("attack", "fact"), EXPORTS)
def test_the_model_of_a_record_lies_in_its_folder(
    attack: Attack, fact: str, exported: Path, original: Path, tmp_path: Path
) -> None:
    moved_out(exported)
    attack(exported)
    facts = ("prune_export.json", fact)
    data = tmp_path / "data.json"
    data.write_text(json.dumps(SQUAD))
    refused("verify", "--model", original, "--onnx", exported, "--samples", "4", facts=facts)
    refused("bench", "--onnx", exported, facts=facts)
    raises(OutputError, lambda: load_session(exported), *facts)
    raises(OutputError, lambda: find_exported(exported), *facts)
    if (exported / "model.onnx").exists():  # else it is no exported folder, but a checkpoint without weights
        refused("evaluate", "--model", exported, "--data", data, facts=facts)


def test_a_snapshot_of_the_hub_links_into_its_own_blobs(exported: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--x--y"
    snapshot = repository / "snapshots" / "0123"
    (repository / "blobs").mkdir(parents=True)
    shutil.copytree(exported, snapshot)
    shutil.move(snapshot / "model.onnx", repository / "blobs" / "abc")
    link(snapshot / "model.onnx", "../../blobs/abc")
    assert find_exported(snapshot).model == snapshot / "model.onnx"
    other = tmp_path / "models--x--z" / "blobs"
    other.mkdir(parents=True)
    shutil.move(repository / "blobs" / "abc", other / "abc")
    link(snapshot / "model.onnx", "../../../models--x--z/blobs/abc")
    raises(OutputError, lambda: find_exported(snapshot), "leads out of the folder")
    link(snapshot / "model.onnx", "../../blobs/abc")
    (repository / "blobs").rmdir()
    link(repository / "blobs", other)
    raises(OutputError, lambda: find_exported(snapshot), "leads out of the folder")


RECORDS = [
    pytest.param({"session": {"tokens_at_once": -1}}, "tokens_at_once", id="tokens below 0"),
    pytest.param({"session": {"tokens_at_once": True}}, "tokens_at_once", id="tokens true"),
    pytest.param({"session": {"length_multiple": 10**30}}, "length_multiple", id="a multiple of 100 bits"),
    pytest.param({"session": {"length_multiple": 1 << 40}}, "length_multiple", id="a multiple of a terabyte"),
    pytest.param({"session": {"length_multiple": 10**9}}, "length_multiple", id="a multiple of a billion"),
    pytest.param({"session": {"entries": {"a": 1}}}, "entries", id="an entry"),
    pytest.param(  # ONNX Runtime writes there
        {"session": {"entries": {"session.collect_node_memory_stats_to_file": "../../.bashrc"}}},
        "entries",
        id="an entry that names a file to be written",
    ),
    pytest.param(
        {"session": {"entries": {"session.model_external_initializers_file_folder_path": "/"}}},
        "entries",
        id="an entry that names a folder",
    ),
    pytest.param({"session": [1]}, "session", id="settings a list"),
    pytest.param({"model": ["model.onnx"]}, "model", id="model a list"),
    pytest.param({"target": 3}, "target", id="target a number"),
    pytest.param({"plan_given": "x" * 10_000}, "plan_given", id="a long string"),
]


@pytest.mark.parametrize(("changes", "fact"), RECORDS)
def test_records(changes: dict[str, object], fact: str, exported: Path) -> None:
    record(exported, **changes)
    refused("bench", "--onnx", exported, facts=("prune_export.json: damaged", fact))


@pytest.mark.parametrize("make", [pipe, lambda path: link(path, "/dev/zero"), lambda path: sparse(path, 1 << 40)])
def test_records_that_are_no_files(make: Callable[[Path], object], exported: Path) -> None:
    make(exported / "prune_export.json")
    refused("bench", "--onnx", exported, facts=("prune_export.json: damaged",))


def test_a_summary_of_wrong_types_is_left_out(exported: Path) -> None:
    from prune_export.benchmark.cost import cost_of_record

    sound = json.loads((exported / "prune_export.json").read_text(encoding="utf-8"))
    assert cost_of_record(sound) is not None
    layer = {name: {"after": 1 << 40} for name in ("heads", "value_size", "columns")} | {
        "query_key_size": {"after": "x"}
    }
    for summary in ({"layers": [layer], "flops_per_token": {"1": {"after": 1}}}, {"layers": [], "flops_per_token": []}):
        assert cost_of_record({"summary": summary}) is None


# --- plans ----------------------------------------------------------------------------------------------------------


def plan_text(*layers: object) -> str:
    return json.dumps({"format": "prune-export/plan", "version": 1, "layers": list(layers)})


LONG = {"heads": "0", "columns": "0-1048575"}
PLANS = [
    pytest.param(plan_text(*[LONG] * 300), ("layer 1, columns", "in all layers together"), id="300 long ranges"),
    pytest.param(
        plan_text({"heads": "0", "columns": "", "value_dimensions": {str(n): "0-1048575" for n in range(300)}}),
        ("value_dimensions", "in all layers together"),
        id="in dimensions",
    ),
    pytest.param(plan_text({"heads": ",".join(["0-1048575"] * 300), "columns": ""}), ("heads",), id="in one set"),
    pytest.param(plan_text({"heads": "0-99999999999", "columns": ""}), ("heads: expected indices",), id="a long one"),
    pytest.param(plan_text({"heads": f"{10**30}-{10**30 + 1}", "columns": ""}), ("heads: expected",), id="100 bits"),
    pytest.param(plan_text({"heads": [10**12], "columns": ""}), ("heads: expected indices",), id="a large index"),
    pytest.param(plan_text({"heads": [1.5], "columns": ""}), ("heads: expected indices",), id="a float"),
    pytest.param(plan_text({"heads": {"0": 1}, "columns": ""}), ("heads: expected indices",), id="an object"),
    pytest.param(plan_text({"heads": "9" * 5_000, "columns": ""}), ("heads: expected indices",), id="digits"),
    pytest.param(
        plan_text({"heads": "", "columns": "", "value_dimensions": {"9" * 5_000: ""}}), ("head indices",), id="a key"
    ),
    pytest.param(DEEP, ("nested too deep",), id="deep"),
    pytest.param(json.dumps({"plan": "x" * 10_000}), ("expected an object",), id="a plan that is a string"),
    pytest.param(json.dumps({"format": "x\n" * 10_000, "layers": []}), ("expected",), id="a long format"),
]


@pytest.mark.parametrize(("content", "facts"), PLANS)
def test_plans(content: str, facts: tuple[str, ...], checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(content)
    refused("inspect", "--model", checkpoint, "--plan", tmp_path / "plan.json", facts=("plan.json", *facts))
    (checkpoint / "pruning.json").write_text(content)
    refused("inspect", "--model", checkpoint, facts=("pruning.json", *facts))


@pytest.mark.parametrize("make", [pipe, lambda path: link(path, "/dev/zero"), lambda path: sparse(path, 1 << 40)])
def test_plans_that_are_no_files(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "plan.json")
    raises(PlanError, lambda: read_plan(tmp_path / "plan.json"), "plan.json")


# --- slim checkpoints -----------------------------------------------------------------------------------------------


SLIM = {
    "format": "prune-export/slim",
    "version": 1,
    "task": "question-answering",
    "order": [0],
    "layers": [{"heads": [0]}],
}


@pytest.mark.parametrize(
    "changes",
    [
        {"order": [0] * 100_000},
        {"order": [-1]},
        {"order": [10**9]},
        {"layers": [{"heads": list(range(5_000))}]},
        {"layers": [{"heads": [10**12]}]},
        {"layers": [{"heads": "0"}]},
        {"layers": [{"heads": []}]},
        {"layers": [{"heads": None}] * 100_000},
        {"task": "x" * 10_000},
        {"version": [1]},
        {"order": 3},
    ],
    ids=lambda changes: json.dumps(changes)[:40],
)
def test_slim_records(changes: dict[str, object], checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "slim.safetensors")
    (checkpoint / "pruning.json").write_text(json.dumps(SLIM | changes))
    facts = ("pruning.json: expected the record of a slim checkpoint",)
    refused("inspect", "--model", checkpoint, facts=facts)


def test_a_slim_network_of_a_giant(checkpoint: Path) -> None:
    """Its reference would be laid out at full size."""
    (checkpoint / "model.safetensors").rename(checkpoint / "slim.safetensors")
    (checkpoint / "pruning.json").write_text(json.dumps(SLIM))
    change_config(checkpoint, hidden_size=65_536, num_hidden_layers=100, intermediate_size=1 << 20)
    refused("inspect", "--model", checkpoint, facts=("describes a network of",))


# --- data -----------------------------------------------------------------------------------------------------------

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "paragraphs": [
                {
                    "context": "a b c",
                    "qas": [{"id": "1", "question": "b?", "answers": [{"text": "b", "answer_start": 2}]}],
                }
            ]
        }
    ],
}
LINE = {"context": "a b", "qas": [{"qid": "1", "question": "b?", "answers": ["b"]}]}


def zeros(path: Path) -> None:
    """A gigabyte in a megabyte."""
    squeeze = zlib.compressobj(9, wbits=31)
    with path.open("wb") as file:
        for _ in range(1024):
            file.write(squeeze.compress(bytes(1 << 20)))
        file.write(squeeze.flush())


def many_streams(path: Path) -> None:
    """The same as thousands of streams one after another."""
    path.write_bytes(gzip.compress(bytes(1 << 20)) * 1_000)


DATA: list[Any] = [
    pytest.param(zeros, "of gzip hold more than", id="gzip of zeros"),
    pytest.param(many_streams, "of gzip hold more than", id="gzip of many streams"),
    pytest.param(lambda path: path.write_bytes(gzip.compress(b"{}")[:-4]), "it ends early", id="gzip cut off"),
    pytest.param(lambda path: path.write_bytes(gzip.compress(b"{}") + b"\x1f\x8bx"), "damaged", id="gzip and more"),
    pytest.param(lambda path: sparse(path, 1 << 40), "too large", id="a terabyte"),
    pytest.param(pipe, "not a regular file but a pipe", id="a pipe"),
    pytest.param(lambda path: link(path, "/dev/zero"), "not a regular file but a device", id="a device"),
    pytest.param(lambda path: path.write_text(DEEP), "nested too deep", id="deep"),
    pytest.param(
        lambda path: path.write_text(json.dumps(LINE) + "\n" + DEEP), "line 2: not readable as JSON", id="a deep line"
    ),
    pytest.param(lambda path: path.write_text('{"data": ' + "1" * 5_000 + "}"), "out of range", id="digits"),
    pytest.param(
        lambda path: path.write_text('{"data": [' + "[]," * (17 << 20) + "0]}"), "values in one piece", id="empty lists"
    ),
    pytest.param(lambda path: path.write_text('{"data": NaN}'), "not readable as JSON", id="NaN"),
    pytest.param(lambda path: path.write_text(json.dumps({"x\n" * 5_000: 1, "y": 2})), "has no 'data'", id="long keys"),
    pytest.param(lambda path: path.write_text("a\n" * 100_000), "neither JSON nor tab-separated", id="no columns"),
    pytest.param(lambda path: path.write_text("x" * 100_000 + "\ty\n"), "heading", id="a long heading"),
    pytest.param(
        lambda path: path.write_text(json.dumps(LINE | {"qas": [LINE["qas"][0] | {"detected_answers": 3}]})),  # type: ignore[index]
        "detected_answers",
        id="answers a number",
    ),
    pytest.param(
        lambda path: path.write_text(
            json.dumps(
                LINE | {"qas": [LINE["qas"][0] | {"detected_answers": [{"char_spans": [["x" * 50_000]]}]}]}  # type: ignore[index]
            )
        ),
        "char_spans",
        id="a long span",
    ),
]


@pytest.mark.parametrize(("make", "fact"), DATA)
def test_data(make: Callable[[Path], object], fact: str, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    make(path)
    raises(DataError, lambda: read_examples(path), "data.json", fact)
    refused("evaluate", "--model", checkpoint, "--data", path, facts=("data.json", fact))


def test_a_long_label(checkpoint: Path, tmp_path: Path) -> None:
    """It may be a class's name until somebody says whose labels, or which classes, these are."""
    path = tmp_path / "data.tsv"
    path.write_text("sentence\tlabel\nx\t" + "9" * 100_000 + "\n")
    raises(DataError, lambda: read_examples(path, dataset="sst2"), "data.tsv", "the label")
    refused("evaluate", "--model", checkpoint, "--data", path, "--dataset", "sst2", facts=("data.tsv", "the label"))
    classifier = make_checkpoint(tmp_path / "classifier", vocabulary=90, model_class=BertForSequenceClassification)
    bert_tokenizer().save_pretrained(classifier)
    refused("evaluate", "--model", classifier, "--data", path, facts=("data.tsv", "the labels"))


def test_gzip_that_squeezes_well_is_taken(tmp_path: Path) -> None:
    """Below 64 MiB any ratio is; a text that repeats itself reaches hundreds."""
    lines = "".join(json.dumps(LINE | {"qas": [LINE["qas"][0] | {"qid": str(n)}]}) + "\n" for n in range(20_000))  # type: ignore[index]
    (tmp_path / "data.gz").write_bytes(gzip.compress(lines.encode()) + gzip.compress(b"\n"))
    assert len(read_examples(tmp_path / "data.gz").examples) == 20_000


# --- recipes and runs -----------------------------------------------------------------------------------------------

RECIPES: list[Any] = [
    pytest.param(pipe, "not a regular file but a pipe", id="a pipe"),
    pytest.param(lambda path: link(path, "/dev/zero"), "not a regular file but a device", id="a device"),
    pytest.param(lambda path: sparse(path, 1 << 40), "too large", id="a terabyte"),
    pytest.param(lambda path: path.write_text("a = " + DEEP), "not readable as TOML: nested too deep", id="deep"),
    pytest.param(
        lambda path: path.write_text("[trainer]\nfsdp_config = " + "[" * 40 + "]" * 40), "nested too deep", id="40 deep"
    ),
    pytest.param(lambda path: path.write_text("a = " + "9" * 5_000), "not readable as TOML", id="digits"),
    pytest.param(lambda path: path.write_text("a = 2020-99-99"), "not readable as TOML", id="no such day"),
    pytest.param(lambda path: path.write_bytes(b"a = '\xff'"), "no UTF-8", id="not UTF-8"),
    pytest.param(lambda path: path.write_text(f"{'x' * 100_000} = 1"), "unknown key", id="a long key"),
    pytest.param(
        lambda path: path.write_text(f"model = ['{'x' * 100_000}']\noutput = 'o'\n[data]\ntrain = 'd'"),
        "model: expected",
        id="a long value",
    ),
    pytest.param(
        lambda path: path.write_text("method = " + "[1]"), "[method] is a table", id="a method that is a list"
    ),
    pytest.param(
        lambda path: path.write_text("[method]\nkind = '" + "x" * 100_000 + "'"), "method.kind", id="a long method"
    ),
]


@pytest.mark.parametrize(("make", "fact"), RECIPES)
def test_recipes(make: Callable[[Path], object], fact: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    make(path)
    raises(UsageError, lambda: read_recipe(path), "recipe.toml", fact)
    refused("train", path, facts=("recipe.toml", fact), code=2)


@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (lambda path: path.write_text("{}"), "`max_steps`"),
        (lambda path: path.write_text('{"max_steps": NaN}'), "expected `int`, got `float`"),
        (lambda path: path.write_text('{"max_steps": [1]}'), "expected `int`"),
        (pipe, "pipe"),
        (lambda path: path.write_text(DEEP), "nested too deep"),
    ],
    ids=["empty", "NaN", "a list", "a pipe", "deep"],
)
def test_the_state_of_a_run(make: Callable[[Path], object], fact: str, tmp_path: Path) -> None:
    make(tmp_path / "trainer_state.json")
    raises(CheckpointError, lambda: check_state(tmp_path, 5, 10, 4), "trainer_state.json", fact)


# --- what transformers opens by itself ------------------------------------------------------------------------------

OPENED = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
    "adapter_config.json",
    "model.safetensors.index.json",
    "pruning.json",
]


@pytest.mark.parametrize("name", OPENED)
def test_pipes_in_a_folder(name: str, checkpoint: Path) -> None:
    pipe(checkpoint / name)
    refused("inspect", "--model", checkpoint, facts=(name, "expected a regular file"))
    raises(CheckpointError, lambda: load_tokenizer(checkpoint), name, "expected a regular file")


@pytest.mark.parametrize("name", OPENED[:-2])
def test_giants_in_a_folder(name: str, checkpoint: Path) -> None:
    sparse(checkpoint / name, 1 << 40)
    raises(CheckpointError, lambda: load_tokenizer(checkpoint), name, "too large")


def test_templates_are_looked_at(checkpoint: Path) -> None:
    (checkpoint / "additional_chat_templates").mkdir()
    pipe(checkpoint / "additional_chat_templates" / "a.jinja")
    raises(CheckpointError, lambda: load_tokenizer(checkpoint), "a.jinja", "expected a regular file")


def tokenizer_config(folder: Path, **changes: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize("key", ["tokenizer_file", "vocab_file", "merges_file", "spm_file", "foo_file"])
def test_files_that_the_tokenizer_names_are_not_opened(key: str, checkpoint: Path, tmp_path: Path) -> None:
    """They would be a pipe that never ends; the folder's own tokenizer is taken."""
    pipe(tmp_path / "secret")
    for value in (str(tmp_path / "secret"), "/dev/zero", "../secret", "/gone/tokenizer.json"):
        tokenizer_config(checkpoint, **{key: value})

        def load() -> int:
            tokenizer = load_tokenizer(checkpoint)
            print(tokenizer("the")["input_ids"])
            return 0

        ended = confined(load)
        assert (ended.code, ended.out) == (0, "[2, 80, 3]\n"), ended.error[-2000:]
        assert ended.seconds < SECONDS


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"fast_tokenizer_files": ["../../x/tokenizer.4.0.0.json"]}, "fast_tokenizer_files"),
        ({"fast_tokenizer_files": 3}, "fast_tokenizer_files"),
        ({"vocab": "/dev/zero"}, "names the file /dev/zero"),
        ({"foo": {"bar": ["/etc/passwd"]}}, "names the file /etc/passwd"),
    ],
)
def test_other_ways_out_of_the_folder(changes: dict[str, object], fact: str, checkpoint: Path) -> None:
    tokenizer_config(checkpoint, **changes)
    raises(CheckpointError, lambda: load_tokenizer(checkpoint), "tokenizer_config.json", fact)


def test_special_tokens_that_name_files(checkpoint: Path) -> None:
    (checkpoint / "special_tokens_map.json").write_text('{"vocab_file": "/dev/zero", "unk_token": "[UNK]"}')
    assert own_files(checkpoint)["vocab_file"] is None
    (checkpoint / "special_tokens_map.json").write_text('{"vocab": "/dev/zero"}')
    raises(CheckpointError, lambda: load_tokenizer(checkpoint), "special_tokens_map.json", "names the file")


def test_stale_names_are_no_reason_to_refuse(checkpoint: Path) -> None:
    tokenizer_config(
        checkpoint,
        name_or_path="/home/somebody/model",
        special_tokens_map_file="/root/.cache/special_tokens_map.json",
        tokenizer_file="/root/.cache/0123456789.abcdef",
    )
    assert load_tokenizer(checkpoint)("the")["input_ids"] == [2, 80, 3]


@pytest.mark.parametrize("content", [DEEP, "[]", '{"a": NaN}', "3"])
def test_tokenizer_configurations_that_are_none(content: str, checkpoint: Path) -> None:
    (checkpoint / "tokenizer_config.json").write_text(content)
    raises(CheckpointError, lambda: load_tokenizer(checkpoint), "tokenizer_config.json")
