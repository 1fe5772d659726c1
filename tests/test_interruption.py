"""A real process, stopped at some moment: the destination is as it was, and there is one line to say so."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiny_checkpoints import make_checkpoint

pytestmark = pytest.mark.slow

# A process may also end by SIGINT itself after its line is printed, which a shell shows as 130 too: CPython does that
# where the KeyboardInterrupt passed through code that was compiled from a string (pythonrun.c, run_eval_code_obj).
CODES = {signal.SIGINT: (130, -signal.SIGINT), signal.SIGTERM: (143,)}
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
PROGRAM = [sys.executable, "-m", "prune_export.cli.main"]

Files = dict[str, bytes]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads than cores only wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that an export takes a few seconds."""
    folder = tmp_path_factory.mktemp("interruption") / "checkpoint"
    return make_checkpoint(folder, hidden=256, layers=6, intermediate=1024, vocabulary=2000)


@pytest.fixture(scope="module")
def earlier(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the same checkpoint, of another dtype."""
    folder = tmp_path_factory.mktemp("interruption") / "earlier"
    words = ["--model", str(checkpoint), "--output", str(folder), "--quiet", "--dtype", "fp16", "--samples", "4"]
    subprocess.run([*PROGRAM, *words], check=True)
    return folder


@dataclass
class Situation:
    """`output` is given; `root` holds it, and nothing else."""

    root: Path
    output: Path

    def files(self) -> Files:
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
            and not any(part.startswith(".prune-export-") for part in path.relative_to(self.root).parts)
        }

    def hidden(self) -> list[Path]:
        return list(self.root.rglob(".prune-export-*"))


@pytest.fixture(params=["nothing", "an earlier export", "other files"])
def situation(request: pytest.FixtureRequest, earlier: Path, tmp_path: Path) -> Situation:
    if request.param == "an earlier export":
        shutil.copytree(earlier, tmp_path / "out")
    elif request.param == "other files":
        (tmp_path / "out").mkdir()
        for name in ("model.onnx", "config.json", "notes.txt"):
            (tmp_path / "out" / name).write_bytes(f"my {name}".encode())
        return Situation(tmp_path, tmp_path / "out" / "model.onnx")
    return Situation(tmp_path, tmp_path / "out")


def command(checkpoint: Path, output: Path) -> list[str]:
    words = ["--model", checkpoint, "--output", output, "--overwrite", "--target", "portable", "--samples", "16"]
    return [*PROGRAM, *map(str, words)]


@contextmanager
def started(checkpoint: Path, situation: Situation) -> Iterator[subprocess.Popen[str]]:
    """An export that has begun to write."""
    process = subprocess.Popen(
        command(checkpoint, situation.output), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not situation.hidden() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert situation.hidden(), process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def is_too_late(code: int, errors: str) -> bool:
    """Whether the signal came when the export was complete; at the very end it ends the process without a line."""
    return code == 0 or "was complete before that" in errors or (code < 0 and "error" not in errors)


def changed(found: Files, before: Files) -> set[str]:
    """The names of files that are not as they were: pytest would compare megabytes sign by sign."""
    return {name for name in found.keys() | before.keys() if found.get(name) != before.get(name)}


def is_complete(found: Files, before: Files) -> bool:
    """The new export, with whatever else was there."""
    return (
        found != before
        and found.get("out/model.onnx", b"") != before.get("out/model.onnx")
        and (found.keys() >= {"out/model.onnx", "out/config.json", "out/prune_export.json"})
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", [0.0, 0.5])
def test_a_signal_leaves_what_was_there(
    number: signal.Signals, moment: float, checkpoint: Path, situation: Situation
) -> None:
    before = situation.files()
    # The moment is spread, differently for each test but the same each time.
    moment += random.Random(f"{number} {moment} {situation.output.name} {len(before)}").uniform(0, 0.5)
    with started(checkpoint, situation) as process:
        time.sleep(moment)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert not situation.hidden()
    found = situation.files()
    if is_too_late(process.returncode, errors):
        assert is_complete(found, before)
        return
    assert process.returncode in CODES[number]
    assert changed(found, before) == set()
    *progress, error = errors.splitlines()
    assert error == f"prune-export: error: {WORDS[number]}; nothing was changed"
    assert all(line.endswith("…") for line in progress)


def test_after_a_kill_the_next_run_clears_up(checkpoint: Path, situation: Situation) -> None:
    before = situation.files()
    with started(checkpoint, situation) as process:
        time.sleep(random.Random(len(before)).uniform(0, 0.5))
        process.kill()
        process.communicate(timeout=60)
    left = situation.files()
    if left == before:
        assert situation.hidden()
    else:
        assert is_complete(left, before)  # all was in place before the kill; the process only had to end
    done = subprocess.run(command(checkpoint, situation.output), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not situation.hidden()
    found = situation.files()
    assert is_complete(found, before)
    assert found.get("out/notes.txt") == before.get("out/notes.txt")


HOOK = """\
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPTED_IMPORT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(os.environ["INTERRUPTING_SIGNAL"]))

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("rich.console", signal.SIGINT),
        ("msgspec", signal.SIGINT),
        ("torch", signal.SIGINT),
        ("numpy", signal.SIGINT),
        ("numpy.linalg", signal.SIGINT),
        ("numpy.linalg", signal.SIGTERM),
        ("datetime", signal.SIGINT),
        ("torch.nn", signal.SIGTERM),
        ("onnx_ir", signal.SIGINT),
        ("transformers", signal.SIGINT),
        ("onnxruntime", signal.SIGTERM),
    ],
)
def test_a_signal_during_an_import_is_one_line(
    module: str, number: signal.Signals, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "hook"),
        "INTERRUPTED_IMPORT": module,
        "INTERRUPTING_SIGNAL": str(int(number)),
    }
    done = subprocess.run(
        [*command(checkpoint, tmp_path / "out"), "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode in CODES[number]
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"prune-export: error: {WORDS[number]}")
    assert [path.name for path in tmp_path.iterdir()] == ["hook"]


SWALLOWED = """
import os, signal, sys, time
from prune_export.cli import main as command

class Dying:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(0.5)

def main():
    signal.signal(signal.SIGTERM, command._terminate)
    dying = Dying()
    del dying
    time.sleep(20)
    return 0

command.main = main
command.entry()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_destructor_is_not_lost(number: signal.Signals, code: int) -> None:
    """Python prints an exception that a destructor raises, and goes on."""
    script = SWALLOWED.format(number=int(number))
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stdout, found.stderr) == (code, "", "")
