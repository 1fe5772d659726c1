"""A parity report as JUnit XML, which CI systems show."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

from exporters.errors import OutputError
from prune_export.parity.verdict import ParityReport


def write_junit(report: ParityReport, path: Path) -> None:
    """One test case a case, named after its comparison; failures carry their figures.

    Raises:
        OutputError: the file cannot be written.
    """
    suite = ElementTree.Element(
        "testsuite",
        name="prune-export parity",
        tests=str(len(report.results)),
        failures=str(len(report.failures)),
    )
    for result in report.results:
        case = ElementTree.SubElement(suite, "testcase", classname=result.comparison, name=result.case)
        if not result.passed:
            failure = ElementTree.SubElement(case, "failure", message=result.failure)
            limit = f"{report.tolerance.limit:g} * max(1, max|reference|)"
            failure.text = f"The tolerance, {limit}, allows for: {report.tolerance.reason}."
        else:
            output = ElementTree.SubElement(case, "system-out")
            output.text = ", ".join(f"{part.name} {part.max_absolute:.3g}" for part in result.outputs)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    try:
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def check_writable(path: Path) -> None:
    """Finds out before the work whether `path` can be written; makes the folder that it goes into.

    Raises:
        OutputError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {path.parent}: {error.strerror}") from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OutputError(f"cannot write {path}: expected a file name in a folder that can be written")
