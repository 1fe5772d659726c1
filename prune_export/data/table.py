"""CSV, and TSV with or without quotes, as rows by their headings."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Sequence

from exporters.errors import DataError
from prune_export.data.columns import is_heading
from prune_export.data.labels import is_number
from prune_export.files.reading import clipped

_DELIMITERS = (",", "\t", ";")
_QUOTED = re.compile(r'(?<![^\t\r\n])"[^"]*(?:""[^"]*)*"(?![^\t\r\n])')
_HEADLESS = {2: ("text", "label"), 3: ("text1", "text2", "label")}  # where the last is a number in every row


def read_table(text: str, name: str) -> tuple[list[dict[str, str]], tuple[str, ...]] | None:
    """Reads the rows of a table by its headings, and notes; None if the text is no table with headings that are known.

    A table without headings is read if its rows are a text or a pair of texts and then a number.

    Raises:
        DataError: a row has more or fewer cells than the headings, or quotes that do not end.
    """
    first = text.split("\n", 1)[0].rstrip("\r")
    for delimiter in _DELIMITERS:
        try:
            headings = next(csv.reader([first], delimiter=delimiter, strict=True), [])
        except csv.Error:
            continue
        if is_heading(headings):
            return _rows(read_cells(text, delimiter, name), headings, name), ()
    for delimiter in _DELIMITERS:
        if delimiter not in first:
            continue
        try:
            rows = read_cells(text, delimiter, name)
        except DataError:
            continue
        widths = {len(cells) for _, cells in rows}
        if widths in ({2}, {3}) and all(is_number(c[-1].strip()) and not is_number(c[0].strip()) for _, c in rows):
            headings = list(_HEADLESS[widths.pop()])
            note = f"no headings; the columns are taken for {', '.join(headings)}"
            return [dict(zip(headings, cells, strict=True)) for _, cells in rows], (note,)
    return None


def _rows(rows: Sequence[tuple[int, list[str]]], headings: Sequence[str], name: str) -> list[dict[str, str]]:
    if twice := [heading for heading in headings if headings.count(heading) > 1 and heading]:
        raise DataError(f"{name}: the heading '{clipped(twice[0])}' stands there twice")
    for line, cells in rows:
        if len(cells) != len(headings):
            raise DataError(
                f"{name}: the row that ends in line {line} has {len(cells)} cells; the headings are {len(headings)}: "
                f"{clipped(', '.join(headings), 200)}. A cell with the separator, a quote or a line break needs quotes"
            )
    return [dict(zip(headings, cells, strict=True)) for _, cells in rows[1:]]


def read_cells(text: str, delimiter: str, name: str) -> list[tuple[int, list[str]]]:
    """Reads every row with the number of its last line, without empty lines; a TSV with quotes if they are CSV's.

    Raises:
        DataError: quotes do not end, or are misplaced.
    """
    if delimiter == "\t" and not has_quoted_cells(text):
        lines = enumerate(text.split("\n"), 1)
        return [(number, line.rstrip("\r").split("\t")) for number, line in lines if line.strip()]
    before = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num}: not readable as CSV: {error}") from error
    finally:
        csv.field_size_limit(before)


def has_quoted_cells(text: str) -> bool:
    """Says whether a TSV is quoted as CSV is: there are no quotes outside of cells that are quoted as a whole.

    A quoted cell with tabs or line breaks in it counts only if the unquoted lines are no table: a quote at the start of one
    cell and one at the end of another, rows later, would otherwise swallow everything between.
    """
    if '"' not in text or '"' in _QUOTED.sub("", text):
        return False
    if not any(set(cell) & {"\t", "\n", "\r"} for cell in _QUOTED.findall(text)):
        return True
    return len({line.count("\t") for line in text.split("\n") if line.strip()}) > 1
