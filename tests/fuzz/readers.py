"""The readers of foreign files, each with a sound file to be damaged and the call that reads it."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import tomli_w
from hypothesis import strategies as st

from prune_export.benchmark.cost import cost_of_record
from prune_export.checkpoint.inspection import operate_on
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.slim_writing import write_slim
from prune_export.checkpoint.tokenizer import load_tokenizer
from prune_export.checkpoint.weights import read_weights
from prune_export.data.examples import TextData, trainable
from prune_export.data.model_classes import new_classes, with_classes
from prune_export.data.read import read_examples
from prune_export.facts.file_names import RECORD
from prune_export.facts.plan import plan_to_json, read_plan
from prune_export.facts.record import FORMAT, find_exported
from prune_export.families import FAMILIES
from prune_export.surgeon.zeros import plan_from_zeros
from prune_export.training.recipe_file import check_recipe, read_recipe
from tests.fuzz.mutations import as_json, changed, damaged, json_files
from tests.tiny_checkpoints import make_checkpoint, to_pickle, to_shards
from tests.tiny_tokenizers import bert_tokenizer
from tests.tiny_training import recipe_data


@dataclass(frozen=True)
class Reader:
    """`files` draws what is written into `path` before `read` is called."""

    name: str
    path: Path
    files: st.SearchStrategy[bytes]
    read: Callable[[], object]


def readers(folder: Path) -> list[Reader]:
    """All of them, on sound files that are made in `folder`."""
    sound = make_checkpoint(folder / "sound", vocabulary=90)
    bert_tokenizer().save_pretrained(sound)
    checkpoint = load_checkpoint(sound)
    plan = plan_to_json(plan_from_zeros(checkpoint.encoder))
    return [
        _configuration(_copy(sound, folder / "config")),
        _index(_copy(sound, folder / "index")),
        _safetensors(_copy(sound, folder / "safetensors")),
        _pickle(_copy(sound, folder / "pickle")),
        _plan(folder / "plan.json", plan),
        _pruning(_copy(sound, folder / "pruning"), plan),
        _slim(folder / "slim", checkpoint),
        _record(folder / "exported", plan),
        _recipe(folder / "recipe", sound),
        *_tokenizer(_copy(sound, folder / "tokenizer")),
        *_data(folder / "data"),
    ]


def _copy(sound: Path, folder: Path) -> Path:
    return Path(shutil.copytree(sound, folder))


def _configuration(folder: Path) -> Reader:
    path = folder / "config.json"
    sound = json.loads(path.read_text(encoding="utf-8")) | {
        "num_labels": 2,
        "id2label": {"0": "a", "1": "b"},
        "pruned_heads": {},
        "n_layers": 2,
        "dim": 32,
        "inner_group_num": 1,
        "embedding_size": 32,
        "layer_norm_type": "layer_norm",
    }
    models = st.sampled_from(["bert", "roberta", "distilbert", "albert", "electra"])
    files = st.builds(lambda kind: sound | {"model_type": kind}, models).flatmap(json_files)
    return Reader("config.json", path, files, lambda: load_checkpoint(folder))


def _index(folder: Path) -> Reader:
    index = {"metadata": {"total_size": 1}, "weight_map": to_shards(folder)}
    path = folder / "model.safetensors.index.json"
    return Reader("safetensors index", path, json_files(index), lambda: read_weights(folder, FAMILIES["bert"]))


def _safetensors(folder: Path) -> Reader:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def whole(text: bytes) -> st.SearchStrategy[bytes]:
        lengths = st.one_of(st.just(len(text)), st.sampled_from([0, 1, len(text) + 1, 1 << 24, 1 << 63, (1 << 64) - 1]))
        return lengths.map(lambda length: struct.pack("<Q", length) + text + data)

    files = st.one_of(json_files(header).flatmap(whole), damaged(content))
    return Reader("safetensors", path, files, lambda: read_weights(folder, FAMILIES["bert"]))


def _pickle(folder: Path) -> Reader:
    path = to_pickle(folder)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in records if name.endswith("data.pkl"))

    def zipped(pickled: bytes) -> bytes:
        file = BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for key, value in (records | {name: pickled}).items():
                archive.writestr(key, value)
        return file.getvalue()

    files = st.one_of(damaged(records[name]).map(zipped), damaged(records[name]), damaged(content))
    return Reader("pickled weights", path, files, lambda: read_weights(folder, FAMILIES["bert"]))


def _plan(path: Path, plan: dict[str, Any]) -> Reader:
    for layer in plan["layers"]:
        layer["value_dimensions"] = {"0": "0-3"}
    return Reader("plan", path, json_files(plan), lambda: read_plan(path))


def _pruning(folder: Path, plan: dict[str, Any]) -> Reader:
    return Reader("pruning.json", folder / "pruning.json", json_files(plan), lambda: load_checkpoint(folder))


def _slim(folder: Path, checkpoint: Any) -> Reader:
    write_slim(operate_on(checkpoint).slim, checkpoint.config, folder)
    path = folder / "pruning.json"
    sound = json.loads(path.read_text(encoding="utf-8"))
    return Reader("slim record", path, json_files(sound), lambda: load_checkpoint(folder))


def _record(folder: Path, plan: dict[str, Any]) -> Reader:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"")
    change = {"before": 4, "after": 4}
    layer = dict.fromkeys(("heads", "query_key_size", "value_size", "columns"), change)
    record = {
        **FORMAT.marked({}),
        "model": "model.onnx",
        "dtype": "fp32",
        "target": "cpu",
        "task": "question-answering",
        "session": {"tokens_at_once": 2048, "length_multiple": 1, "entries": {"session.intra_op.allow_spinning": "0"}},
        "plan": plan,
        "plan_given": False,
        "summary": {"layers": [layer], "flops_per_token": {"128": change}},
        "files": ["model.onnx"],
    }

    def read() -> object:
        found = find_exported(folder)
        return found.settings, found.task, found.target, found.plan_given, cost_of_record(found.record)

    return Reader("export record", folder / RECORD, json_files(record), read)


def _recipe(folder: Path, model: Path) -> Reader:
    folder.mkdir()
    sound = recipe_data(folder, model=str(model), method={"kind": "movement"}, budget={"flops": [0.5]}, distillation={})
    path = folder / "recipe.toml"
    # TOML has no null, and tomli_w writes no others than Python's own types.
    texts = changed(sound).map(_toml)
    files = st.one_of(texts, damaged(_toml(sound)))
    return Reader("recipe", path, files, lambda: check_recipe(read_recipe(path)))


def _toml(value: Any) -> bytes:
    if _depth(value) > 12:  # for which tomli_w takes twice as long for every level
        return b"a = " + as_json(value)
    try:
        return tomli_w.dumps(value).encode("utf-8", "surrogatepass")
    except (TypeError, AttributeError, RecursionError):
        return as_json(value)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def _tokenizer(folder: Path) -> list[Reader]:
    found = []
    for name in ("tokenizer_config.json", "tokenizer.json"):
        path = folder / name
        sound = json.loads(path.read_text(encoding="utf-8"))
        if name == "tokenizer_config.json":
            sound |= {"vocab_file": "vocab.txt", "tokenizer_file": "tokenizer.json", "name_or_path": "x"}
        own = _copy(folder, folder.with_name(name))
        found.append(Reader(name, own / name, json_files(sound), lambda own=own: load_tokenizer(own)))
    return found


def _data(folder: Path) -> list[Reader]:
    folder.mkdir()
    answers = [{"text": "b", "answer_start": 2}]
    squad = {
        "version": "1.1",
        "data": [{"paragraphs": [{"context": "a b c", "qas": [{"id": "1", "question": "b?", "answers": answers}]}]}],
    }
    detected = [{"text": "b", "char_spans": [[2, 2]], "token_spans": [[1, 1]]}]
    line = {"context": "a b", "qas": [{"qid": "1", "question": "b?", "answers": ["b"], "detected_answers": detected}]}
    mrqa = st.lists(json_files(line), min_size=1, max_size=3).map(
        lambda lines: b'{"header": {"dataset": "x"}}\n' + b"\n".join(lines)
    )
    rows = b"sentence\tlabel\na b c\t1\nd e f\t0\n"
    zipped = damaged(gzip.compress(as_json(squad), mtime=0))
    flat = {"id": "1", "question": "b?", "context": "a b c", "answers": {"text": ["b"], "answer_start": [2]}}
    text = {"text": "a b", "label": 1, "split": "dev"}
    files = {
        "squad": json_files(squad),
        "mrqa": mrqa,
        "glue": damaged(rows),
        "gzip": zipped,
        "csv": damaged(b'text,label,split\n"a, ""b""\nc",1,dev\nd e f,0,dev\n1,-1,train\n'),
        "quoted tsv": damaged(b'text\tlabel\n"a, ""b""\nc"\tLABEL_0\nd e f\tLABEL_1\n'),
        "flat questions": json_files([flat, flat | {"id": 2, "answers": answers, "is_impossible": False}]),
        "json lines": st.lists(json_files(text), min_size=2, max_size=3).map(b"\n".join),
    }
    return [
        Reader(f"data: {name}", folder / name, content, lambda path=folder / name: _read_data(path))
        for name, content in files.items()
    ]


def _read_data(path: Path) -> object:
    data = read_examples(path)
    if isinstance(data, TextData):
        new_classes(data)
        return with_classes(data, {"num_labels": 2})
    return trainable(data)
