"""The journal of a search: every point that was evaluated, so that a search that was killed goes on where it was.

It is a file of JSON lines. The first one holds the settings of the search, each further one a key and its result. Numbers
that JSON does not have (infinity) are written as null by the caller.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exporters.errors import OutputError, UsageError
from prune_export.files.reading import LARGE_FILE, ReadingError, decode_json, read_bytes, user_path
from prune_export.files.writing import write_file


class Journal:
    """The results of a search by key, kept in the file `path`, or in memory alone (None).

    A key is a list of numbers and strings. A last line that was not written to its end, because the program was killed, is
    forgotten.
    """

    def __init__(self, path: str | Path | None, settings: Mapping[str, Any], kind: Any = Any) -> None:
        """Opens the journal, or begins it. Results are of the type `kind`, which msgspec decodes.

        Raises:
            UsageError: the file is no journal, is damaged, or belongs to a search with other `settings`.
            OutputError: it cannot be written.
        """
        self._results: dict[str, Any] = {}
        self._path = None if path is None else user_path(path)
        if self._path is None:
            return
        first = _line(dict(settings))
        lines = self._read()
        if lines and lines[0] != first:
            raise UsageError(
                f"{self._path}: is the journal of another search; expected settings {first.decode().strip()[:200]}; give "
                "another folder, or remove it to begin anew"
            )
        for number, line in enumerate(lines[1:], 2):
            try:
                key, result = decode_json(line, tuple[list[int | float | str], kind])
            except ReadingError as error:
                raise UsageError(
                    f"{self._path}: line {number} is damaged: {error}; remove the file to begin anew"
                ) from error
            self._results[json.dumps(key)] = result
        try:
            write_file(self._path, b"".join(lines or [first]), overwrite=True)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from error

    def _read(self) -> list[bytes]:
        """Returns the whole lines of the file; none if there is no file."""
        assert self._path is not None
        try:
            content = read_bytes(self._path, limit=LARGE_FILE)
        except ReadingError as error:
            if error.missing:
                return []
            raise UsageError(f"{self._path}: {error}; expected the journal of a search, or no file") from error
        lines = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
        return lines or ([content] if content else [])  # the first line is always whole in a journal

    def __contains__(self, key: list[Any]) -> bool:
        return json.dumps(key) in self._results

    def __getitem__(self, key: list[Any]) -> Any:
        return self._results[json.dumps(key)]

    def __len__(self) -> int:
        return len(self._results)

    def once(self, key: list[Any], make: Callable[[], Any]) -> Any:
        """Returns the result of `key`, otherwise what `make` returns, and keeps that.

        Raises:
            OutputError: it cannot be written.
        """
        if key not in self:
            self.add(key, make())
        return self[key]

    def add(self, key: list[Any], result: Any) -> None:
        """Keeps `result`; it is on the disk when this returns.

        Raises:
            OutputError: it cannot be written.
        """
        line = _line([key, result])
        if self._path is not None:
            try:
                with self._path.open("ab") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise OutputError(f"cannot write {self._path}: {error.strerror}") from error
        self._results[json.dumps(key)] = result


def _line(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode() + b"\n"
