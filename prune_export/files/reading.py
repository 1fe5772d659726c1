"""The reader of files that others wrote: regular files, bounded, decoded by a schema.

Everything that is wrong with such a file becomes one exception, `ReadingError`, whose message is a reason on one line.
Its callers say which file it was, what was expected and what to do.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from exporters.errors import UsageError, printable
from prune_export.files.errors import file_type

T = TypeVar("T")

# Limits beyond the size of any real file of its kind.
SMALL_FILE = 8 << 20  # configurations, plans, records, recipes
LARGE_FILE = 64 << 20  # indices, vocabularies, logs

_QUOTED = 80
_CHUNK = 1 << 20
_REASONS = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EACCES: "no permission to read it",
    errno.EPERM: "no permission to read it",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a link that leads to itself",
    errno.ENXIO: "not a regular file",  # a socket
}


class ReadingError(Exception):
    """A file that cannot be taken; the message says why, on one line. `missing`: it is not there at all."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


def clipped(text: str, length: int = _QUOTED) -> str:
    """Prepares `text` for a message: on one line, control characters escaped, about `length` characters."""
    return printable(text if len(text) <= length else f"{text[: length - 1]}…")


def shown(value: object) -> str:
    """Prepares `value`, as Python writes it, for a message."""
    try:
        return clipped(repr(value))
    except ValueError:  # Python writes out no integer of thousands of digits
        return "a huge number"


def one_line(error: BaseException, length: int = 200) -> str:
    """Returns the message of `error` on one line of at most `length` characters."""
    return clipped(" ".join(str(error).split()), length) or type(error).__name__


def user_path(text: str | os.PathLike[str]) -> Path:
    """Returns the path that a user means, with `~` replaced.

    Raises:
        ReadingError: no path can be of that form: an empty string, the home of an unknown user, a NUL byte, a name too long.
    """
    if not str(text):
        raise ReadingError("expected a path; found an empty string")
    try:
        path = Path(text).expanduser()
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return path
    except (OSError, RuntimeError, ValueError) as error:
        raise ReadingError(_reason(error)) from error
    return path


def expanded(path: str | Path) -> Path:
    """Replaces `~` in `path` by the user's home.

    Raises:
        UsageError: no path can be of that form, as with the home of an unknown user.
    """
    try:
        return user_path(path)
    except ReadingError as error:
        raise UsageError(f"'{clipped(str(path), 300)}': {error}; write the whole path") from error


def is_file(path: Path) -> bool:
    """Says whether `path` is a regular file; False also if that cannot be known."""
    return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises for a name that is too long)


@contextmanager
def opened(path: Path, *, limit: int | None = None) -> Iterator[BinaryIO]:
    """Opens a regular file of at most `limit` bytes without waiting for anything: no pipe, device, socket or folder.

    Raises:
        ReadingError: it is not one, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise ReadingError(_reason(error), missing=missing) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ReadingError(f"not a regular file but {file_type(status.st_mode)}")
        if limit is not None and status.st_size > limit:
            raise ReadingError(f"too large: {status.st_size:,} bytes; at most {limit:,} are read")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    except OSError as error:
        raise ReadingError(_reason(error)) from error
    finally:
        os.close(descriptor)


def read_bytes(path: Path, *, limit: int) -> bytes:
    """Reads a regular file of at most `limit` bytes.

    Raises:
        ReadingError: it is not one, or cannot be read.
    """
    with opened(path, limit=limit) as file:
        content = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
        while len(content) <= limit and (more := file.read(_CHUNK)):  # its size was not what it told
            content += more
    if len(content) > limit:
        raise ReadingError(f"too large; at most {limit:,} bytes are read")
    return content


def read_text(path: Path, *, limit: int) -> str:
    """Reads a regular file of at most `limit` bytes as text.

    Raises:
        ReadingError: as for `read_bytes`, or it is no UTF-8.
    """
    try:
        return read_bytes(path, limit=limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReadingError(f"no UTF-8 text (byte {error.start})") from error


def read_json(path: Path, kind: type[T], *, limit: int = SMALL_FILE) -> T:
    """Reads a JSON file as `kind`, a `msgspec.Struct` or any type that msgspec decodes.

    Raises:
        ReadingError: as for `read_bytes`, or it is not JSON, or not of that form.
    """
    return decode_json(read_bytes(path, limit=limit), kind)


def decode_json(content: bytes | str, kind: type[T]) -> T:
    """Decodes `content` as `kind`; NaN, Infinity and integers of more than 4,300 digits are no JSON here.

    Raises:
        ReadingError: it is not JSON, or not of that form.
    """
    try:
        if isinstance(content, bytes):
            content.decode("utf-8")  # msgspec looks at the strings that it keeps only
        return msgspec.json.decode(content, type=kind)
    except UnicodeError as error:
        raise ReadingError(f"not readable as JSON: {one_line(error)}") from error
    except msgspec.ValidationError as error:
        text = one_line(error)
        raise ReadingError(f"{text[:1].lower()}{text[1:]}") from error
    except msgspec.DecodeError as error:
        raise ReadingError(f"not readable as JSON: {one_line(error).removeprefix('JSON is ')}") from error
    except RecursionError as error:
        raise ReadingError("not readable as JSON: nested too deep") from error


def nested(data: Any, *, closed: str | None = None) -> Iterator[tuple[str | None, Any]]:
    """Yields every value in JSON data at any depth, with its key if it is an object's; not those in the object `closed`."""
    waiting: deque[tuple[str | None, Any]] = deque([(None, data)])
    while waiting:
        key, value = waiting.popleft()
        yield key, value
        if isinstance(value, dict) and (key is None or key != closed):
            waiting.extend(value.items())
        elif isinstance(value, list):
            waiting.extend((None, item) for item in value)


def _reason(error: OSError | RuntimeError | ValueError) -> str:
    if isinstance(error, OSError):
        return _REASONS.get(error.errno or 0) or error.strerror or one_line(error)
    return f"no path can be of that form: {one_line(error)}"
