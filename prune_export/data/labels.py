"""Labels of files as words; `None` for a row without one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from exporters.errors import DataError
from prune_export.files.reading import shown

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NOTHING = ("", "-", "nan", "null")  # "-" is SNLI's; "none" is a class of many


def label_word(value: Any, where: str) -> str | None:
    """Writes a label as a word; whole numbers without a point ("1" for "1.0"), booleans as "true" and "false".

    Raises:
        DataError: it is a list or an object.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise DataError(f"{where}: expected one label; found {shown(value)}")
    try:
        word = str(value).strip()
    except ValueError as error:  # Python writes out no integer of thousands of digits
        raise DataError(f"{where}: the label is a huge number") from error
    if word.lower() in _NOTHING:
        return None
    return re.sub(r"^([+-]?\d+)\.0*$", r"\1", word) if is_number(word) else word


def without_missing(words: Sequence[str | None]) -> list[str | None]:
    """Replaces -1, which many data sets write for "no label", by None; not among negative numbers or fractions."""
    numbers = [float(word) for word in set(words) if word is not None and word != "-1" and is_number(word)]
    is_regression = any(number < 0 or not number.is_integer() for number in numbers)
    return list(words) if is_regression else [None if word == "-1" else word for word in words]


def is_number(word: str) -> bool:
    """Says whether `word` is a finite number."""
    return len(word) < 40 and bool(_NUMBER.fullmatch(word)) and math.isfinite(float(word))


def are_numbers(words: Iterable[str]) -> bool:
    """Says whether all of `words` are finite numbers."""
    return all(map(is_number, words))


def are_class_numbers(words: Iterable[str]) -> bool:
    """Says whether all of `words` are whole numbers that classes may have."""
    return all(word.isascii() and word.isdecimal() and len(word) < 7 for word in words)


def unlabelled_note(left_out: int, total: int) -> tuple[str, ...]:
    """Returns a note on rows without a label."""
    return (f"{left_out:,} of {total:,} rows left out: they have no label",) if left_out else ()
