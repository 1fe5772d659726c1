"""The GPU code in a CUDA library, chip by chip: what is for others is blanked, so that the rest packs small.

nvcc puts the code for every chip into the section .nv_fatbin, as a row of containers: a header (magic, version, header size,
size of what follows), then entries, each a header with kind, size and chip, and code. The file keeps its layout: CUDA picks
an entry by its chip and never reads the others.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_SECTION = b".nv_fatbin"
_MAGIC = 0xBA55ED50
_CONTAINER = struct.Struct("<IHHQ")  # magic, version, header size, size of the entries
_ENTRY = struct.Struct("<HHIQ")  # kind (1 PTX, 2 machine code), version, header size, size of the code
_CHIP_AT = 28  # in an entry: 90 for sm_90
_MACHINE_CODE = 2


def keep_chip(library: Path, chip: int) -> Counter[int]:
    """Blanks all GPU code in `library` but the machine code for `chip` (90: Hopper), in place.

    Returns:
        Bytes of code by chip before; `chip` alone is left.

    Raises:
        ValueError: the library has no machine code for the chip, or is not what it should be.
    """
    data = bytearray(library.read_bytes())
    found: Counter[int] = Counter()
    kept = 0
    for start, end in _sections(data):
        for at, size, kind, arch in _entries(data, start, end):
            found[arch] += size
            if kind == _MACHINE_CODE and arch == chip:
                kept += size
            else:
                data[at : at + size] = bytes(size)
    if not kept:
        raise ValueError(f"{library}: no machine code for sm_{chip}; found {sorted(found) or 'no GPU code'}")
    library.write_bytes(data)
    return found


def _sections(data: bytearray) -> Iterator[tuple[int, int]]:
    """Start and end of each section of GPU code in a 64-bit ELF file."""
    if data[:5] != b"\x7fELF\x02":
        raise ValueError("expected a 64-bit ELF library")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + index * size) for index in range(count)]
    for name, _, _, _, start, length in headers:
        at = headers[names][4] + name
        if data[at : data.index(0, at)] == _SECTION:
            yield start, start + length


def _entries(data: bytearray, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Place and size of the code, kind and chip of each entry between `start` and `end`."""
    at = start
    while at + _CONTAINER.size <= end:
        magic, _, header, size = _CONTAINER.unpack_from(data, at)
        if magic != _MAGIC:
            at += 8  # containers are aligned
            continue
        entry, last = at + header, at + header + size
        while entry < last:
            kind, _, entry_header, code = _ENTRY.unpack_from(data, entry)
            (arch,) = struct.unpack_from("<I", data, entry + _CHIP_AT)
            yield entry + entry_header, code, kind, arch
            entry += entry_header + code
        at = last
