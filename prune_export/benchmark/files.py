"""A benchmark's files: bench.json, bench.md, and a picture."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

from prune_export.benchmark.markdown import markdown
from prune_export.benchmark.picture import MARK as PICTURE_MARK
from prune_export.benchmark.picture import draw, panels_of
from prune_export.benchmark.results import FORMAT, BenchReport
from prune_export.outputs.report import check_report, write_report

JSON, MARKDOWN, PICTURE = "bench.json", "bench.md", "bench.svg"

_MARK = FORMAT.encode()


def check_files(folder: Path | None, picture: Path | None) -> None:
    """Finds out before the work whether the report in `folder` and the picture can be written.

    Raises:
        OutputError: a place cannot be written, or holds something else.
    """
    for path in [folder / JSON, folder / MARKDOWN] if folder is not None else []:
        check_report(path, mark=_MARK)
    if picture is not None:
        check_report(picture, mark=PICTURE_MARK)


def write_files(report: BenchReport, folder: Path) -> list[Path]:
    """Writes the report as JSON and Markdown into `folder`; returns the paths.

    Raises:
        OutputError: a file cannot be written.
    """
    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n"
    texts = ((JSON, text), (MARKDOWN, f"{markdown(report)}\n<!-- {FORMAT} -->\n"))
    return [write_report(folder / name, text.encode(), mark=_MARK) for name, text in texts]


def write_picture(report: BenchReport, path: Path) -> Path:
    """Draws the report as an .svg or .png file.

    Raises:
        OutputError: it cannot be written.
    """
    drawn = BytesIO()
    draw(panels_of(report), drawn, path.suffix.removeprefix("."), baseline=report.rows[0].name)
    return write_report(path, drawn.getvalue(), mark=PICTURE_MARK)
