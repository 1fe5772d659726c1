"""A benchmark's files: bench.json, bench.md, and a picture."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from exporters.errors import OutputError
from prune_export.benchmark.markdown import markdown
from prune_export.benchmark.picture import draw, panels_of
from prune_export.benchmark.results import BenchReport

JSON, MARKDOWN, PICTURE = "bench.json", "bench.md", "bench.svg"


def write_report(report: BenchReport, folder: Path) -> list[Path]:
    """Writes the report as JSON and Markdown into `folder`; returns the paths.

    Raises:
        OutputError: a file cannot be written.
    """
    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n"
    paths = [folder / JSON, folder / MARKDOWN]
    for path, content in zip(paths, (text, markdown(report)), strict=True):
        write_text(path, content)
    return paths


def write_picture(report: BenchReport, path: Path) -> None:
    """Draws the report as an .svg or .png file.

    Raises:
        OutputError: it cannot be written.
    """
    replace_file(path, lambda aside: draw(panels_of(report), aside, baseline=report.rows[0].name))


def write_text(path: Path, content: str) -> None:
    """Writes a text file in one step.

    Raises:
        OutputError: it cannot be written.
    """
    replace_file(path, lambda aside: aside.write_text(content, encoding="utf-8"))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """`write` gets the name of a file aside, which then takes the place of `path`: nobody sees half a file."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
        aside = Path(name)
        try:
            write(aside)
            aside.chmod(0o644)  # mkstemp's files are the owner's alone
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
