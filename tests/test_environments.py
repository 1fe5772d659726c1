"""Real processes where something of the usual environment is missing: a home, caches, stdout, stderr, an encoding."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from prune_export.cli.console import _Console
from prune_export.cli.main import main
from tests.conftest import ROOT
from tests.tiny_training import checkpoint_folder, questions_file

PROGRAM = [sys.executable, "-m", "prune_export.cli"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, questions, a recipe, and an export."""
    folder = tmp_path_factory.mktemp("environments")
    checkpoint_folder(folder / "model")
    questions_file(folder / "questions.json")
    assert main(["--model", str(folder / "model"), "--output", str(folder / "onnx"), "--samples", "4", "--quiet"]) == 0
    return folder


def shell(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell's line in which $P stands for the program."""
    kept = os.environ | {"PYTHONPATH": str(ROOT), "P": " ".join(PROGRAM)} | environment
    return subprocess.run(
        command,
        shell=True,
        cwd=cwd,
        env=kept,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=200,
        check=False,
    )


# --- stdout and stderr -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
def test_an_export_that_cannot_be_told_is_done(where: str, made: Path, tmp_path: Path) -> None:
    ended = shell(f"$P --model {made}/model --output out --samples 4 {where}", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out/model.onnx").is_file()
    lines = [line for line in ended.stderr.splitlines() if line.startswith("prune-export:")]
    assert len(lines) == 1
    assert "warning: the report could not be printed: " in lines[0]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
def test_what_is_only_printed_fails(where: str, made: Path, tmp_path: Path) -> None:
    for words in ("", "--json"):
        ended = shell(f"$P inspect --model {made}/model {words} {where}", tmp_path)
        assert ended.returncode == 1
        assert "prune-export: error: the report could not be printed: " in ended.stderr
        assert "Traceback" not in ended.stderr
    ended = shell(f"$P inspect --model {made}/model --quiet {where}", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")  # nothing was to be printed


@pytest.mark.parametrize(
    "where",
    [
        ">&-",
        ">&- 2>&-",
        "2>&-",
        pytest.param(">/dev/full", marks=pytest.mark.matrix),
        pytest.param(">/dev/full 2>/dev/full", marks=pytest.mark.matrix),
    ],
)
def test_a_verdict_keeps_its_code(where: str, made: Path, tmp_path: Path) -> None:
    words = f"$P verify --model {made}/model --onnx {made}/onnx --samples 4"
    assert shell(f"{words} {where}", tmp_path).returncode == 0
    ended = shell(f"{words} --atol 1e-12 {where}", tmp_path)
    assert ended.returncode == 3
    assert "Traceback" not in ended.stderr
    if where == "2>&-":
        assert "prune-export: error" not in ended.stdout  # what is for stderr gets nowhere else


def test_files_are_not_taken_for_closed_outputs(made: Path, tmp_path: Path) -> None:
    """With stdout and stderr closed, files that are opened would get their numbers, and what is printed."""
    ended = shell(f"$P --model {made}/model --output out --samples 4 >&- 2>&- <&-", tmp_path)
    assert ended.returncode == 0
    verified = shell(f"$P verify --model {made}/model --onnx out --samples 4 --quiet", tmp_path)
    assert verified.returncode == 0, verified.stderr


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=pytest.mark.matrix), "ascii:strict"])
def test_an_encoding_without_our_signs(encoding: str, made: Path, tmp_path: Path) -> None:
    for words in ("--model {0}/model --output out --samples 4 --overwrite", "inspect --model {0}/model"):
        ended = shell(f"$P {words.format(made)}", tmp_path, PYTHONIOENCODING=encoding)
        assert ended.returncode == 0, ended.stderr
        assert "Traceback" not in ended.stderr
        assert "FLOPs" in ended.stdout
    ended = shell(f"$P inspect --model {made}/model --json", tmp_path, PYTHONIOENCODING=encoding)
    assert json.loads(ended.stdout)["task"] == "question-answering"


@pytest.mark.parametrize("name", ["o[/b]", "o[bold]x", "[red]", ":smile:"])
def test_names_are_no_markup(name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """rich takes brackets for styles, and raises an error where those are none; ":smile:" for a picture."""
    model, questions, out = tmp_path / f"model{name}", tmp_path / f"{name}.json", tmp_path / name
    shutil.copytree(made / "model", model)
    questions.parent.mkdir(exist_ok=True)
    shutil.copyfile(made / "questions.json", questions)
    data = ["--data", questions, "--limit", "4", "--max-seq-length", "24", "--doc-stride", "4"]
    budget = ["--calibration", questions, "--samples", "8", "--flops", "0.5", "--max-seq-length", "24"]
    for words in (
        ["--model", model, "--output", out / "onnx", "--samples", "4"],
        ["verify", "--model", model, "--onnx", out / "onnx", "--samples", "4"],
        ["inspect", "--model", model],
        ["evaluate", "--model", model, "--model", out / "onnx", *data, "--predictions", out / "answers.json"],
        ["prune", "--model", model, "--output", out / "masked", *budget],
    ):
        assert main(list(map(str, words))) == 0
        printed = "".join(capsys.readouterr().out.split())
        assert name in printed or words[0] == "verify", printed


def test_nothing_that_is_printed_is_markup() -> None:
    console = _Console()
    with console.capture() as capture:
        table = Table("o[/b]", title="[bold]x")
        table.add_row("[green]y")
        for part in ("Written to o[/b]", table):
            console.print(part, highlight=False, soft_wrap=True)
    text = capture.get()
    assert all(part in text for part in ("Written to o[/b]", "[bold]x", "[green]y"))


def test_a_reader_that_is_gone(made: Path, tmp_path: Path) -> None:
    words = f"$P inspect --model {made}/model --json 2>err"
    ended = shell(f"{words} | true; cat err", tmp_path)
    assert "prune-export:" not in ended.stdout
    assert "Traceback" not in ended.stdout
    ended = shell(f"$P --model {made}/model --output out --samples 4 2>err | true; cat err", tmp_path)
    assert "prune-export:" not in ended.stdout
    assert "Traceback" not in ended.stdout
    assert (tmp_path / "out/model.onnx").is_file()
    ended = shell(f"$P --model {made}/model --output two --samples 4 2>&1 | true", tmp_path)  # nor to progress
    assert (tmp_path / "two/model.onnx").is_file()


def test_help_that_cannot_be_printed(tmp_path: Path) -> None:
    for words in ("--help", "--version"):
        assert "Traceback" not in shell(f"$P {words} >/dev/full", tmp_path).stderr
        assert shell(f"$P {words} >&-", tmp_path).returncode == 0


_SIGNALS = """
import os, signal, sys, time
import prune_export.cli.main as module
def work():
    signal.signal(signal.SIGTERM, module._terminate)
    {work}
    return 0
class Slow:
    def flush(self):
        os.kill(os.getpid(), {number})
        time.sleep(5)
    def write(self, text): pass
{stream}
module.main = work
module.entry()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["the last flush", "after the work"])
def test_a_signal_at_the_end(moment: str, number: signal.Signals) -> None:
    last = moment == "the last flush"
    script = _SIGNALS.format(
        work="pass" if last else f"os.kill(os.getpid(), {int(number)}); time.sleep(5)",
        stream="sys.stdout = Slow()" if last else "",
        number=int(number),
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode in (-number, 128 + number)
    assert ended.stderr == ""


# --- no home, no caches ------------------------------------------------------------------------------------------------

_NOBODY = """
import pwd, sys
def nobody(*_): raise KeyError("no such user")
pwd.getpwuid = pwd.getpwnam = nobody
import os, json
from prune_export.cli.main import main
print(os.path.expanduser("~"), flush=True)
for words in json.loads(sys.argv[1]):
    print("code", main(words), flush=True)
"""


def test_a_user_without_a_home(made: Path, tmp_path: Path) -> None:
    """As in a container that runs under a number of its own."""
    model, questions = str(made / "model"), str(made / "questions.json")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'model = "{model}"\noutput = "{tmp_path}/run"\n[data]\ntrain = "{questions}"\nmax_seq_length = 24\n'
        "[schedule]\nsteps = 1\n[optimiser]\nbatch_size = 2\n"
    )
    commands = [
        ["--model", model, "--output", str(tmp_path / "out"), "--samples", "4", "--quiet"],
        ["train", str(recipe), "--quiet"],
        ["--model", "owner/name", "--output", str(tmp_path / "no"), "--quiet"],
        ["evaluate", "--model", model, "--data", "owner/name", "--quiet"],
        ["inspect", "--model", "~/model", "--quiet"],
        ["verify", "--model", model, "--onnx", "~/onnx", "--quiet"],
    ]
    (tmp_path / "here").mkdir()
    dropped = (
        "HOME",
        "XDG_CACHE_HOME",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "HF_DATASETS_CACHE",
        "USER",
        "LOGNAME",
    )
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    ended = subprocess.run(
        [sys.executable, "-c", _NOBODY, json.dumps(commands)],
        env=environment | {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9"},
        cwd=tmp_path / "here",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.stdout.split("\n")[0] == "~"
    assert ended.stdout.split("\n")[1:-1] == ["code 0", "code 0", "code 1", "code 1", "code 1", "code 2"], ended.stderr
    assert ended.stderr.count("there is no home to keep downloads in") == 2
    assert "Traceback" not in ended.stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_onnxruntime_keeps_and_sends_nothing(made: Path, tmp_path: Path) -> None:
    script = "import onnxruntime as module; module.get_available_providers()"
    telling = {
        name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    control = subprocess.run(
        [sys.executable, "-c", script], env=telling | {"HOME": str(tmp_path / "control")}, check=True
    )
    assert control.returncode == 0
    if not list(tmp_path.glob("control/.cache/Microsoft")):
        pytest.skip("this version of ONNX Runtime keeps nothing in the home")
    ended = shell(
        f"$P verify --model {made}/model --onnx {made}/onnx --samples 4 --quiet", tmp_path, HOME=str(tmp_path / "home")
    )
    assert ended.returncode == 0, ended.stderr
    assert not list(tmp_path.glob("home/.cache/Microsoft"))


# --- paths as users write them -----------------------------------------------------------------------------------------

NOWHERE = "~no-such-user-here/x"


@pytest.mark.parametrize(
    "words",
    [
        ["--model", NOWHERE, "--output", "out"],
        ["--model", "{0}/model", "--output", NOWHERE],
        ["--model", "{0}/model", "--output", f"{NOWHERE}/model.onnx"],
        ["--model", "{0}/model", "--output", "out", "--plan", NOWHERE],
        ["--model", "owner/name", "--output", "out", "--cache-dir", NOWHERE],
        ["--model", "{0}/model", "--output", "out", "--data", NOWHERE],
        ["--model", "{0}/model", "--output", "out", "--calibration", NOWHERE, "--dtype", "int8"],
        ["verify", "--model", "{0}/model", "--onnx", NOWHERE],
        ["verify", "--model", "{0}/model", "--onnx", "{0}/onnx", "--junit", f"{NOWHERE}/j.xml"],
        ["evaluate", "--model", NOWHERE, "--data", "{0}/questions.json"],
        ["evaluate", "--model", "{0}/model", "--data", NOWHERE],
        ["evaluate", "--model", "{0}/model", "--data", "{0}/questions.json", "--predictions", f"{NOWHERE}/p.json"],
        ["bench", "--onnx", NOWHERE],
        ["bench", "--onnx", "{0}/onnx", "--output", NOWHERE],
        ["bench", "--onnx", "{0}/onnx", "--picture", f"{NOWHERE}/p.svg"],
        ["prune", "--model", "{0}/model", "--calibration", NOWHERE, "--output", "out", "--flops", "0.5"],
        ["prune", "--model", "{0}/model", "--calibration", "{0}/questions.json", "--output", NOWHERE, "--flops", "0.5"],
        ["train", NOWHERE],
        ["train", "recipe.toml", "--output", NOWHERE],
        ["train", "recipe.toml", "--model", NOWHERE],
        ["train", "recipe.toml", "--set", f"data.train={NOWHERE}"],
        ["train", "recipe.toml", "--set", f"output={NOWHERE}"],
    ],
    ids=lambda words: " ".join(words),
)
def test_the_home_of_nobody(
    words: list[str], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(
        f'model = "{made}/model"\noutput = "run"\n[data]\ntrain = "{made}/questions.json"\n[schedule]\nsteps = 1\n'
    )
    capsys.readouterr()
    assert main([*(word.format(made) for word in words), "--quiet"]) in (1, 2)
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1, printed.err
    assert NOWHERE.split("/")[0] in printed.err
    assert not list(tmp_path.rglob("~*"))
    assert not (tmp_path / "out").exists()


# --- windows that share nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", ["0", "12", "1000"])
def test_doc_strides(stride: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stride of 0 shares nothing; one that is wider than the window shrinks to what there is room for."""
    words: list[Any] = [
        "--data",
        made / "questions.json",
        "--max-seq-length",
        "12",
        "--limit",
        "3",
        "--json",
        "--quiet",
    ]
    assert main(list(map(str, ["evaluate", "--model", made / "model", *words, "--doc-stride", stride]))) == 0
    assert "exact" in capsys.readouterr().out


def test_doc_strides_below_0(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "evaluate",
        "--model",
        f"{made}/model",
        "--data",
        f"{made}/questions.json",
        "--doc-stride",
        "-1",
        "--quiet",
    ]
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    path = tmp_path / "recipe.toml"
    path.write_text(f'model = "m"\noutput = "{tmp_path}/run"\n[data]\ntrain = "x"\n[schedule]\nsteps = 1\n')
    assert main(["train", str(path), "--set", "data.doc_stride=-1", "--quiet"]) == 2
    assert "data.doc_stride: expected a whole number of 0 or more" in capsys.readouterr().err
