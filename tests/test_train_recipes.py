"""Recipes as they are read: keys that exclude each other, every number's range, the page of all keys."""

from __future__ import annotations

import math
import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

import prune_export
from docs import recipe_keys
from docs.recipe_keys import PAGE, page
from exporters.errors import CheckpointError, UsageError
from prune_export.options.option import Option
from prune_export.training import methods, recipe_file
from prune_export.training.keys import Count, Epochs
from prune_export.training.methods import ALTERNATIVES, METHODS, stages_of
from prune_export.training.recipe import Distillation, MethodConfig, Recipe
from prune_export.training.recipe_file import check_recipe, read_recipe, recipe_from, recipe_to_toml
from prune_export.training.stage import Stage, TrainingMethod
from tests.conftest import ROOT
from tests.tiny_training import recipe_data

DATA: dict[str, Any] = {"model": "m", "output": "o", "data": {"train": "d.json"}}
CONFIGS = {kind: method.config for kind, method in METHODS.items()}
EPOCHS = DATA | {"schedule": {"epochs": 2, "warmup": 0.2}}


def changed(tmp_path: Path, data: dict[str, Any], *changes: str) -> Recipe:
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(data))
    return check_recipe(read_recipe(tmp_path / "recipe.toml", changes))


def test_a_value_that_is_set_displaces_its_alternative(tmp_path: Path) -> None:
    schedule = changed(tmp_path, EPOCHS, "schedule.steps=4").schedule
    assert (schedule.steps, schedule.epochs, schedule.warmup) == (4, None, 0.2)
    steps = DATA | {"schedule": {"steps": 9}}
    schedule = changed(tmp_path, steps, "schedule.epochs = 1.5").schedule
    assert (schedule.steps, schedule.epochs) == (None, 1.5)
    assert changed(tmp_path, steps, "schedule={epochs=3}").schedule.epochs == 3
    filled = EPOCHS | {"method": {"kind": "movement", "fill": True, "fill_epochs": 3}}
    assert [stage.steps for stage in stages_of(changed(tmp_path, filled, "method.fill_steps=7"))] == [None, 7]
    halves = EPOCHS | {"method": {"kind": "l0"}, "budget": {"heads": 0.5, "columns": 0.5}}
    budget = changed(tmp_path, halves, "budget.flops=0.4").budget
    assert (budget.flops, budget.heads, budget.columns) == ((0.4,), None, None)
    both = changed(tmp_path, halves, "budget.heads=0.4").budget  # these two go together
    assert (both.heads, both.columns) == (0.4, 0.5)
    brain = EPOCHS | {"optimiser": {"bf16": True}}
    assert not changed(tmp_path, brain, "optimiser.fp16=true").optimiser.bf16
    assert changed(tmp_path, brain, "optimiser.fp16=false").optimiser.bf16
    student = DATA | {"method": {"kind": "student", "layers": 4}}
    found = changed(tmp_path, student, "method.keep=[0, 3]", "method.prediction_steps=5")
    assert found.method.keep == (0, 3)  # type: ignore[union-attr]
    assert [(stage.steps, stage.epochs) for stage in stages_of(found)] == [(None, 4), (5, None), (None, 2)]
    assert recipe_from(tomllib.loads(recipe_to_toml(found))) == found


@pytest.mark.parametrize(
    ("sections", "changes", "message"),
    [
        ({"schedule": {"steps": 4, "epochs": 2}}, (), "schedule: expected either steps or epochs; found both"),
        ({}, ("schedule.steps=4", "schedule.epochs=1"), "--set schedule.steps and --set schedule.epochs: expected one"),
        ({"schedule": {}}, (), "found neither"),
        (
            {"method": {"kind": "movement", "fill": True, "fill_steps": 2, "fill_epochs": 2}},
            (),
            "either fill_steps or fill_epochs; found both",
        ),
        ({"method": {"kind": "l0", "retrain_steps": 0, "retrain_epochs": 1}}, (), "retrain_epochs; found both"),
        ({"method": {"kind": "student", "layers": 2, "keep": [0]}}, (), "either layers or keep; found both"),
        (
            {"schedule": {"epochs": 1}, "method": {"kind": "student"}},
            (),
            r"schedule\.\w+: method.kind = 'student' has lengths of its own",
        ),
        ({"optimiser": {"bf16": True, "fp16": True}}, (), "either bf16 or fp16; found both"),
        ({"budget": {"flops": 0.5}}, (), "budget.flops: method.kind = 'none' prunes to no budget"),
        ({"teacher": "t"}, (), "teacher: nothing is learnt from it"),
        ({"data": {"train": "d", "eval_samples": 3}}, (), "there is no data.eval"),
    ],
)
def test_what_contradicts_itself_is_refused(
    sections: dict[str, Any], changes: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        changed(tmp_path, EPOCHS | sections, *changes)


def test_a_file_that_is_no_toml_says_what_toml_says(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('model = "m"\noutput = \n')
    with pytest.raises(tomllib.TOMLDecodeError) as expected:
        tomllib.loads('model = "m"\noutput = \n')
    assert "line 2" in str(expected.value)
    with pytest.raises(UsageError, match=rf"recipe\.toml: cannot be read: .*{re.escape(str(expected.value))}"):
        read_recipe(tmp_path / "recipe.toml")


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("\ufeff" + tomli_w.dumps(EPOCHS), encoding="utf-8")
    assert read_recipe(tmp_path / "recipe.toml").model == "m"


# A number that is too low, and one that is too high (None: any is fine), by section and key.
RANGES: dict[str, dict[str, tuple[float | None, float | None]]] = {
    "": {"seed": (-1, 2**40)},
    "data": {
        "samples": (0, 2**40),
        "eval_samples": (0, 2**40),
        "max_seq_length": (0, 2**40),
        "doc_stride": (-1, 2**40),
    },
    "schedule": {"steps": (0, 2**40), "epochs": (0, 1e9), "warmup": (-0.1, 1.1), "cooldown": (-0.1, 1.1)},
    "budget": {"flops": (0, 1.1), "heads": (0, 1.1), "columns": (0, 1.1), "sequence_length": (0, 2**40)},
    "distillation": {
        "weight": (-0.1, 1.1),
        "temperature": (0, None),
        "hidden_weight": (-1, None),
        "layer_map": (-2, None),
    },
    "optimiser": {
        "learning_rate": (0, None),
        "score_learning_rate": (0, None),
        "weight_decay": (-1, None),
        "batch_size": (0, 2**40),
        "accumulation": (0, 2**40),
        "warmup": (-0.1, 1.1),
        "max_gradient_norm": (-1, None),
        "dropout": (-0.1, 1.1),
    },
    "movement": {
        "block": (0, 2**40),
        "initial_threshold": (None, None),
        "final_threshold": (None, None),
        "initial_score": (None, None),
        "initial_spread": (-1, None),
        "initial_samples": (1, 2**40),
        "least": (-0.1, 1.1),
        "penalty_weight": (-1, None),
        "attention_penalty": (-1, None),
        "feed_forward_penalty": (-1, None),
        "refresh": (0, 2**40),
        "fill_steps": (0, 2**40),
        "fill_epochs": (0, 1e9),
        "fill_learning_rate": (0, None),
    },
    "l0": {
        "attention_penalty": (-1, None),
        "feed_forward_penalty": (-1, None),
        "multiplier_learning_rate": (0, None),
        "initial_log_alpha": (None, None),
        "initial_spread": (-1, None),
        "initial_samples": (1, 2**40),
        "temperature": (0, None),
        "retrain_steps": (-1, 2**40),
        "retrain_epochs": (-1, 1e9),
        "retrain_learning_rate": (0, None),
    },
    "gradual": {
        "step": (0, 1),
        "learning_rates": (0, None),
        "recovery_steps": (0, 2**40),
        "recovery_epochs": (0, 1e9),
        "recovery_learning_rate": (0, None),
        "samples": (1, 2**40),
        "align": (0, 2**40),
        "keep_layers": (-1, 2**40),
    },
    "student": {
        "layers": (0, 2**40),
        "keep": (-1, 2**40),
        **{f"{part}_steps": (-1, 2**40) for part in ("intermediate", "prediction", "fine_tuning")},
        **{f"{part}_epochs": (-1, 1e9) for part in ("intermediate", "prediction", "fine_tuning")},
        **{f"{part}_learning_rate": (0, None) for part in ("intermediate", "prediction", "fine_tuning")},
        "temperature": (0, None),
        "weight": (-0.1, 1.1),
    },
}


def with_value(section: str, key: str, value: Any) -> dict[str, Any]:
    value = [value, 1] if key == "block" else value
    if not section:
        return EPOCHS | {key: value}
    if section in METHODS:
        return EPOCHS | {"method": {"kind": section, key: value}}
    return EPOCHS | {section: EPOCHS.get(section, {}) | {key: value}}


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in RANGES.items() for key in keys])
def test_every_number_has_a_range(section: str, key: str) -> None:
    low, high = RANGES[section][key]
    name = ".".join(filter(None, ("method" if section in METHODS else section, key)))
    wrong = [value for value in (low, high) if value is not None]
    for value in (math.nan, math.inf, -math.inf, 10**400, "1", True, [[1]], *wrong):
        with pytest.raises(UsageError, match=rf"^recipe: {name}: expected "):
            recipe_from(with_value(section, key, value))


def numbers(kind: type[Any]) -> set[str]:
    """The fields whose type, as it is written, is one of numbers."""
    word = re.compile(
        r"\b(int|float|Count|CountOrZero|Epochs|EpochsOrZero|Fraction|Share|Positive|NotNegative|SomeExamples)\b"
    )
    return {field.name for field in fields(kind) if word.search(str(field.type).split("Option(")[0])}


def test_no_number_is_forgotten_above() -> None:
    kinds = {field.name: type(value) for field in fields(Recipe) if is_dataclass(value := sections()[field.name])}
    for name, kind in ({"": Recipe} | kinds | CONFIGS).items():
        if name == "method":
            continue
        assert numbers(kind) == set(RANGES.get(name, ())), name


def sections() -> dict[str, Any]:
    recipe = recipe_from(EPOCHS | {"distillation": {}})
    return {field.name: getattr(recipe, field.name) for field in fields(recipe)}


def test_recipes_made_in_python_are_checked_as_well() -> None:
    recipe = recipe_from(EPOCHS)
    for part in (
        {"distillation": Distillation(hidden_weight=math.nan)},
        {"optimiser": replace(recipe.optimiser, weight_decay=math.nan)},
        {"optimiser": replace(recipe.optimiser, max_gradient_norm=math.inf)},
        {"schedule": replace(recipe.schedule, steps=3)},
        {"seed": "one"},
        {"method": "movement"},
        {"model": None},
    ):
        with pytest.raises(UsageError):
            check_recipe(replace(recipe, **part))  # type: ignore[arg-type]
    lenient = check_recipe(replace(recipe, data=replace(recipe.data, train="one.json")))  # type: ignore[arg-type]
    assert lenient.data.train == ("one.json",)


@given(
    st.sampled_from([(section, key) for section, keys in RANGES.items() for key in keys]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ),
)
def test_any_value_is_taken_or_refused(place: tuple[str, str], value: Any) -> None:
    with suppress(UsageError):
        stages_of(check_recipe(recipe_from(with_value(*place, value))))


def test_the_page_of_all_keys_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m docs.recipe_keys writes it anew"


def test_the_page_says_every_key_and_default() -> None:
    text = page()
    for kind in (Recipe, Distillation, *CONFIGS.values(), *(type(value) for value in sections().values())):
        for field in fields(kind) if is_dataclass(kind) else ():
            if not is_dataclass(sections().get(field.name)):
                assert f"| `{field.name}` |" in text, field.name
    assert "| `weight_decay` | number, 0 or more | 0 | of weights; biases and norms have none |" in text


# --- the registry of methods -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FrozenConfig(MethodConfig):
    """`[method]` with `kind = "frozen"`: a made-up method."""

    frozen_steps: Annotated[Count | None, Option("its length; instead of `frozen_epochs`")] = None
    frozen_epochs: Annotated[Epochs | None, Option("the same in epochs")] = None
    guide: Annotated[str | None, Option("a teacher of its own")] = None


def frozen_stages(_: Recipe, config: FrozenConfig) -> tuple[Stage, ...]:
    return (Stage("frozen", steps=config.frozen_steps, epochs=config.frozen_epochs),)


def test_a_method_is_one_entry_in_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading, alternatives, checks, teachers, disk, training and the page know a new one by its entry alone."""
    entry = TrainingMethod(
        "frozen",
        FrozenConfig,
        frozen_stages,
        prunes=False,
        uses_schedule=False,
        lengths=("frozen",),
        teacher_keys=("guide",),
    )
    registry, alternatives = METHODS | {"frozen": entry}, ALTERNATIVES | {"method": entry.alternatives}
    for module in (methods, recipe_file, recipe_keys):
        monkeypatch.setattr(module, "METHODS", registry)
        monkeypatch.setattr(module, "ALTERNATIVES", alternatives)
    data = recipe_data(tmp_path, method={"kind": "frozen", "frozen_steps": 2})
    with pytest.raises(UsageError, match=r"method\.kind = 'frozen' has lengths of its own: method\.frozen_steps$"):
        check_recipe(recipe_from(data))
    del data["schedule"]["steps"]
    for section, message in (
        ({"method": {"kind": "frozen", "frozen_step": 2}}, "the nearest known one is 'method.frozen_steps'"),
        ({"method": {"kind": "frozen", "frozen_steps": 2, "frozen_epochs": 1}}, "frozen_epochs; found both"),
        ({"budget": {"flops": 0.5}}, "method.kind = 'frozen' prunes to no budget"),
        ({"teacher": "t"}, "nothing is learnt from it"),
    ):
        with pytest.raises(UsageError, match=message):
            check_recipe(recipe_from(data | section))
    with pytest.raises(CheckpointError, match="the teacher 'missing/model' cannot be used"):
        prune_export.train(
            recipe_from(data | {"method": {"kind": "frozen", "frozen_steps": 2, "guide": "missing/model"}})
        )
    assert '## `[method]`, `kind = "frozen"`' in page()
    assert prune_export.train(recipe_from(data)).record["method"] == "frozen"


def test_only_the_registry_knows_the_methods() -> None:
    """No module outside `methods` imports a method's own."""
    for path in (ROOT / "prune_export").rglob("*.py"):
        if path.parent.name != "methods":
            assert not re.search(
                r"training\.methods\.|training\.methods import \w*(l0|movement|gradual|student|none)\b",
                path.read_text(),
            ), path
