"""What a recipe's keys mean and which numbers they take: said once, in the type of each field."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

MOST = 10**9  # steps, tokens, examples: more is a slip of the pen

Count = Annotated[int, Meta(ge=1, le=MOST)]
CountOrZero = Annotated[int, Meta(ge=0, le=MOST)]
SomeExamples = Annotated[int, Meta(ge=2, le=MOST)]
Epochs = Annotated[float, Meta(gt=0, le=10**6)]
EpochsOrZero = Annotated[float, Meta(ge=0, le=10**6)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


def key(meaning: str) -> Meta:
    """Returns what stands beside a field's type: the meaning, for docs/recipes.md."""
    return Meta(description=meaning)


def range_words(limits: Meta, value: float = 0) -> str:
    """Says which numbers `limits` allow, as in "of 1 or more"; the highest only where it is near, or `value` is above it."""
    low = limits.ge if limits.ge is not None else limits.gt
    high = limits.le if limits.le is not None else limits.lt
    if high is not None and high >= 10**6 and value <= high:
        high = None
    above = "above" if limits.gt is not None else "from"
    if low is not None and high is not None:
        if limits.gt is None:
            return f"from {low:,} to {high:,}"
        return f"above {low:,}, {'below' if limits.lt is not None else 'at most'} {high:,}"
    if low is not None:
        return f"above {low:,}" if above == "above" else f"of {low:,} or more"
    return ""


def is_within(limits: Meta, value: float) -> bool:
    """Whether a number lies within the limits."""
    return (
        (limits.ge is None or value >= limits.ge)
        and (limits.gt is None or value > limits.gt)
        and (limits.le is None or value <= limits.le)
        and (limits.lt is None or value < limits.lt)
    )
