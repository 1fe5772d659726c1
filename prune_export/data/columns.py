"""The meaning of a table's columns by their headings, without regard to case and spaces around them."""

from __future__ import annotations

from collections.abc import Sequence

from exporters.errors import DataError
from prune_export.files.reading import clipped

QUESTIONS = ("question", "context", "answers")
_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
)
_TEXTS = ("text", "sentence")
_LABELS = ("label", "labels", "category", "class", "intent", "gold_label", "score", "similarity_score", "is_duplicate")
_OTHERS = ("id", "is_impossible", "split")
KNOWN = frozenset({*QUESTIONS, *(column for pair in _PAIRS for column in pair), *_TEXTS, *_LABELS, *_OTHERS})
EXPECTED = (
    "question, context and answers; or text or sentence (of pairs sentence1 and sentence2, premise and hypothesis, …) and "
    "label, labels, category or score"
)


def by_plain_name(columns: Sequence[str], name: str) -> dict[str, str]:
    """Returns the columns by their names in lower case.

    Raises:
        DataError: two have the same.
    """
    by_name: dict[str, str] = {}
    for column in columns:
        plain = column.strip().lower()
        if plain and plain in by_name:
            raise DataError(f"{name}: the columns '{clipped(by_name[plain])}' and '{clipped(column)}' have one name")
        by_name[plain] = column
    return by_name


def is_heading(cells: Sequence[str]) -> bool:
    """Says whether `cells` are headings of data that can be read."""
    plain = {cell.strip().lower() for cell in cells}
    has_texts = bool(plain & set(_TEXTS)) or any(set(pair) <= plain for pair in _PAIRS)
    return set(QUESTIONS) <= plain or (has_texts and bool(plain & set(_LABELS)))


def text_columns(plain: Sequence[str], name: str) -> tuple[str, ...]:
    """Returns the column of the text, or the two columns of a pair.

    Raises:
        DataError: there is none, or more than one would do.
    """
    pairs = [pair for pair in _PAIRS if set(pair) <= set(plain)]
    used = {column for pair in pairs for column in pair}
    fitting = [*pairs, *((column,) for column in _TEXTS if column in plain and column not in used)]
    return _only(fitting, plain, "texts", name)


def label_column(plain: Sequence[str], name: str) -> str:
    """Returns the column of the labels.

    Raises:
        DataError: there is none, or more than one would do.
    """
    return _only([(column,) for column in _LABELS if column in plain], plain, "labels", name)[0]


def _only(fitting: Sequence[tuple[str, ...]], plain: Sequence[str], content: str, name: str) -> tuple[str, ...]:
    if len(fitting) == 1:
        return fitting[0]
    listing = clipped(", ".join(plain), 200)
    if fitting:
        choices = " or ".join(" and ".join(columns) for columns in fitting)
        raise DataError(f"{name}: {content} may be {choices}; leave one of them, found the columns {listing}")
    raise DataError(
        f"{name}: has the columns {listing}; expected those of SQuAD or GLUE, or of texts with labels: {EXPECTED}"
    )
