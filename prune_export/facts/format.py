"""The marks of our JSON files: the name of a format, and its version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Format:
    """The format of a JSON file, which the file's keys "format" and "version" hold."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}, version {self.version}"

    def marked(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns `data` after the keys of the format."""
        return {"format": self.name, "version": self.version, **data}

    def marks(self, data: Mapping[str, Any]) -> bool:
        """Says whether `data` is of this format and version."""
        return data.get("format") == self.name and data.get("version") == self.version
