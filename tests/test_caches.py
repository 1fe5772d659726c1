"""What is kept between runs is believed only where it can be what it says, and never needed."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters.encoder import Encoder
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.files.caches import cache_folder, cached_file
from prune_export.options.timing import TimingConditions
from prune_export.pruning import latency_cache
from prune_export.pruning.latency import LatencyTable
from prune_export.training import features as features_module
from prune_export.training.features import training_features
from prune_export.training.recipe import DataSection
from tests.tiny_checkpoints import make_checkpoint
from tests.tiny_training import checkpoint_folder, questions_file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- the folder --------------------------------------------------------------------------------------------------------


def test_the_folder_is_where_xdg_says(cache: Path) -> None:
    assert cache_folder("x") == cache / "prune-export/x"
    assert (cache / "prune-export/x").is_dir()


def test_the_folder_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = cache_folder("x")
    assert found is not None
    assert found.is_relative_to(tmp_path / "home")


def test_there_is_no_folder(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache.write_text("a file")
    assert cache_folder("x") is None
    cache.unlink()
    cache.mkdir()
    (cache / "prune-export").write_text("a file")
    assert cache_folder("x") is None
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("HOME")

    def unknown(*_: object) -> None:
        raise KeyError("no such user")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert cache_folder("x") is None
    assert not list(tmp_path.glob("~*"))


@pytest.mark.parametrize("part", ["prune-export", "prune-export/x"])
def test_a_folder_that_others_can_write_is_not_used(part: str, cache: Path) -> None:
    (cache / "prune-export/x").mkdir(parents=True)
    (cache / part).chmod(0o777)
    assert cache_folder("x") is None
    (cache / part).chmod(0o775)  # as with a umask of 002, where each user has a group
    assert cache_folder("x") == cache / "prune-export/x"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("part", ["prune-export", "prune-export/x"])
def test_a_folder_of_another_user_is_not_used(part: str, cache: Path) -> None:
    (cache / "prune-export/x").mkdir(parents=True)
    os.chown(cache / part, 12345, 12345)
    assert cache_folder("x") is None


def test_a_file_is_there_as_a_whole_or_not(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with cached_file(tmp_path / "x") as file:
            file.write(b"old")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640

    def interrupted() -> None:
        with cached_file(tmp_path / "x") as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


# --- tables of times ---------------------------------------------------------------------------------------------------


def sound(settings: dict[str, Any]) -> LatencyTable:
    heads = tuple((count, float(count)) for count in range(settings["heads"] + 1))
    return LatencyTable(settings, 1.0, heads, ((0, 0.0), (24, 1.0), (settings["columns"], 2.0)))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each measurement."""
    found: list[int] = []

    def measure(_: Encoder, settings: dict[str, Any], **__: Any) -> LatencyTable:
        found.append(1)
        return sound(settings)

    monkeypatch.setattr(latency_cache, "measure_blocks", measure)
    return found


def key(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data.__setitem__(name, value)


DAMAGE: list[Callable[[dict[str, Any]], object]] = [
    key("rest_ms", float("nan")),
    key("rest_ms", float("inf")),
    key("rest_ms", -1.0),
    key("rest_ms", "1"),
    key("rest_ms", None),
    key("rest_ms", 10**400),
    key("heads_ms", []),
    key("heads_ms", [[0, 0.0]]),
    lambda data: data["heads_ms"].pop(),
    lambda data: data["heads_ms"].reverse(),
    lambda data: data["heads_ms"].append([4, 1.0]),
    lambda data: data["heads_ms"].__setitem__(1, [1, -0.5]),
    lambda data: data["heads_ms"].__setitem__(1, [1, float("nan")]),
    lambda data: data["heads_ms"].__setitem__(1, [1, float("inf")]),
    lambda data: data["heads_ms"].__setitem__(1, [1.5, 1.0]),
    lambda data: data["heads_ms"].__setitem__(1, [True, 1.0]),
    lambda data: data["heads_ms"].__setitem__(1, ["1", 1.0]),
    lambda data: data["heads_ms"].__setitem__(1, [1]),
    lambda data: data["columns_ms"].pop(),
    lambda data: data["columns_ms"].pop(0),
    lambda data: data["columns_ms"].insert(1, [0, 0.0]),
    lambda data: data["columns_ms"].append([10**6, 3.0]),
    key("columns_ms", {"0": 1}),
    key("last_columns_ms", [[0, 0.0], [48, 1.0]]),
    key("last_heads_ms", [[0, 0.0]]),
    key("settings", {}),
    key("settings", None),
    lambda data: data["settings"].__setitem__("threads", True),
    lambda data: data["settings"].__setitem__("batch_size", 1.0),
    lambda data: data["settings"].pop("layers"),
    key("format", "x"),
    key("version", 2),
    key("version", "3"),
    key("more", 1),
    lambda data: data.pop("rest_ms"),
]


@pytest.mark.parametrize("place", range(len(DAMAGE)))
def test_a_table_that_cannot_be_is_measured_anew(place: int, measured: list[int], cache: Path, tmp_path: Path) -> None:
    encoder = load_checkpoint(make_checkpoint(tmp_path / "model")).encoder
    first = latency_cache.latency_table(encoder, TimingConditions(sequence_length=8))
    assert latency_cache.latency_table(encoder, TimingConditions(sequence_length=8)) == first
    assert len(measured) == 1
    (path,) = cache.rglob("*.json")
    data = json.loads(path.read_text())
    DAMAGE[place](data)
    path.write_text(json.dumps(data))
    assert latency_cache.latency_table(encoder, TimingConditions(sequence_length=8)) == first
    assert len(measured) == 2
    assert (
        latency_cache.latency_table(encoder, TimingConditions(sequence_length=8)) == first
    )  # what was measured anew is kept
    assert len(measured) == 2


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"rest_ms": ' + b"9" * 5000 + b"}", None]
)
def test_a_table_that_cannot_be_read(content: bytes | None, measured: list[int], cache: Path, tmp_path: Path) -> None:
    encoder = load_checkpoint(make_checkpoint(tmp_path / "model")).encoder
    first = latency_cache.latency_table(encoder, TimingConditions(sequence_length=8))
    (path,) = cache.rglob("*.json")
    path.unlink()
    if content is None:
        os.mkfifo(path)  # opened, it would wait for ever
    else:
        path.write_bytes(content)
    assert latency_cache.latency_table(encoder, TimingConditions(sequence_length=8)) == first
    assert len(measured) == 2


def test_tables_without_a_cache(measured: list[int], cache: Path, tmp_path: Path) -> None:
    cache.write_text("a file")
    encoder = load_checkpoint(make_checkpoint(tmp_path / "model")).encoder
    for _ in range(2):
        latency_cache.latency_table(encoder, TimingConditions(sequence_length=8))
    assert len(measured) == 2


# --- features of training data -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(checkpoint_folder(tmp_path_factory.mktemp("features") / "model"))


@pytest.fixture
def section(tmp_path: Path) -> DataSection:
    return DataSection(train=(str(questions_file(tmp_path / "q.json", 8)),), max_seq_length=12, doc_stride=2)


def same(first: Any, second: Any) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a.input_ids, b.input_ids)
        and (a.example, a.start, a.end, a.label) == (b.example, b.start, b.end, b.label)
        for a, b in zip(first.features, second.features, strict=True)
    )


def with_arrays(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        with np.load(path) as file:
            arrays = dict(file)
        change(arrays)
        with path.open("wb") as out:
            np.savez(out, **arrays)

    return damage


def row(place: int, value: int) -> Callable[[Path], object]:
    return with_arrays(lambda arrays: arrays["rows"].__setitem__((0, place), value))


def compressed(path: Path) -> None:
    """Zeros without end in a small file."""
    member = io.BytesIO()
    np.save(member, np.zeros(10_000_000, np.int32))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("ids", "types", "rows", "labels"):
            archive.writestr(f"{name}.npy", member.getvalue())


def promising(path: Path) -> None:
    """A header that promises more than there is."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    header = parts["ids.npy"]
    end = header.index(b"(", 20)
    stop = header.index(b")", end)
    grown = b"(" + b"9" * 13 + b",)"
    padding = stop + 1 - end - len(grown)
    line = header[:end] + grown + header[stop + 1 :]
    excess = len(line) - len(header)
    spaces = line.index(b"   ")
    parts["ids.npy"] = line[:spaces] + line[spaces + excess :] if excess > 0 else line + b" " * padding
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


FEATURES: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"PK"),
    lambda path: path.write_bytes(path.read_bytes()[:200]),
    lambda path: path.write_bytes(b"\x80\x04N."),
    compressed,
    promising,
    with_arrays(lambda arrays: arrays.pop("labels")),
    with_arrays(lambda arrays: arrays.update(ids=arrays["ids"].astype(np.float32))),
    with_arrays(lambda arrays: arrays.update(ids=arrays["ids"][:-1])),
    with_arrays(lambda arrays: arrays.update(ids=arrays["ids"][None])),
    with_arrays(lambda arrays: arrays.update(types=arrays["types"][:-1])),
    with_arrays(lambda arrays: arrays.update(rows=arrays["rows"][:, :4])),
    with_arrays(lambda arrays: arrays.update(rows=arrays["rows"][:-1])),
    with_arrays(lambda arrays: arrays.update(rows=arrays["rows"].astype(np.int32))),
    with_arrays(lambda arrays: arrays.update(labels=np.zeros(3))),
    with_arrays(lambda arrays: arrays.update(labels=np.array(["x"]))),
    with_arrays(lambda arrays: arrays.update(labels=np.full(len(arrays["rows"]), np.nan))),
    with_arrays(lambda arrays: arrays["ids"].__setitem__(0, -1)),
    row(0, -1),
    row(0, 10**6),
    row(1, -1),
    row(1, 0),
    row(1, 2**62),
    row(2, -1),
    row(2, 10**6),
    row(3, 10**6),
    row(3, -2),
    row(4, 10**6),
]


@pytest.mark.parametrize("place", range(len(FEATURES)))
def test_features_that_cannot_be_are_made_anew(
    place: int, cache: Path, section: DataSection, model: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = training_features(section, model, seed=0)
    (path,) = cache.rglob("*.npz")
    FEATURES[place](path)
    assert same(training_features(section, model, seed=0), first)
    monkeypatch.setattr(features_module, "labelled_features", None)
    assert same(training_features(section, model, seed=0), first)  # what was made anew is kept


def test_a_folder_in_place_of_features(cache: Path, section: DataSection, model: Checkpoint) -> None:
    first = training_features(section, model, seed=0)
    (path,) = cache.rglob("*.npz")
    path.unlink()
    path.mkdir()
    assert same(training_features(section, model, seed=0), first)
    path.rmdir()
    os.mkfifo(path)
    assert same(training_features(section, model, seed=0), first)


def test_a_lock_that_cannot_be(cache: Path, section: DataSection, model: Checkpoint) -> None:
    first = training_features(section, model, seed=0)
    (path,) = cache.rglob("*.npz")
    lock = path.with_name(f"{path.name}.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()
    assert same(training_features(section, model, seed=0), first)


def test_features_without_a_cache(cache: Path, section: DataSection, model: Checkpoint) -> None:
    first = training_features(section, model, seed=0)
    for path in sorted(cache.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    cache.rmdir()
    cache.write_text("a file")
    assert same(training_features(section, model, seed=0), first)
