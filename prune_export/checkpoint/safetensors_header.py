"""The header of a safetensors file, checked before the library reads it, which takes 100 MB of it."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import msgspec

from prune_export.files.reading import SMALL_FILE, ReadingError, clipped, decode_json, opened, shown

MOST_TENSORS = 1 << 16
_MOST_DIMENSIONS = 8


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def check_header(path: Path) -> None:
    """Checks that the header is bounded, and that no tensor lies outside of the file.

    Overlaps and gaps are refused by the library itself.

    Raises:
        ReadingError: the header is not of the format, or beyond the limits.
    """
    with opened(path) as file:
        start = file.read(8)
        if len(start) < 8:
            raise ReadingError("it ends in the header's length")
        (length,) = struct.unpack("<Q", start)
        if length > SMALL_FILE:
            raise ReadingError(f"a header of {length:,} bytes; at most {SMALL_FILE:,} are read")
        header = file.read(length)
        if len(header) < length:
            raise ReadingError("it ends in the header")
        size = file.seek(0, 2) - 8 - length
    entries = decode_json(header, dict[str, msgspec.Raw])
    entries.pop("__metadata__", None)
    if len(entries) > MOST_TENSORS:
        raise ReadingError(f"{len(entries):,} tensors; at most {MOST_TENSORS:,} are read")
    for name, raw in entries.items():
        entry = decode_json(bytes(raw), _Entry)
        first, last = entry.data_offsets
        if not 0 <= first <= last <= size:
            raise ReadingError(f"the tensor '{clipped(name)}' lies outside of the file")
        if len(entry.shape) > _MOST_DIMENSIONS or min(entry.shape, default=0) < 0 or math.prod(entry.shape) > 1 << 62:
            raise ReadingError(f"the tensor '{clipped(name)}' has the shape {shown(entry.shape)}")
