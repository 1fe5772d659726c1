"""The recipe's section for l0 gates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class L0Config:
    """To come."""
