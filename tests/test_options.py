"""Options are written once: the command line, the public functions and the checks of both come from the same fields."""

import argparse
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, get_args

import pytest

import prune_export
from exporters.errors import UsageError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.targets import TARGETS
from exporters.providers import PROVIDERS
from prune_export.cli.main import VERBS, main, parser_of, verb_module
from prune_export.cli.parser import add_options
from prune_export.evaluation.evaluate_network import DEFAULT_SETTINGS
from prune_export.options import session, targets
from prune_export.options.inspect import InspectOptions, SlimOptions
from prune_export.options.keywords import from_keywords
from prune_export.options.option import ApiOnly, Option, OptionField, fields_of
from prune_export.options.prune import PruningMethod
from prune_export.options.ranges import Range
from prune_export.pruning.pruner import PrunerSettings

WITHOUT_COMMAND: dict[str, Any] = {
    "slim": SlimOptions,  # the command line inspects, and exports
    "load_slim": session.SlimFolder,
    "load_session": session.SessionOptions,
    "Pipeline": session.PipelineOptions,
}

# Each public function: its positional parameters, then the others with their defaults.
SIGNATURES: dict[str, tuple[str, dict[str, Any]]] = {
    "export": (
        "model output",
        {"task": None, "target": "auto", "dtype": "fp32", "opset": None, "plan": None, "atol": None, "verify": True}
        | {"thorough": False, "samples": None, "seed": 0, "data": None, "dataset": None, "max_loss": None}
        | {"limit": None, "calibration": None, "keep_float": (), "quantize_embeddings": False, "overwrite": False},
    ),
    "verify": (
        "model onnx",
        {"task": None, "plan": None, "provider": None, "thorough": True, "samples": None, "seed": 0, "atol": None}
        | {"data": None, "dataset": None, "max_loss": None, "limit": None},
    ),
    "inspect": ("model", {"task": None, "plan": None}),
    "slim": ("model", {"task": None, "plan": None}),
    "evaluate": (
        "models data",
        {"task": None, "dataset": None, "split": None, "only_answerable": False, "limit": None, "seed": 0}
        | {"max_seq_length": None, "doc_stride": 128, "batch_tokens": None, "null_threshold": 0.0, "labels": None}
        | {"fail_below": None, "provider": None, "threads": None},
    ),
    "bench": (
        "model onnx",
        {"model": None, "onnx": (), "rows": None, "batch_sizes": (1, 8), "sequence_lengths": None, "task": None}
        | {"provider": "cpu", "dtype": "fp32", "threads": None, "padding": 0.0, "cuda_graphs": False}
        | {"rounds": None, "seconds": None, "quick": False},
    ),
    "prune": (
        "model calibration output",
        {"samples": 1024, "seed": 0, "dataset": None, "labels": None, "max_seq_length": None, "flops": None}
        | {"parameters": None, "speedup": None, "latency_ms": None, "max_mib": None, "heads": None, "columns": None}
        | {"tolerance": 0.05}
        | {"method": "obs", "rearrangement": True, "reconstruction": "full", "gradual": True, "device": "cpu"}
        | {"align": None, "keep_layers": (), "drop_layers": True, "target": "cpu", "dtype": "fp32", "batch_size": 1}
        | {"sequence_length": None, "threads": None, "task": None, "overwrite": False},
    ),
    "search": (
        "model calibration output",
        {"samples": 1024, "seed": 0, "dataset": None, "labels": None, "max_seq_length": None, "max_loss": None}
        | {"latency_ms": None, "max_mib": None, "best_w": False, "point": None, "widths": False, "depth": None}
        | {"align": 32, "keep_layers": (), "uniform": False, "space": None, "method": "ladders", "epsilon": None}
        | {"steps": None, "inherit": False, "evaluations": 200, "points": 10, "max_divergence": 1.0}
        | {"device": "cpu", "target": "cpu"}
        | {"dtype": "fp32", "batch_size": 1, "sequence_length": None, "threads": None, "task": None},
    ),
    "profile": (
        "model",
        {"target": "cpu", "dtype": "fp32", "batch_size": 1, "sequence_length": None, "threads": None, "fresh": False}
        | {"task": None},
    ),
    "train": ("recipe", {"changes": (), "resume": False, "overwrite": False, "keep_checkpoints": False}),
    "dry_run": ("recipe", {"changes": (), "resume": False, "overwrite": False, "keep_checkpoints": False}),
    "load_slim": ("folder", {}),
    "load_session": ("onnx", {"provider": None, "threads": None, "cuda_graphs": False}),
    "Pipeline": (
        "model",
        {"task": None, "provider": None, "threads": None, "batch_tokens": None, "max_seq_length": None}
        | {"doc_stride": 128, "max_answer_length": 15, "handle_impossible_answer": False, "top_k": 1},
    ),
}
_FROM_HUB = ("export", "verify", "inspect", "slim", "evaluate", "bench", "prune", "profile", "search")
_LISTENED_TO = (*(name for name in _FROM_HUB if name != "slim"), "train", "dry_run")


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    positional, defaults = SIGNATURES[name]
    expected = dict.fromkeys(positional.split(), inspect.Parameter.empty) | defaults
    expected |= {"revision": None, "cache_dir": None, "token": None} if name in _FROM_HUB else {}
    expected |= {"progress": prune_export.progress.SILENT} if name in _LISTENED_TO else {}
    parameters = inspect.signature(getattr(prune_export, name)).parameters
    assert [(part.name, part.default) for part in parameters.values()] == list(expected.items())
    kinds = [part.name for part in parameters.values() if part.kind is part.POSITIONAL_OR_KEYWORD]
    assert kinds == positional.split()


def test_all_public_functions_have_a_signature_here() -> None:
    functions = {name for name in prune_export.__all__ if inspect.isfunction(getattr(prune_export, name))}
    assert functions - {"read_plan", "read_recipe"} == set(SIGNATURES) - {"Pipeline"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_on_the_command_line_or_says_why_not(verb: str) -> None:
    fields = {field.name: field for field in fields_of(verb_module(verb).OPTIONS)}
    assert set(fields) == set(inspect.signature(getattr(prune_export, verb)).parameters)
    actions = {action.dest: action for action in parser_of(verb)._actions}
    for field in fields.values():
        if isinstance(field.option, ApiOnly):
            assert field.option.reason
            assert field.name not in actions
            continue
        action = actions[field.name]
        assert action.default is argparse.SUPPRESS  # so that the field's default is the only one
        assert action.help == field.help
        assert bool(action.required) == (field.default is MISSING and field.option.is_required)
        assert tuple(action.choices or ()) == field.option.choices
    assert {action.dest for action in parser_of(verb)._actions} - set(fields) == {
        *(field.name for field in fields_of(verb_module(verb).COMMAND)),
        *({"help", "version"} if verb == "export" else {"help"}),
    }


@pytest.mark.parametrize("name", WITHOUT_COMMAND)
def test_functions_without_a_command_have_the_fields_as_parameters(name: str) -> None:
    fields = list(fields_of(WITHOUT_COMMAND[name]))
    assert [field.name for field in fields] == list(inspect.signature(getattr(prune_export, name)).parameters)
    if name != "slim":
        assert all(isinstance(field.option, ApiOnly) and field.option.reason for field in fields)


def out_of_range(field: OptionField) -> Any:
    allowed = field.option.allowed
    assert allowed is not None
    value = -2 if allowed.whole else -1.5
    return None if allowed.holds(value) else value


def number_fields() -> Iterator[tuple[str, OptionField]]:
    for verb in VERBS:
        for field in fields_of(verb_module(verb).OPTIONS):
            if field.option.allowed is not None and out_of_range(field) is not None:
                yield verb, field


@pytest.mark.parametrize(
    ("verb", "field"), [pytest.param(*case, id=f"{case[0]}-{case[1].name}") for case in number_fields()]
)
def test_both_refuse_numbers_in_the_same_words(
    verb: str, field: OptionField, capsys: pytest.CaptureFixture[str]
) -> None:
    value = out_of_range(field)
    assert main([verb, f"{field.flag}={value}"]) == 2
    line = capsys.readouterr().err
    needed = {part.name: "nowhere" for part in fields_of(verb_module(verb).OPTIONS) if part.default is MISSING}
    with pytest.raises(UsageError) as caught:
        getattr(prune_export, verb)(**needed, **{field.name: value})
    assert line == f"prune-export: error: {caught.value}\n"


def test_choices() -> None:
    assert ("auto", *TARGETS) == targets.TARGETS
    assert tuple(PRECISIONS) == targets.DTYPES
    assert set(targets.FLOAT_DTYPES) < set(targets.DTYPES)
    for verb in VERBS:
        for field in fields_of(verb_module(verb).OPTIONS):
            if field.name == "provider":
                assert field.option.choices == tuple(PROVIDERS)
    with pytest.raises(UsageError, match=r"^--dtype fp64: expected one of fp32, fp16, int8$"):
        prune_export.export("nowhere", "out", dtype="fp64")


class Deeper(InspectOptions):
    """`inspect` with one option more."""

    depth: Annotated[int, Option("how deep to look", "N", Range(1, 9, whole=True), group="depth")] = 3
    is_quick: Annotated[bool, Option("look slowly, as in --depth", flag="--quick")] = True


@from_keywords(Deeper, Plan=prune_export.Plan)
def look(options: Deeper) -> tuple[Any, ...]:
    """Looks.

    Raises:
        UsageError: always of options.
    """
    return options.model, options.depth, options.is_quick


def test_a_field_is_all_that_an_option_needs() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser, Deeper)
    text = parser.format_help()
    assert "depth:\n  --depth N" in text
    assert "how deep to look (default: 3)" in text
    given = vars(parser.parse_args(["--model", "m", "--depth", "7", "--no-quick"]))
    assert given == {"model": "m", "depth": 7, "is_quick": False}
    assert look(**given) == ("m", 7, False)
    assert look("m") == ("m", 3, True)
    assert str(inspect.signature(look)).endswith("depth: int = 3, is_quick: bool = True) -> tuple[typing.Any, ...]")
    assert "    depth: how deep to look; a whole number from 1 to 9.\n" in (look.__doc__ or "")
    assert "    is_quick: False: look slowly, as in `depth`.\n\nRaises:\n" in (look.__doc__ or "")
    with pytest.raises(argparse.ArgumentError, match="10: expected a whole number from 1 to 9"):
        parser.parse_args(["--model", "m", "--depth", "10"])
    with pytest.raises(UsageError, match=r"^--depth 10: expected a whole number from 1 to 9$"):
        look("m", depth=10)
    with pytest.raises(UsageError, match=r"^look: depth: expected a whole number; found '7'$"):
        look("m", depth="7")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="depht"):
        look("m", depht=7)  # type: ignore[call-arg]


def test_an_option_without_annotation_is_a_mistake_of_ours() -> None:
    @dataclass(frozen=True)
    class Plain:
        depth: int = 3

    with pytest.raises(TypeError, match=r"Plain.depth: expected Annotated\[type, Option"):
        list(fields_of(Plain))


def test_a_field_is_redeclared_where_groups_meet() -> None:
    class Deepest(Deeper):
        depth: Annotated[int, Option("how deep to look", "N", Range(1, 99, whole=True))] = 9

    class Other(Deeper):
        pass

    class Both(Other, Deepest):
        pass

    assert {field.name: field.default for field in fields_of(Deepest)}["depth"] == 9
    with pytest.raises(TypeError, match=r"Both.depth: a base beside Deepest has it, too; redeclare it in Both"):
        list(fields_of(Both))


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("export", "prune-export profile …                measures what heads and columns cost"),
        ("evaluate", "Exit code 4 if a model scores below --fail-below"),
        ("prune", "Exit code 4 if it is slower than --speedup or --latency-ms asks for"),
        ("train", "docs/recipes.md lists every key"),
    ],
)
def test_the_end_of_the_help(verb: str, words: str) -> None:
    text = parser_of(verb).format_help()
    assert text.index("\nprinting:\n") < text.index(words)
    titles = [line for line in text[: text.index(words)].splitlines() if line.endswith(":") and line[0] != " "]
    assert titles[-1] in ("printing:", "verbs:")
    assert titles[0] in ("options:", "positional arguments:")


def test_options_show_no_token() -> None:
    for verb in VERBS:
        if "token" in {field.name for field in fields_of(verb_module(verb).OPTIONS)}:
            needed = [part.name for part in fields_of(verb_module(verb).OPTIONS) if part.default is MISSING]
            options = verb_module(verb).OPTIONS(*needed, token="hf_secret", revision="main")
            assert "revision='main'" in repr(options)
            assert "hf_secret" not in repr(options)


def test_options_reach_the_functions_below() -> None:
    """What a verb hands on is its own object, whose class the function below names."""
    assert isinstance(verb_module("evaluate").OPTIONS("m", "d"), type(DEFAULT_SETTINGS))
    pruning = verb_module("prune").OPTIONS("m", "c", "o", method="random", device="cuda")
    settings = PrunerSettings.of(pruning, rules=PrunerSettings().rules, seed=5)
    assert (settings.method, settings.device, settings.seed) == ("random", "cuda", 5)
    assert {field.name for field in fields_of(PruningMethod)} <= set(vars(settings))
    methods = ("obs", "fisher", "taylor", "magnitude", "random")
    assert get_args(PruningMethod.__annotations__["method"])[1].choices == methods


@pytest.mark.parametrize("words", [[], *([verb] for verb in VERBS)])
def test_without_options_the_missing_one_is_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(words)  # bench finds nothing to measure
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert "prune-export: error: " in capsys.readouterr().err
