"""Another distribution with a package called exporters is named; the version is said in one place."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import prune_export
from prune_export.distributions import others_with_exporters, shared_exporters
from prune_export.facts.record import versions


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


@pytest.mark.parametrize("code", ["import prune_export.cli.main", "import prune_export; prune_export.PruneExportError"])
def test_another_package_in_our_place_is_an_error(code: str, tmp_path: Path) -> None:
    installed(tmp_path, "scraping-exporters", {"exporters/__init__.py": ""})
    root = Path(prune_export.__file__).parents[1]
    words = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]; {code}"
    # Without site-packages, where an editable installation would find our own package after all.
    done = subprocess.run([sys.executable, "-S", "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"found {tmp_path / 'exporters'}, which scraping-exporters claims" in done.stderr
    if "cli" in code:
        assert done.stderr.startswith("prune-export: error: prune-export needs its own package 'exporters'; ")
        assert "Traceback" not in done.stderr


def test_no_package_at_all() -> None:
    root = Path(prune_export.__file__).parents[1]
    words = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import prune_export.distributions as it; "
        "sys.path.clear(); sys.path_importer_cache.clear(); print(it.foreign_exporters())"
    )
    done = subprocess.run([sys.executable, "-S", "-c", words], capture_output=True, text=True, check=True)
    assert "found nowhere, which no other installed distribution claims" in done.stdout
