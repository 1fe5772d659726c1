"""What is logged, and when it is shown: by default warnings alone, with --verbose everything, with --quiet nothing."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import prune_export
from exporters import runtime
from prune_export.cli import inspect as inspect_verb
from prune_export.cli.main import VERBS, main, parser_of
from tests.models import FAMILY_CASES, make_model, save

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) prune_export[.\w]*: \S.*")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and its export with a weight that no operation reads, of which ONNX Runtime warns."""
    root = tmp_path_factory.mktemp("logs")
    save(make_model(FAMILY_CASES[0], "question-answering"), root / "model")
    prune_export.export(root / "model", root / "onnx", target="cpu", verify=False)
    model = onnx.load(root / "onnx" / "model.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, dtype=np.float32), "nobody_reads_it"))
    onnx.save(model, root / "onnx" / "model.onnx")
    return root


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "prune_export", *words], capture_output=True, text=True, check=False)


def test_onnx_runtime_warns_in_the_log_only(folder: Path) -> None:
    words = ["verify", "--model", str(folder / "model"), "--onnx", str(folder / "onnx"), "--samples", "4"]
    usual, quiet, verbose = command(*words), command(*words, "--quiet"), command(*words, "--verbose", "--json")
    assert [found.returncode for found in (usual, quiet, verbose)] == [0, 0, 0]
    *lines, note, last = usual.stderr.splitlines()
    assert lines == ["Reading the checkpoint …", "Loading the Hugging Face model …"]
    assert note.startswith("  parity sees no real text: ")
    assert last == "Comparing with PyTorch …"
    assert (quiet.stderr, quiet.stdout) == ("", "")
    ours = [line for line in verbose.stderr.splitlines() if LINE.fullmatch(line)]
    theirs = [line for line in verbose.stderr.splitlines() if not LINE.fullmatch(line)]
    assert all("nobody_reads_it" in line for line in theirs), theirs  # of versions that cannot be redirected
    assert any(line.endswith("INFO prune_export: Comparing with PyTorch") for line in ours)
    assert any("model.onnx runs on CPUExecutionProvider, threads: ONNX Runtime's choice" in line for line in ours)
    assert "nobody_reads_it" in verbose.stderr
    assert json.loads(verbose.stdout)["passed"] is True
    if hasattr(runtime.onnxruntime(), "set_default_logger_callback"):
        assert any("WARNING prune_export.onnxruntime" in line and "nobody_reads_it" in line for line in ours)


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_can_be_verbose(verb: str) -> None:
    parser = parser_of(verb)
    assert {"--quiet", "--verbose"} <= set(parser._option_string_actions)


def test_a_program_that_uses_the_library_decides(folder: Path) -> None:
    """Nothing is printed unasked; with a handler of its own, stages arrive there."""
    code = (
        "import sys, logging, prune_export\n"
        f"if len(sys.argv) > 1: logging.basicConfig(level=sys.argv[1], format='%(name)s %(message)s')\n"
        f"prune_export.inspect({str(folder / 'model')!r})\n"
        f"prune_export.load_session({str(folder / 'onnx')!r})\n"
    )
    for words, lines in (([], 0), (["WARNING"], 0), (["INFO"], 3)):
        found = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        ours = [line for line in found.stderr.splitlines() if line.startswith("prune_export ")]
        assert len(found.stderr.splitlines()) == 0 if not lines else len(ours) >= 2, found.stderr
        assert ("nobody_reads_it" in found.stderr) is bool(lines)


def talkative(_given: Any, _command: Any) -> int:
    warnings.warn("of somebody's", UserWarning, stacklevel=1)
    logging.getLogger("somebody").warning("of another library")
    logging.getLogger("prune_export.part").info("a detail")
    logging.getLogger("prune_export.part").warning("of ours, with hf_%s", "abcdefghijklmnopqrstuvwxyzABCDEFGH")
    return 0


def test_what_is_shown(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(inspect_verb, "run", talkative)
    words = ["inspect", "--model", str(folder / "model")]
    before = logging.getLogger("prune_export").level
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main([*words, "--quiet"]) == 0
        assert capsys.readouterr().err == ""
        assert main([*words, "--verbose"]) == 0
        shown = capsys.readouterr().err
        assert "of somebody's" in shown
        assert "INFO prune_export.part: a detail" in shown
        assert "WARNING prune_export.part: of ours, with " in shown
        assert "hf_abc" not in shown
    main(words)
    shown = capsys.readouterr().err
    assert "prune-export: warning: of ours, with " in shown
    assert "a detail" not in shown
    assert "hf_abc" not in shown
    assert logging.getLogger("prune_export").level == before
    assert len(logging.getLogger("prune_export").handlers) == 1
