"""Sessions: recorded settings, batches in parts and padded, batches that stay where the model runs."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

import prune_export
from exporters import runtime
from exporters.bound import _run_options
from exporters.errors import OutputError, UsageError
from exporters.feeding import Limits, feed
from exporters.session import Session, SessionSettings
from exporters.tasks import Task
from tests.comparing import largest_difference, torch_outputs
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, make_model, save


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path_factory.mktemp("session") / "checkpoint")


def batch(rows: int, length: int, seed: int = 0) -> dict[str, Any]:
    ids = np.random.default_rng(seed).integers(1, 61, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def test_a_session_runs_large_batches_in_parts_with_the_same_answers(checkpoint: Path, tmp_path: Path) -> None:
    prune_export.export(checkpoint, tmp_path / "out", target="cpu", samples=4)
    record = json.loads((tmp_path / "out" / "prune_export.json").read_text())
    inputs = batch(7, 20)
    whole = prune_export.load_session(tmp_path / "out").run(inputs)
    for tokens, runs in ((60, 3), (1, 7), (140, 1), (100, 2)):
        record["session"] = {"tokens_at_once": tokens, "entries": {"session.set_denormal_as_zero": "1"}}
        (tmp_path / "out" / "prune_export.json").write_text(json.dumps(record))
        session = prune_export.load_session(tmp_path / "out", threads=1)
        assert session.settings.tokens_at_once == tokens
        assert session.parts(7, 20) == runs
        found = session.run(inputs)
        for name, expected in whole.items():
            np.testing.assert_allclose(found[name], expected, atol=1e-5)


def test_parts_hold_no_more_tokens_than_a_run_may(exported: Path) -> None:
    """Of equal size, which a batch can be cut into; a row alone may have more, and one run less would be too few."""
    for limit in (1, 30, 100, 257):
        session = Session(exported / "model.onnx", threads=1, settings=SessionSettings(tokens_at_once=limit))
        for rows in range(1, 24):
            for length in (1, 7, 30, 33):
                runs = session.parts(rows, length)
                largest = math.ceil(rows / runs)
                assert largest * length <= limit or largest == 1
                assert runs == 1 or math.ceil(rows / (runs - 1)) * length > limit


def test_no_run_has_more_tokens_than_it_may(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, whole = [], runtime.run

    def recorded(session: Any, inputs: Any) -> Any:
        shapes.append(inputs["input_ids"].shape)
        return whole(session, inputs)

    monkeypatch.setattr(runtime, "run", recorded)
    session = Session(exported / "model.onnx", threads=1, settings=SessionSettings(tokens_at_once=60))
    session.run(batch(7, 20))
    session.run(batch(3, 20))
    assert shapes == [(3, 20), (3, 20), (1, 20), (3, 20)]


@pytest.mark.parametrize("task", ["question-answering", "text-classification", "feature-extraction"])
def test_a_session_pads_to_a_multiple_and_cuts_again(task: Task, tmp_path: Path) -> None:
    model = make_model(FAMILY_CASES[0], task, max_position_embeddings=48)
    result = prune_export.export(save(model, tmp_path / "checkpoint"), tmp_path / "out", target="cuda", samples=4)
    assert result.record["session"]["length_multiple"] == 16
    session = prune_export.load_session(tmp_path / "out", provider="cpu")
    inputs = example_inputs(model, length=19)
    encoder = prune_export.inspect(tmp_path / "checkpoint").slim
    found = session.run({name: value.numpy() for name, value in inputs.items()})
    assert largest_difference(torch_outputs(model, encoder, inputs), found) < 1e-5  # and of the same shapes
    # Where the model has no positions for the padding, there is none.
    odd = save(make_model(FAMILY_CASES[0], task, max_position_embeddings=47), tmp_path / "odd")
    assert (
        prune_export.export(odd, tmp_path / "odd-out", target="cuda", samples=4).record["session"]["length_multiple"]
        == 1
    )


def test_settings_that_make_no_sense_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    prune_export.export(checkpoint, tmp_path / "out", target="cpu", samples=4)
    path = tmp_path / "out" / "prune_export.json"
    record = json.loads(path.read_text())
    for wrong in (
        *({"tokens_at_once": number} for number in (0, -1)),
        *({"length_multiple": number} for number in (0, "8")),
        *({"entries": entries} for entries in (3, None, [1])),
    ):
        path.write_text(json.dumps(record | {"session": wrong}))
        with pytest.raises(OutputError, match=r"prune_export\.json: damaged.*session"):
            prune_export.load_session(tmp_path / "out")
    right = {"tokens_at_once": 8, "length_multiple": 2, "entries": {"session.set_denormal_as_zero": "1"}}
    path.write_text(json.dumps(record | {"session": right}))
    assert prune_export.load_session(tmp_path / "out").settings == SessionSettings(**right)
    del record["session"]
    path.write_text(json.dumps(record))
    assert prune_export.load_session(tmp_path / "out").settings == SessionSettings()


def test_a_captured_graph_has_its_number_under_the_name_that_onnx_runtime_gives_it() -> None:
    entries: dict[str, str] = {}
    module = SimpleNamespace(RunOptions=lambda: SimpleNamespace(add_run_config_entry=entries.__setitem__))
    _run_options(module, 3)
    assert entries == {"gpu_graph_id": "3"}


def test_a_bound_batch_stays_in_its_place(checkpoint: Path, tmp_path: Path) -> None:
    prune_export.export(checkpoint, tmp_path / "out", target="cpu", samples=4)
    session = prune_export.load_session(tmp_path / "out")
    first, second = batch(3, 11), batch(3, 11, seed=1)
    bound = session.bind(first)
    for inputs in (first, second, first):
        bound.update(inputs)
        bound.run()
        assert largest_difference(session.run(inputs), bound.outputs()) < 1e-6
    assert largest_difference(session.run(second), bound.outputs()) > 1e-2
    with pytest.raises(UsageError, match=r"input_ids: expected int64 of shape \[3, 11\], as bound; found \[3, 12\]"):
        bound.update(batch(3, 12))
    with pytest.raises(UsageError, match="the model takes the input token_type_ids"):
        session.bind({name: first[name] for name in ("input_ids", "attention_mask")})
    with pytest.raises(UsageError, match="CUDA graphs need the provider cuda; found cpu"):
        prune_export.load_session(tmp_path / "out", cuda_graphs=True)


@pytest.mark.cuda
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_bound_batch_on_cuda(cuda_graphs: bool, dtype: str, checkpoint: Path, tmp_path: Path) -> None:
    prune_export.export(checkpoint, tmp_path / "out", target="cuda", dtype=dtype, samples=4)
    session = prune_export.load_session(tmp_path / "out", cuda_graphs=cuda_graphs)
    reference = prune_export.load_session(tmp_path / "out", provider="cpu")
    bound = session.bind(batch(3, 16))
    for seed in (0, 1, 2):
        inputs = batch(3, 16, seed=seed)
        bound.update(inputs)
        bound.run()
        assert largest_difference(reference.run(inputs), bound.outputs()) < (1e-4 if dtype == "fp32" else 2e-2)


# --- what may be fed ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fed") / "out"
    prune_export.export(checkpoint, folder, target="cpu", verify=False)
    return folder


@pytest.fixture(scope="module")
def session(exported: Path) -> Session:
    return prune_export.load_session(exported)


def rearranged(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every other place of an array that is twice as large, backwards in memory."""
    wide = np.zeros((values.shape[0] * 2, values.shape[1] * 2), dtype=np.int64)
    wide[::-2, ::-2] = values
    return wide[::-2, ::-2]


FORMS: dict[str, Callable[[NDArray[np.int64]], Any]] = {
    "int32": lambda v: v.astype(np.int32),
    "uint8": lambda v: v.astype(np.uint8),
    "uint64": lambda v: v.astype(np.uint64),
    "big-endian": lambda v: v.astype(">i8"),
    "whole floats": lambda v: v.astype(np.float32),
    "lists": lambda v: v.tolist(),
    "tuples": lambda v: tuple(map(tuple, v.tolist())),
    "a list of arrays": lambda v: list(v),
    "a tensor": torch.from_numpy,
    "an int32 tensor": lambda v: torch.from_numpy(v).int(),
    "a transposed tensor": lambda v: torch.from_numpy(v.T.copy()).T,
    "Fortran's order": np.asfortranarray,
    "every other place": rearranged,
    "read-only": lambda v: np.frombuffer(v.tobytes(), dtype=np.int64).reshape(v.shape),
    "broadcast": lambda v: np.broadcast_to(v, v.shape),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_of_the_same_numbers_give_the_same(form: str, session: Session) -> None:
    inputs = batch(3, 7)
    inputs["attention_mask"][1, 4:] = 0
    expected = session.run(inputs)
    for found in (
        session.run({name: FORMS[form](values) for name, values in inputs.items()}),
        session.run(inputs | {"input_ids": FORMS[form](inputs["input_ids"])}),
    ):
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    bound = session.bind(batch(3, 7, seed=1))
    bound.update({name: FORMS[form](values) for name, values in inputs.items()})
    bound.run()
    assert largest_difference(expected, bound.outputs()) < 1e-6


def test_masks_of_truth_values_single_rows_and_no_rows(session: Session) -> None:
    inputs = batch(2, 7)
    inputs["attention_mask"][1, 4:] = 0
    expected = session.run(inputs)
    truth = inputs | {"attention_mask": inputs["attention_mask"] == 1, "token_type_ids": np.zeros((2, 7), dtype=bool)}
    assert largest_difference(expected, session.run(truth)) == 0
    row = session.run({name: values[0] for name, values in inputs.items()})
    for name, values in row.items():
        assert values.shape == (1, 7)
        np.testing.assert_allclose(values, expected[name][:1], atol=1e-5)
    for nothing in ({name: values[:0] for name, values in inputs.items()}, dict.fromkeys(inputs, torch.zeros(0, 7))):
        assert {name: (values.shape, values.dtype) for name, values in session.run(nothing).items()} == dict.fromkeys(
            expected, ((0, 7), np.float32)
        )
    extra = {"special_tokens_mask": [[1]], "labels": None, "offset_mapping": "x", "head_mask": None, 3: 4}
    assert largest_difference(expected, session.run(inputs | extra)) == 0
    assert session.run(inputs)["start_logits"].flags.c_contiguous


def changed(name: str, place: tuple[int, int], value: Any, dtype: Any = np.int64) -> dict[str, Any]:
    found = batch(2, 7)
    found[name] = found[name].astype(dtype)
    found[name][place] = value
    return found


HOSTILE: list[tuple[str, Callable[[], Any], str]] = [
    (
        "nothing",
        dict,
        "the model takes the input input_ids, attention_mask, token_type_ids; expected .*, found nothing",
    ),
    ("none", lambda: None, "expected a mapping with input_ids, attention_mask, token_type_ids; found NoneType"),
    ("an array alone", lambda: batch(2, 7)["input_ids"], "expected a mapping"),
    (
        "a name mistyped",
        lambda: {"input_id" if n == "input_ids" else n: v for n, v in batch(2, 7).items()},
        "found input_id,",
    ),
    ("an input that is None", lambda: batch(2, 7) | {"token_type_ids": None}, "takes the input token_type_ids"),
    ("a missing input", lambda: {"input_ids": [[1, 2]]}, "takes the input attention_mask, token_type_ids"),
    ("position_ids", lambda: batch(2, 7) | {"position_ids": np.zeros((2, 7))}, "does not take position_ids"),
    ("inputs_embeds", lambda: batch(2, 7) | {"inputs_embeds": np.zeros((2, 7, 24))}, "does not take inputs_embeds"),
    ("an id below 0", lambda: changed("input_ids", (1, 2), -1), r"input_ids: expected 0 to 60; found -1"),
    ("an id too large", lambda: changed("input_ids", (1, 2), 61), r"input_ids: expected 0 to 60; found 61"),
    ("a huge id", lambda: changed("input_ids", (1, 2), 2**63, np.uint64), "input_ids: expected whole numbers"),
    ("a huge integer", lambda: batch(1, 1) | {"input_ids": [[2**70]]}, "input_ids: expected whole numbers"),
    ("a type too large", lambda: changed("token_type_ids", (0, 0), 2), "token_type_ids: expected 0 to 1; found 2"),
    ("a type below 0", lambda: changed("token_type_ids", (0, 0), -2), "token_type_ids: expected 0 to 1; found -2"),
    ("a mask of 2", lambda: changed("attention_mask", (0, 3), 2), "attention_mask: expected 0 to 1; found 2"),
    ("a mask below 0", lambda: changed("attention_mask", (0, 3), -1), "attention_mask: expected 0 to 1; found -1"),
    (
        "half a mask",
        lambda: changed("attention_mask", (0, 3), 0.5, np.float32),
        "attention_mask: .* that are not whole",
    ),
    (
        "an additive mask",
        lambda: changed("attention_mask", (0, 3), -np.inf, np.float32),
        "attention_mask: .* not whole",
    ),
    ("NaN", lambda: changed("input_ids", (0, 3), np.nan, np.float64), "input_ids: expected whole numbers, int64"),
    ("broken floats", lambda: changed("input_ids", (0, 3), 1.5, np.float16), "input_ids: .* float16 with numbers that"),
    ("complex numbers", lambda: changed("input_ids", (0, 3), 1j, np.complex64), "found complex64"),
    ("words", lambda: batch(2, 7) | {"input_ids": [["a"] * 7] * 2}, "input_ids: expected whole numbers, int64"),
    ("objects", lambda: changed("input_ids", (0, 3), None, object), "found object"),
    ("dates", lambda: batch(2, 7) | {"input_ids": np.zeros((2, 7), dtype="M8[s]")}, "found datetime64"),
    ("a string", lambda: batch(2, 7) | {"input_ids": "ab"}, r"input_ids: expected whole numbers.*shape \[\]"),
    ("a number", lambda: batch(2, 7) | {"input_ids": 3}, r"input_ids: expected whole numbers.*shape \[\]"),
    ("three dimensions", lambda: {n: v[None] for n, v in batch(2, 7).items()}, r"found int64 of shape \[1, 2, 7\]"),
    ("rows of two lengths", lambda: batch(2, 7) | {"input_ids": [[1, 2], [1]]}, "input_ids: .* list that is no array"),
    (
        "a shorter mask",
        lambda: batch(2, 7) | {"attention_mask": np.ones((2, 6))},
        r"expected the shape of input_ids, \[2, 7\]",
    ),
    ("fewer rows", lambda: batch(2, 7) | {"token_type_ids": np.zeros((1, 7))}, r"\[2, 7\]; found \[1, 7\]"),
    (
        "no tokens",
        lambda: {n: v[:, :0] for n, v in batch(2, 7).items()},
        r"expected one token or more; found the shape \[2, 0\]",
    ),
    ("an empty list", lambda: {name: [] for name in batch(1, 1)}, "expected one token or more"),
    (
        "too many tokens",
        lambda: batch(2, 41),
        "expected at most 40 tokens, for which the model has positions; found 41",
    ),
    (
        "half a byte",
        lambda: batch(2, 7) | {"input_ids": torch.zeros(2, 7, dtype=torch.bfloat16)},
        "Tensor that is no array",
    ),
    (
        "a tensor without data",
        lambda: batch(2, 7) | {"input_ids": torch.zeros(2, 7, device="meta")},
        "that is no array",
    ),
]


@pytest.mark.parametrize(("inputs", "message"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_inputs_that_cannot_be_right_are_refused_in_one_line(
    inputs: Callable[[], Any], message: str, session: Session
) -> None:
    for call in (session.run, session.bind, session.bind(batch(2, 7)).update):
        with pytest.raises(UsageError, match=message) as caught:
            call(inputs())
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="one row or more to bind"):
        session.bind(dict.fromkeys(session.inputs, np.zeros((0, 7))))


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_limits_are_those_of_the_original(case: FamilyCase, dtype: str, tmp_path: Path) -> None:
    """As many tokens as the Hugging Face model takes, and not one more; the file alone is enough to know."""
    model = make_model(case, "feature-extraction")
    out = prune_export.export(
        save(model, tmp_path / "checkpoint"),
        tmp_path / "out",
        target="cpu",
        dtype=dtype,
        verify=False,
        quantize_embeddings=dtype == "int8",
    )
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(out.model.read_bytes())
    session = prune_export.load_session(alone)
    longest = 38 if model.config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 40
    inputs = {name: value.numpy() for name, value in example_inputs(model, batch=1, length=longest).items()}
    inputs["input_ids"][:] = 7
    limit = {name: np.where(name == "input_ids", 60, values) for name, values in inputs.items()}
    for fits in (inputs, limit):
        encoder = prune_export.inspect(tmp_path / "checkpoint").slim
        tensors = {name: torch.from_numpy(values) for name, values in fits.items()}
        difference = largest_difference(torch_outputs(model, encoder, tensors), session.run(fits))
        assert difference < (1e-4 if dtype == "fp32" else 2)
    longer = {name: np.concatenate([values, values[:, :1]], axis=1) for name, values in inputs.items()}
    with pytest.raises(UsageError, match=f"at most {longest} tokens"):
        session.run(longer)
    with pytest.raises(UsageError, match="input_ids: expected 0 to 60; found 61"):
        session.run(inputs | {"input_ids": inputs["input_ids"] + 54})
    if longest == 38:  # padding takes no position of its own
        padded = {name: np.concatenate([values, np.zeros_like(values)], axis=1) for name, values in inputs.items()}
        padded["input_ids"][:, longest:] = 1
        found, short = session.run(padded), session.run(inputs)
        np.testing.assert_allclose(
            found["last_hidden_state"][:, :longest], short["last_hidden_state"], atol=1e-4 if dtype == "fp32" else 2
        )


def test_what_onnx_runtime_cannot_run_is_one_error(exported: Path, tmp_path: Path) -> None:
    """A model that is not ours says no limits; what goes wrong in it is ONNX Runtime's word, in one line."""
    model = onnx.load(exported / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    session = prune_export.load_session(tmp_path / "foreign.onnx")
    assert session.limits == Limits()
    for inputs in (batch(2, 41), changed("input_ids", (1, 2), 1000)):
        for call in (session.run, session.bind):
            with pytest.raises(OutputError, match="ONNX Runtime cannot run the model: ") as caught:
                call(inputs)
            assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="input_ids: expected 0 or more; found -1"):  # it would be the last word's row
        session.run(changed("input_ids", (1, 2), -1))
    onnx.helper.set_model_props(model, {"prune_export.vocabulary": "many", "prune_export.positions": "9" * 40})
    onnx.save(model, tmp_path / "foreign.onnx")
    assert prune_export.load_session(tmp_path / "foreign.onnx").limits == Limits()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"provider": "gpu"}, "provider: expected one of cpu, cuda or None; found 'gpu'"),
        ({"provider": "CUDA"}, "provider: expected one of cpu, cuda"),
        ({"threads": 0}, "threads 0: expected 1 to"),
        ({"threads": 10**6}, "threads 1000000: expected 1 to"),
        ({"threads": "2"}, "threads: expected a whole number or None; found '2'"),
        ({"threads": True}, "threads: expected a whole number or None; found True"),
        ({"cuda_graphs": 1}, "cuda_graphs: expected True or False; found 1"),
    ],
)
def test_arguments_of_load_session(arguments: dict[str, Any], message: str, exported: Path) -> None:
    with pytest.raises(UsageError, match=message):
        prune_export.load_session(exported, **arguments)
    with pytest.raises(UsageError, match="provider 'gpu': expected one of cpu, cuda"):
        Session(exported / "model.onnx", provider="gpu")
    with pytest.raises(UsageError, match=r"empty string; expected a folder or a \.onnx file"):
        prune_export.load_session("")
    assert prune_export.load_session(exported, threads=np.int32(1)).provider == "cpu"  # type: ignore[arg-type]


def test_floats_are_whole_numbers_below_2_to_the_53_alone() -> None:
    """From there on two neighbours are one float, and nobody knows which was meant."""
    largest = 2**53 - 1
    assert float(largest + 1) == float(largest + 2)
    assert feed({"x": [[float(largest), -float(largest)]]}, ("x",), Limits())["x"].tolist() == [[largest, -largest]]
    for beyond in (2.0**53, -(2.0**53)):
        with pytest.raises(UsageError, match="x: expected whole numbers"):
            feed({"x": [[1.0, beyond]]}, ("x",), Limits())


# --- ONNX Runtime -------------------------------------------------------------------------------------------------------


def test_the_probe_is_a_relu_that_runs_on_the_cpu() -> None:
    model = onnx.load_from_string(runtime.probe())
    onnx.checker.check_model(model, full_check=True)
    probe = runtime.create_session(runtime.probe())
    for value, expected in ((-2.5, 0.0), (2.5, 2.5)):
        assert probe.run(["y"], {"x": np.array([value], dtype=np.float32)})[0].tolist() == [expected]
    runtime.check_provider("cpu")
    with pytest.raises(UsageError, match="provider 'gpu'"):
        runtime.check_provider("gpu")


@pytest.mark.parametrize(("processors", "most"), [(4, 256), (None, 256), (300, 300)])
def test_threads_are_at_most_256_or_the_processors(
    processors: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    for threads in (None, 1, most):
        runtime.check_threads(threads)
    for threads in (0, most + 1):
        with pytest.raises(UsageError, match=f"threads {threads}: expected 1 to {most}"):
            runtime.check_threads(threads)


def test_onnx_runtime_gets_the_settings_and_the_provider_alone(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its fallback, and with options that the provider knows."""
    module, asked = runtime.onnxruntime(), dict[str, Any]()
    make = module.InferenceSession

    def recorded(source: Any, settings: Any, **options: Any) -> Any:
        asked.update(options, source=source, settings=settings)
        return make(source, settings, **options)

    monkeypatch.setattr(module, "InferenceSession", recorded)
    entries = {"session.set_denormal_as_zero": "1"}
    session = Session(exported / "model.onnx", threads=3, settings=SessionSettings(entries=entries))
    settings = asked.pop("settings")
    assert str(asked.pop("source")) == str(exported / "model.onnx")
    assert asked == {"providers": [("CPUExecutionProvider", {})], "enable_fallback": 0}
    assert session.onnxruntime.get_providers() == ["CPUExecutionProvider"]
    assert settings.intra_op_num_threads == 3
    assert settings.get_session_config_entry("session.set_denormal_as_zero") == "1"


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(b"\xff" * 40)
    for model, name in ((path, str(path)), (path.read_bytes(), "the model")):
        with pytest.raises(OutputError) as caught:
            Session(model)
        assert str(caught.value).startswith(f"{name}: ONNX Runtime cannot load it: ")


def test_what_onnx_runtime_logs_keeps_its_level(caplog: pytest.LogCaptureFixture) -> None:
    """Its levels are verbose, info, warning, error and fatal, counted from 0."""
    calls: dict[str, Any] = {}
    module = SimpleNamespace(
        set_default_logger_severity=lambda level: calls.update(level=level),
        set_default_logger_callback=lambda callback, level: calls.update(callback=callback, of=level),
    )
    with caplog.at_level(logging.DEBUG, logger="prune_export.onnxruntime"):
        runtime._redirect_log(module)
        for severity in range(5):
            calls["callback"](severity, "onnxruntime", "id", "graph.cc:1", "in two\n  lines")
    assert (calls["level"], calls["of"]) == (2, 2)
    assert [record.levelname for record in caplog.records] == ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    assert {record.getMessage() for record in caplog.records} == {"onnxruntime: in two lines"}
