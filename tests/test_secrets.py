"""No token is printed or written, wherever it was given."""

from __future__ import annotations

import json
import traceback
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import tomli_w
from transformers import TrainingArguments

import prune_export
from exporters import secrets
from exporters.errors import CheckpointError, PruneExportError, UsageError
from prune_export.checkpoint.source import resolve
from prune_export.cli.main import main
from prune_export.hub_token import checked_token
from prune_export.options.checkpoint import HubAccess
from prune_export.training.arguments import _REFUSED, check_trainer_section
from prune_export.training.recipe_file import read_recipe
from tests.tiny_training import checkpoint_folder, questions_file, recipe_data, tiny_recipe

REAL = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"  # the form of the hub's
OTHER = "another-kind-of-token-99"  # has no form that could be recognised


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with no secret known, and none in the environment."""
    monkeypatch.setattr(secrets, "_known", set())
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def printed(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int) -> str:
    """All that the command prints."""
    capsys.readouterr()
    try:
        found = main(list(map(str, words)))
    except SystemExit as stop:
        found = int(str(stop.code))
    output = capsys.readouterr()
    assert found == code, output.err
    return output.out + output.err


def files_with(folder: Path, secret: str) -> list[str]:
    """The files below `folder` whose names or bytes hold `secret`."""
    return [
        str(path)
        for path in folder.rglob("*")
        if secret in str(path) or (path.is_file() and secret.encode() in path.read_bytes())
    ]


def test_of_two_secrets_the_longer_one_is_hidden_whole() -> None:
    for secret in ("first-half", "first-half-and-second-half", "first-half-and", "second-half"):
        secrets.register(secret)
    assert secrets.redacted("a first-half-and-second-half, a first-half") == "a [hidden], a [hidden]"


# --- the option --------------------------------------------------------------------------------------------------------


def test_blanks_around_a_token_are_taken_off() -> None:
    assert checked_token(f" {OTHER}\n") == OTHER
    assert checked_token("\n") is None
    assert checked_token(None) is None


@pytest.mark.parametrize(
    "inside", ["{0}\n{0}", "{0} x", "{0}\0", "{0}é", "{0}\t{0}", "{0}\r\nX-Header: y", "Bearer {0}"]
)
@pytest.mark.parametrize("secret", [REAL, OTHER])
@pytest.mark.parametrize("json_output", [True, False])
def test_a_token_that_is_none_is_not_shown(
    secret: str, inside: str, json_output: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    token = inside.format(secret)
    for words in (("--token", token), (f"--token={token}",)):
        text = printed(
            capsys, "--model", "o/n", "--output", "out", *words, *(["--json"] if json_output else []), code=2
        )
        assert "printable ASCII without blanks" in text
        assert secret not in text
    with pytest.raises(UsageError) as caught:
        resolve("owner/name", HubAccess(token=token))
    assert secret not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("secret", [REAL, OTHER])
def test_a_wrong_command_line_does_not_show_it(secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--model", "m", "--token", secret, "--nonsense", secret, code=2)
    assert "--nonsense" in text
    assert secret not in text


@pytest.mark.parametrize(
    "words",
    [
        "--tokens {}",
        "-token {}",
        "--hub-token {}",
        "--hf_token {}",
        "--Token {}",
        "–token {}",
        "--tokne {}",
        "--tkn {}",
        "--toekn={}",
        "--tokens={}",
        "-token={}",
        "--token:{}",
        "--token{}",
        "--api-key {}",
        "--password={}",
    ],
)
@pytest.mark.parametrize("verb", [[], ["verify"], ["train"], ["evaluate"]])
def test_an_option_that_is_mistyped_does_not_show_it(
    words: str, verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, *verb, *words.format(OTHER).split(" "), "--model", "m", code=2)
    assert OTHER not in text
    assert "error: " in text


def test_other_options_hide_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "evaluate", "--batch-tokens", "1000000", "--data", "d", "--what", "1000000", code=2)
    assert "1000000" in printed(capsys, "evaluate", "--batch-tokens", "1000000x", "--data", "d", "--model", "m", code=2)
    assert "[hidden]" not in text


@pytest.mark.parametrize("secret", [REAL, OTHER])
@pytest.mark.parametrize("given", ["option", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "stored"])
def test_what_a_library_says_is_redacted(
    secret: str, given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the message, and in the chain of errors that a traceback shows."""

    def fail(*_: Any, **__: Any) -> None:
        try:
            raise ValueError(f"Illegal header value b'Bearer {secret}'")
        except ValueError as error:
            raise OSError(f"cannot send Authorization: {secret}") from error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    if given == "stored":
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: secret)
    elif given != "option":
        monkeypatch.setenv(given, secret)
    token = secret if given == "option" else None
    with pytest.raises(CheckpointError) as caught:
        resolve("owner/name", HubAccess(token=token))
    text = "".join(traceback.format_exception(caught.value))
    assert "Illegal header value b'Bearer [hidden]'" in text
    assert secret not in text
    words = ["--token", secret] if given == "option" else []
    for json_output in ([], ["--json"]):
        text = printed(capsys, "--model", "o/n", "--output", "out", *words, *json_output, code=1)
        assert "[hidden]" in text
        assert secret not in text


def test_user_and_password_of_an_address() -> None:
    for address in (
        "https://user:pass@host/x",
        "http://token@host",
        "see 'https://a:b@h'",
        "https://user:a:b@ss@h",
        "https://user:pass'@host/x",
        "https://@user@h",
    ):
        text = str(PruneExportError(f"cannot reach {address}"))
        assert "[hidden]@h" in text
        assert not {"user", "pass", "token@", "a:b"} & {
            part for part in ("user", "pass", "token@", "a:b") if part in text
        }
    assert str(PruneExportError("https://host/a@b and hf_transfer, hf_internal_testing")) == (
        "https://host/a@b and hf_transfer, hf_internal_testing"
    )


@pytest.mark.parametrize("name", [f"https://user:{OTHER}@host/owner/name", f"owner/{REAL}", f"./{REAL}"])
def test_a_model_s_name_with_a_secret(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint_folder(tmp_path / REAL)
    for verb in (["--output", "out"], ["--dry-run", "--json"]):
        text = printed(capsys, "--model", name, *verb, code=2)
        assert "looks like a token" in text
        assert OTHER not in text
        assert REAL not in text
    assert not (tmp_path / "out").exists()


# --- recipes -----------------------------------------------------------------------------------------------------------

SENT = {
    "hub_token": OTHER,
    "hub_model_id": "owner/name",
    "hub_strategy": "every_save",
    "push_to_hub": True,
    "push_to_hub_token": OTHER,
    "report_to": "wandb",
    "run_name": OTHER,
    "project": OTHER,
    "trackio_space_id": OTHER,
    "logging_dir": "/tmp/elsewhere",
    "torch_compile_backend": "x",
}


@pytest.mark.parametrize("key", SENT)
def test_a_training_sends_nothing(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tomli_w.dumps(recipe_data(tmp_path, trainer={key: SENT[key]})))
    text = printed(capsys, "train", recipe, "--quiet", code=2)
    assert f"trainer.{key}: " in text
    assert text.count("\n") == 1
    assert OTHER not in text
    recipe.write_text(tomli_w.dumps(recipe_data(tmp_path)))
    text = printed(capsys, "train", recipe, "--quiet", "--set", f"trainer.{key}={SENT[key]}", code=2)
    assert f"trainer.{key}: " in text
    assert OTHER not in text
    with pytest.raises(UsageError):
        prune_export.train(replace(tiny_recipe(tmp_path), trainer={key: SENT[key]}))
    assert not (tmp_path / "run").exists()


def test_every_field_that_sends_is_refused() -> None:
    """Fields of the installed transformers whose names say that they send something somewhere."""
    words = ("hub", "report", "token", "trackio", "project", "run_name", "logging_dir", "wandb", "mlflow", "comet")
    sending = [
        field.name
        for field in fields(TrainingArguments)
        if any(word in field.name for word in words) and "tokens" not in field.name  # those of texts
    ]
    assert {"hub_token", "report_to", "push_to_hub"} <= set(sending)
    for name in sending:
        with pytest.raises(UsageError, match="leave it out"):
            check_trainer_section({name: "x"})
    check_trainer_section({"adam_beta1": 0.8, "dataloader_num_workers": 0, "use_cpu": True})
    assert all(reason for reason in _REFUSED.values())


@pytest.mark.parametrize("monitor", ["wandb", "tensorboard", "csv_monitor", "comet"])
def test_deepspeed_s_monitors(monitor: str, tmp_path: Path) -> None:
    table = {"zero_optimization": {"stage": 1}}
    check_trainer_section({"deepspeed": table})
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(table | {monitor: {"enabled": True}}))
    for value in (table | {monitor: {"enabled": True}}, str(path)):
        with pytest.raises(UsageError, match=f"deepspeed: {monitor}"):
            check_trainer_section({"deepspeed": value})
    with pytest.raises(UsageError, match="cannot be read"):
        check_trainer_section({"deepspeed": str(tmp_path / "none.json")})


@pytest.mark.parametrize(
    "change",
    [
        {"model": f"https://x:{OTHER}@host/m"},
        {"teacher": REAL},
        {"data": {"labels": ["a", REAL]}},
        {"trainer": {"optim_args": f"a={REAL}"}},
        {"trainer": {"accelerator_config": {"x": {"y": [REAL]}}}},
        {"trainer": {"accelerator_config": {REAL: 1}}},
        {REAL: 1},
    ],
)
def test_a_token_anywhere_in_a_recipe(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(recipe_data(tmp_path, **change)))
    text = printed(capsys, "train", path, "--quiet", code=2)
    assert "looks like an access token" in text
    assert REAL not in text
    assert OTHER not in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change", [f"teacher={REAL}", f"trainer.{REAL}=1", f"{REAL}", f"model.{REAL}=1", f"seed={REAL}"]
)
def test_a_token_by_set(change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(recipe_data(tmp_path)))
    assert REAL not in printed(capsys, "train", path, "--quiet", "--set", change, code=2)
    assert not (tmp_path / "run").exists()


def test_a_known_token_of_any_form_is_refused_in_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(recipe_data(tmp_path, teacher=OTHER)))
    read_recipe(path)  # nothing says that it is one
    monkeypatch.setenv("HF_TOKEN", OTHER)
    with pytest.raises(UsageError, match="teacher: holds what looks like"):
        read_recipe(path)
    with pytest.raises(UsageError, match="teacher: holds what looks like"):
        prune_export.train(replace(tiny_recipe(tmp_path), teacher=OTHER))


@pytest.mark.parametrize("change", [{"teacher": OTHER}, {"trainer": {"optim_args": f"x={OTHER}"}}])
def test_the_stored_token_is_refused_in_recipes(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(f"{OTHER}\n")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(recipe_data(tmp_path, **change)))
    text = printed(capsys, "train", path, "--quiet", code=2)
    assert "looks like an access token" in text
    assert OTHER not in text
    assert not (tmp_path / "run").exists()


# --- all that is written -----------------------------------------------------------------------------------------------


def test_the_search_finds_what_it_should(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\0" + OTHER.encode() + b"\0")
    assert files_with(tmp_path, OTHER) == [str(tmp_path / "x.bin")]
    assert files_with(tmp_path, REAL) == []


@pytest.mark.parametrize("given", ["option", "environment"])
def test_nothing_that_is_written_or_printed_holds_a_token(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = checkpoint_folder(tmp_path / "model")
    questions = questions_file(tmp_path / "questions.json")
    option: list[str] = []
    if given == "option":
        option = ["--token", OTHER]
    else:
        monkeypatch.setenv("HF_TOKEN", REAL)
        monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", OTHER)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tomli_w.dumps(recipe_data(tmp_path, data={"eval": str(questions)})))
    budget = ["--calibration", questions, "--samples", "8", "--flops", "0.5", "--max-seq-length", "24"]
    texts = [
        printed(capsys, "--model", model, "--output", tmp_path / "out", "--samples", "4", "--json", *option, code=0),
        printed(capsys, "verify", "--model", model, "--onnx", tmp_path / "out", "--samples", "4", *option, code=0),
        printed(capsys, "inspect", "--model", model, "--json", *option, code=0),
        printed(capsys, "prune", "--model", model, "--output", tmp_path / "pruned", *budget, *option, code=0),
        printed(capsys, "train", recipe, "--keep-checkpoints", code=0),
    ]
    for secret in (REAL, OTHER):
        assert not any(secret in text for text in texts)
        assert files_with(tmp_path, secret) == []
    assert (tmp_path / "run/final/pruning.json").is_file()
    assert list((tmp_path / "run/tensorboard").rglob("events*"))
    assert list((tmp_path / "run/checkpoints").rglob("optimizer.pt"))
