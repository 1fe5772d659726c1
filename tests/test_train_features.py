"""Features of training data: made once, in parallel, cached by what they follow from; recipes to TOML and back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.errors import DataError
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.tokenizer import load_tokenizer
from prune_export.data.examples import Text, joined
from prune_export.data.features import make_features
from prune_export.data.read import read_examples
from prune_export.data.splits import Purpose
from prune_export.training import features as module
from prune_export.training.arguments import check_trainer_section
from prune_export.training.features import Collator, training_features
from prune_export.training.methods import METHODS, stages_of
from prune_export.training.methods.movement import MovementConfig
from prune_export.training.recipe import DataSection, Recipe
from prune_export.training.recipe_file import check_recipe, read_recipe, recipe_to_toml
from prune_export.training.sampler import TrainingSampler
from tests.conftest import ROOT
from tests.tiny_training import checkpoint_folder, questions_file, tiny_recipe


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_features_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(checkpoint_folder(tmp_path / "model"))
    section = DataSection(train=(str(questions_file(tmp_path / "q.json")),), max_seq_length=12, doc_stride=2)
    first = training_features(section, checkpoint, seed=0)
    tokenizer = load_tokenizer(tmp_path / "model")
    expected = make_features(read_examples(section.train[0]), tokenizer, max_seq_length=12, doc_stride=2, labelled=True)
    assert len(first) == len(expected) > 48  # some contexts need two windows
    for found, wanted in zip(first.features, expected, strict=True):
        assert np.array_equal(found.input_ids, wanted.input_ids)
        assert np.array_equal(found.token_type_ids, wanted.token_type_ids)
        assert (found.example, found.start, found.end) == (wanted.example, wanted.start, wanted.end)
    batch = Collator(tokenizer, checkpoint.encoder.inputs)(first.features[:3])
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions"}

    def fails(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "labelled_features", fails)
        again = training_features(section, checkpoint, seed=0)
        assert again.digest == first.digest
        assert [f.start for f in again.features] == [f.start for f in first.features]
        with pytest.raises(AssertionError, match="made again"):
            training_features(replace(section, max_seq_length=20), checkpoint, seed=0)
    (damaged,) = (tmp_path / "cache").rglob("*.npz")
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert len(training_features(section, checkpoint, seed=0)) == len(first)


@pytest.mark.slow
def test_several_processes_make_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(checkpoint_folder(tmp_path / "model"))
    section = DataSection(train=(str(questions_file(tmp_path / "q.json", 60)),), max_seq_length=24)
    alone = training_features(section, checkpoint, seed=0)
    for path in (tmp_path / "cache").rglob("*.npz"):
        path.unlink()
    monkeypatch.setattr(module, "_PARALLEL_FROM", 0)
    monkeypatch.setattr(module, "_CHUNK", 25)
    monkeypatch.setattr(module, "_processors", lambda: 2)
    together = training_features(section, checkpoint, seed=0)
    assert [f.example for f in together.features] == [f.example for f in alone.features]
    assert all(np.array_equal(a.input_ids, b.input_ids) for a, b in zip(together.features, alone.features, strict=True))


def test_parts_that_others_make_are_put_together_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads stand in for the processes."""
    checkpoint = load_checkpoint(checkpoint_folder(tmp_path / "model"))
    section = DataSection(train=(str(questions_file(tmp_path / "q.json", 23)),), max_seq_length=12, doc_stride=2)
    data, tokenizer = read_examples(section.train[0]), load_tokenizer(tmp_path / "model")
    expected = make_features(data, tokenizer, max_seq_length=12, doc_stride=2, labelled=True)
    sizes: list[int] = []

    def pool(processes: int, **_: object) -> ThreadPoolExecutor:
        sizes.append(processes)
        return ThreadPoolExecutor(processes)

    for name, value in (
        ("_PARALLEL_FROM", 20),
        ("_CHUNK", 10),
        ("_processors", lambda: 2),
        ("ProcessPoolExecutor", pool),
    ):
        monkeypatch.setattr(module, name, value)
    found = training_features(section, checkpoint, seed=0).features
    assert sizes == [2]
    assert [(f.example, f.start, f.end) for f in found] == [(f.example, f.start, f.end) for f in expected]
    assert all(np.array_equal(a.input_ids, b.input_ids) for a, b in zip(found, expected, strict=True))


@pytest.mark.slow
def test_a_script_that_does_not_ask_whether_it_is_the_main_module(tmp_path: Path) -> None:
    """Its processes run the script again when they start; they must not wait for the lock that the first one holds."""
    checkpoint_folder(tmp_path / "model")
    script = tmp_path / "script.py"
    script.write_text(
        "from prune_export.checkpoint.load import load_checkpoint\n"
        "from prune_export.training import features\n"
        "from prune_export.training.recipe import DataSection\n"
        "features._PARALLEL_FROM, features._CHUNK, features._processors = 0, 25, lambda: 2\n"
        f"section = DataSection(train=({str(questions_file(tmp_path / 'q.json', 60))!r},), max_seq_length=24)\n"
        f"found = features.training_features(section, load_checkpoint({str(tmp_path / 'model')!r}), seed=0)\n"
        "print(len(found), 'features')\n"
    )
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == "60 features\n", done.stderr[-2000:]


def test_labels_come_back_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [index % 3 for index in range(7)]
    names = ("contradiction", "entailment", "neutral")
    lines = ["sentence1\tsentence2\tgold_label", *(f"abc\txyz {n}\t{names[label]}" for n, label in enumerate(wanted))]
    (tmp_path / "mnli.tsv").write_text("\n".join(lines) + "\n")
    folder = checkpoint_folder(tmp_path / "model", "text-classification", id2label=dict(enumerate(names)))
    section = DataSection(train=(str(tmp_path / "mnli.tsv"),), dataset="mnli", max_seq_length=16, doc_stride=0)
    first = training_features(section, load_checkpoint(folder), seed=0)

    def fails(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(module, "labelled_features", fails)
    again = training_features(section, load_checkpoint(folder), seed=0)
    for found in (first, again):
        assert [feature.label for feature in found.features] == wanted
        assert all((feature.start, feature.end) == (None, None) for feature in found.features)


@pytest.mark.parametrize(("place", "value"), [(0, -1), (0, 48), (1, 0), (2, -1), (2, 99), (3, 99), (4, 99)])
def test_a_cache_with_numbers_that_cannot_be_is_made_anew(place: int, value: int, tmp_path: Path) -> None:
    """Of each row: its example, its tokens, [CLS], where the answer begins and ends."""
    checkpoint = load_checkpoint(checkpoint_folder(tmp_path / "model"))
    section = DataSection(train=(str(questions_file(tmp_path / "q.json", 48)),), max_seq_length=24, doc_stride=4)
    wanted = training_features(section, checkpoint, seed=0).features
    (path,) = (tmp_path / "cache").rglob("*.npz")
    arrays = dict(np.load(path))
    if place == 1:  # the tokens of all rows stay as many
        arrays["rows"][1, 1] += arrays["rows"][0, 1]
    arrays["rows"][0, place] = value
    np.savez(path, **arrays)
    found = training_features(section, checkpoint, seed=0).features
    assert [(f.example, len(f.input_ids), f.cls, f.start, f.end) for f in found] == [
        (f.example, len(f.input_ids), f.cls, f.start, f.end) for f in wanted
    ]


def test_several_files_are_one_training_set(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_folder(tmp_path / "model"))
    paths = [str(questions_file(tmp_path / f"{count}.json", count)) for count in (8, 5)]
    apart = [training_features(DataSection(train=(path,)), checkpoint, seed=0).features for path in paths]
    both = training_features(DataSection(train=tuple(paths)), checkpoint, seed=0)
    assert both.lengths() == [len(feature.input_ids) for part in apart for feature in part]
    (tmp_path / "train.tsv").write_text("sentence\tlabel\nabc\t1\n")
    with pytest.raises(DataError, match="files of different tasks"):
        joined([read_examples(paths[0]), read_examples(tmp_path / "train.tsv", dataset="sst2")])
    with pytest.raises(DataError, match="expected one file or more"):
        training_features(DataSection(train=()), checkpoint, seed=0)


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=300), step=st.integers(1, 9), seed=st.integers(0, 10**6)
)
def test_groups_of_like_length_hold_every_example_once(lengths: list[int], step: int, seed: int) -> None:
    order = TrainingSampler(len(lengths), lengths=lengths, step=step, seed=seed)
    found = list(order)
    assert sorted(found) == list(range(len(lengths)))
    assert len(order) == len(lengths)
    assert list(TrainingSampler(len(lengths), lengths=lengths, step=step, seed=seed)) == found
    # No order wastes less padding in as many steps as are sorted together.
    together = found[: 50 * step]
    if len(together) % step == 0:
        padded = [max(lengths[index] for index in together[at : at + step]) for at in range(0, len(together), step)]
        best = sorted(lengths[index] for index in together)[step - 1 :: step]
        assert sorted(padded) == best


@pytest.mark.parametrize("lengths", [None, range(100)])
def test_each_epoch_has_an_order_of_its_own(lengths: Sequence[int] | None) -> None:
    order = TrainingSampler(100, lengths=lengths, step=4, seed=3)
    first = list(order)
    assert first != sorted(first)
    order.set_epoch(1)
    assert list(order) != first
    order.set_epoch(0)
    assert list(order) == first


@pytest.mark.parametrize("kind", METHODS)
def test_recipes_come_back_from_toml(kind: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, method={"kind": kind}, budget={"flops": [0.5, 0.25]}, distillation={"weight": 0.25})
    (tmp_path / "used.toml").write_text(recipe_to_toml(recipe))
    assert read_recipe(tmp_path / "used.toml") == recipe


def test_changes(tmp_path: Path) -> None:
    (tmp_path / "used.toml").write_text(recipe_to_toml(tiny_recipe(tmp_path)))
    changes = ("optimiser.learning_rate=1", "model=owner/name", "method.kind=movement", "method.block=[16, 16]")
    found = read_recipe(tmp_path / "used.toml", (*changes, "data.samples=10", "output=/a/b"))
    assert isinstance(found, Recipe)
    assert (found.optimiser.learning_rate, found.model, found.output) == (1.0, "owner/name", "/a/b")
    assert found.method == MovementConfig(block=(16, 16))
    assert found.data.samples == 10


@pytest.mark.parametrize("path", sorted((ROOT / "examples/recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_the_ready_recipes_are_sound(path: Path) -> None:
    recipe = read_recipe(path)
    check_recipe(recipe)
    check_trainer_section(recipe.trainer)
    assert stages_of(recipe)
    head = path.read_text().split("\n\n", 1)[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "Published" in path.read_text() or path.stem == "minilm-topics"  # the only one that is no published system


def test_training_reads_the_training_part(tmp_path: Path) -> None:
    for name, text in (("train", "good"), ("dev", "bad")):
        (tmp_path / f"{name}.tsv").write_text(f"sentence\tlabel\n{text}\t1\n")
    found: list[tuple[Purpose, str]] = [("training", "good"), ("evaluation", "bad"), ("calibration", "good")]
    for purpose, expected in found:
        data = read_examples(tmp_path, dataset="sst2", purpose=purpose)
        assert isinstance(data.examples[0], Text)
        assert data.examples[0].text == expected
