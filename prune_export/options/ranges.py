"""Numbers that a user gives, on the command line or in a call: whole or not, within a range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from exporters.errors import UsageError

_BELOW_ONE = math.nextafter(1, 0)
_FAR = 10**6  # a limit that nobody comes near
_SHOWN = 40  # characters of what was found


@dataclass(frozen=True, slots=True)
class Range:
    """Finite numbers from `least` to `most`, both included unless `above` says that `least` is not."""

    least: float = -math.inf
    most: float = math.inf
    whole: bool = False
    above: bool = False

    def holds(self, value: Any) -> bool:
        """Whether `value` is such a number; a bool is none."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        found: Any = value
        enough = found > self.least if self.above else found >= self.least
        # A whole number may be too large for a float, which isfinite would make of it.
        return bool(enough and found <= self.most and (isinstance(value, Integral) or math.isfinite(value)))

    def checked(self, option: str, value: Any) -> Any:
        """`value` as Python's own int or float.

        Raises:
            UsageError: it is not in the range; the message names `option`.
        """
        if not self.holds(value):
            raise refusal(option, value, str(self))
        return int(value) if isinstance(value, Integral) else float(value)

    def parsed(self, text: str) -> int | float:
        """The number that `text` says.

        Raises:
            ValueError: it says none, or one that is not in the range; the message says what was expected.
        """
        try:
            value: int | float = int(text) if self.whole else float(text)
        except ValueError:
            value = math.nan
        if not self.holds(value):
            raise ValueError(f"{word(text)}: expected {self}")
        return value

    def phrase(self, value: float = 0) -> str:
        """Says which numbers are in the range, after "a number": "of 1 or more".

        The highest is said only where it is near, or `value` is above it.
        """
        is_bounded = self.most < _FAR or (math.isfinite(self.most) and value > self.most)
        if not math.isfinite(self.least):
            return ""
        if not is_bounded:
            return f"above {self.least:,}" if self.above else f"of {self.least:,} or more"
        if not self.above:
            return f"from {self.least:,} to {self.most:,}"
        return f"above {self.least:,}, " + ("below 1" if self.most == _BELOW_ONE else f"at most {self.most:,}")

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        bounded = math.isfinite(self.most)
        if not math.isfinite(self.least):
            return kind if not bounded else f"{kind}, at most {self.most:.15g}"
        if self.above:
            return f"{kind} above {self.least:.15g}" + (f", at most {self.most:.15g}" if bounded else "")
        if bounded:
            below = "below " if self.most == _BELOW_ONE else ""
            return f"{kind} from {self.least:.15g} to {below}{self.most:.15g}"
        return f"{kind}, {self.least:.15g} or more"


def word(value: Any) -> str:
    """Shows what was found instead of a number or a word."""
    from prune_export.files.reading import clipped, shown  # it imports msgspec, which takes time

    return clipped(value, _SHOWN) if isinstance(value, str) else shown(value)


def refusal(option: str, value: Any, expected: str) -> UsageError:
    """Returns the error that says what `option` takes."""
    return UsageError(f"{option} {word(value)}: expected {expected}")


ANY = Range()
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
FRACTION = Range(0, 1)
PADDING = Range(0, _BELOW_ONE)
KEPT_FRACTION = Range(0, 1, above=True)
PROPER_FRACTION = Range(0, _BELOW_ONE, above=True)
FACTOR = Range(1)

# Beyond these nothing runs: sizes and counts are 32-bit numbers somewhere below, in ONNX Runtime, torch or NumPy.
COUNT = Range(1, 2**31 - 1, whole=True)
SAMPLE_COUNT = Range(2, 2**31 - 1, whole=True)  # one of two is held out
PARITY_SAMPLES = Range(4, 2**31 - 1, whole=True)  # single tokens, the full length, and both paddings
COUNT_OR_NONE = Range(0, 2**31 - 1, whole=True)
SEEDS = Range(0, 2**32 - 1, whole=True)
THREADS = Range(1, 4096, whole=True)
BATCH_SIZE = Range(1, 2**16, whole=True)
