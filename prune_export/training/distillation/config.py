"""The recipe's section for distillation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distillation:
    """To come."""
