"""The recipe's section for gradual pruning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GradualConfig:
    """To come."""
