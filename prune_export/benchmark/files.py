"""A benchmark's files: bench.json, bench.md, and a picture."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

from prune_export.benchmark.markdown import markdown
from prune_export.benchmark.picture import draw, panels_of
from prune_export.benchmark.results import BenchReport
from prune_export.outputs.report import check_report, write_report

JSON, MARKDOWN, PICTURE = "bench.json", "bench.md", "bench.svg"


def check_files(folder: Path | None, picture: Path | None, *, overwrite: bool) -> None:
    """Finds out before the work whether the report in `folder` and the picture can be written.

    Raises:
        OutputError: a place cannot be written, or holds something else.
    """
    for path in [folder / JSON, folder / MARKDOWN] if folder is not None else []:
        check_report(path, overwrite=overwrite)
    if picture is not None:
        check_report(picture, overwrite=overwrite)


def write_files(report: BenchReport, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Writes the report as JSON and Markdown into `folder`; returns the paths.

    Raises:
        OutputError: a file cannot be written.
    """
    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n"
    texts = ((JSON, text), (MARKDOWN, markdown(report)))
    return [write_report(folder / name, text.encode(), overwrite=overwrite) for name, text in texts]


def write_picture(report: BenchReport, path: Path, *, overwrite: bool = False) -> Path:
    """Draws the report as an .svg or .png file.

    Raises:
        OutputError: it cannot be written.
    """
    drawn = BytesIO()
    draw(panels_of(report), drawn, path.suffix.removeprefix("."), baseline=report.rows[0].name)
    return write_report(path, drawn.getvalue(), overwrite=overwrite)
