"""The splits of a data set, and the one that is read for a purpose."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from exporters.errors import DataError
from prune_export.files.reading import clipped

Purpose = Literal["evaluation", "training", "calibration"]

# Without regard to case and separators; of one group the first that is there is taken.
_TRAIN = ("train", "training")
_VALIDATION = (
    *("validation", "valid", "val", "validationmatched", "dev", "devmatched", "development", "eval", "evaluation"),
    *("validationmismatched", "devmismatched"),
)
_TEST = ("test", "testing")
_GROUPS: dict[Purpose, tuple[tuple[str, ...], ...]] = {
    "evaluation": (_VALIDATION, _TEST),
    "training": (_TRAIN,),
    "calibration": (_TRAIN, _VALIDATION, _TEST),
}
_SLICED = re.compile(r"[\[+].*", re.DOTALL)


def is_split(name: str) -> bool:
    """Says whether `name` is a split's, a slice for `datasets` included (`train[:100]`)."""
    return _plain(_SLICED.sub("", name)) in (*_TRAIN, *_VALIDATION, *_TEST)


def is_training(name: str | None) -> bool:
    """Says whether the split is for training."""
    return name is not None and _plain(_SLICED.sub("", name)) in _TRAIN


def without_split(source: str | Path) -> str:
    """Returns the file or folder in `source`, which may be `FILE:SPLIT`; `source` itself if there is none."""
    base, _, _ = str(source).rpartition(":")
    return base if base and not os.path.lexists(source) and os.path.lexists(base) else str(source)


def choose_split(names: Sequence[str], split: str | None, purpose: Purpose, where: str) -> str:
    """Returns `split` of `names` ("validation" is "valid" or "dev", too), or without that the one for `purpose`.

    A training split is never chosen to evaluate on.

    Raises:
        DataError: there is none.
    """
    listing = clipped(", ".join(map(str, names)), 200)
    if split is not None:
        if split in names:
            return split
        plain = _plain(split)
        groups = [(plain,), *(group for group in (_TRAIN, _VALIDATION, _TEST) if plain in group)]
        if (name := _first(names, groups)) is None:
            raise DataError(f"{where}: has no split '{clipped(split)}'; found {listing}")
        return name
    if (name := _first(names, _GROUPS[purpose])) is None:
        raise DataError(
            f"{where}: has no split for {purpose}, found {listing}; say which with --split, or {where}:SPLIT"
        )
    return name


def _first(names: Sequence[str], groups: Sequence[Sequence[str]]) -> str | None:
    by_plain = {_plain(name): name for name in reversed(names)}
    return next((by_plain[plain] for group in groups for plain in group if plain in by_plain), None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold())
