"""Declares the kinds of scores, or of gating, for which a rule of the surgeon is exact."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from exporters.encoder import Attention
from exporters.errors import SurgeryError

Rule = TypeVar("Rule", bound=Callable[..., Any])


def exact_for(*kinds: type) -> Callable[[Rule], Rule]:
    """Declares the kinds of scores (of gating) for which a rule on an attention (a feed-forward) block is exact.

    The base class means all kinds. The rule refuses a block of every other kind with a SurgeryError.
    """

    def declare(rule: Rule) -> Rule:
        @wraps(rule)
        def apply(block: Any, *arguments: Any) -> Any:
            kind = block.scores if isinstance(block, Attention) else block.gating
            if not isinstance(kind, kinds):
                names = " or ".join(exact_kind.__name__ for exact_kind in kinds)
                raise SurgeryError(
                    f"{rule.__name__} is exact for {names}; found {type(kind).__name__}, for which it would change answers"
                )
            return rule(block, *arguments)

        return apply  # type: ignore[return-value]

    return declare
