"""Another distribution with a package called exporters is named; the version is said in one place."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import prune_export
from prune_export.distributions import foreign_exporters, others_with_exporters, shared_exporters
from prune_export.record import versions


def installed(folder: Path, name: str, files: dict[str, str]) -> None:
    """Writes a distribution as pip would unpack it."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    information = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "RECORD").write_text("".join(f"{path},,\n" for path in files))


def test_the_version() -> None:
    assert prune_export.__version__ == version("prune-export") == versions()["prune-export"]


def test_another_distribution_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert others_with_exporters() == ()
    assert shared_exporters() is None
    installed(tmp_path, "scraping-exporters", {"exporters/__init__.py": "", "exporters/readers.py": ""})
    installed(tmp_path, "data-exporters", {"data_exporters/exporters/__init__.py": ""})
    monkeypatch.syspath_prepend(tmp_path)
    assert others_with_exporters() == ("scraping-exporters",)
    assert "scraping-exporters installs a top-level package 'exporters'" in (shared_exporters() or "")


@pytest.mark.parametrize("words", [["-m", "prune_export.cli.main", "--version"], ["-c", "import prune_export.exporting"]])
def test_another_package_in_our_place_is_an_error(words: list[str], tmp_path: Path) -> None:
    installed(tmp_path, "scraping-exporters", {"exporters/__init__.py": ""})
    root = Path(prune_export.__file__).parents[1]
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]; "
    if words[0] == "-m":
        code += "import prune_export.cli.main as main; sys.argv[1:] = ['--version']; main.entry()"
    else:
        code += words[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert f"found {tmp_path / 'exporters'}, which scraping-exporters claims" in done.stderr
    if words[0] == "-m":
        assert done.stderr.startswith("prune-export: error: prune-export needs its own package 'exporters'; ")
        assert "Traceback" not in done.stderr


def test_the_error_without_any_exporters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "exporters", raising=False)
    assert "found nowhere" in foreign_exporters()
