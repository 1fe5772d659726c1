"""A parity report as JUnit XML, which CI systems show."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from prune_export.outputs.report import write_report
from prune_export.parity.verdict import ParityReport


def write_junit(report: ParityReport, path: Path, *, overwrite: bool = False) -> None:
    """Writes one test case per case and comparison; failures carry their measurements.

    Raises:
        OutputError: the file cannot be written, or is there and no earlier report.
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
    content = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    write_report(path, content, overwrite=overwrite)
