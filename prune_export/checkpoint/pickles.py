"""Checks of pickled weights before torch reads them: their directory, and the names in their pickles.

torch's weights-only unpickler runs no foreign code, but makes any object of a few harmless types, however large.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from exporters.errors import WeightsError
from prune_export.files.reading import ReadingError, clipped, opened

_MOST_ENTRIES = 1 << 16
_LARGEST_DIRECTORY = 8 << 20
_LARGEST_RECORD = 2 << 20  # of any but tensors: data.pkl, version, byteorder
_HARMLESS = (("collections", "OrderedDict"), ("builtins", "set"), ("__builtin__", "set"))
_ZIP = b"PK\x03\x04"
_END, _END_64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"


def check_pickled(path: Path) -> None:
    """Checks what torch.save wrote into `path`, in the zip format or the one before it.

    Raises:
        ReadingError: it is beyond the limits, or not of the format.
        WeightsError: it holds more than tensors.
    """
    with opened(path) as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
        file.seek(0)
        if not is_zip:
            _check_pickles(file, path, stop_at=5)
            return
        _check_directory(file)
        try:
            with zipfile.ZipFile(file) as archive:
                _check_records(archive, path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise ReadingError(f"a damaged zip file: {error}") from error


def _check_records(archive: zipfile.ZipFile, path: Path) -> None:
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ReadingError(f"'{clipped(entry.filename)}' in it is compressed, which torch.save never does")
        name = entry.filename.lower()  # torch finds names in any case
        is_tensor = name.rpartition("/")[0].endswith("/data") and not name.endswith(".pkl")
        if not is_tensor and entry.file_size > _LARGEST_RECORD:
            raise ReadingError(f"'{clipped(entry.filename)}' in it has {entry.file_size:,} bytes")
        if name.endswith(".pkl"):
            _check_pickles(BytesIO(archive.read(entry)), path, stop_at=1)


def _check_directory(file: BinaryIO) -> None:
    """Reads the zip's end, which says how large its directory is, before the directory itself.

    It must be as torch writes it, without a comment or gaps: what Python's zipfile finds is then what torch finds.
    """
    size = file.seek(0, 2)
    end = max(0, size - 22)
    file.seek(max(0, end - 20 - 56))
    tail = file.read()
    if len(tail) < 22 or not tail.startswith(_END, len(tail) - 22):
        raise ReadingError("it ends early")
    entries, length, start = struct.unpack_from("<HLL", tail, len(tail) - 22 + 10)
    if len(tail) == 98 and tail.startswith(_LOCATOR, 56):
        (where,) = struct.unpack_from("<Q", tail, 56 + 8)
        end -= 20 + 56
        if where != end or not tail.startswith(_END_64):
            raise ReadingError("a damaged zip file")
        entries, length, start = struct.unpack_from("<QQQ", tail, 32)
    if entries > _MOST_ENTRIES or length > _LARGEST_DIRECTORY:
        raise ReadingError(f"a zip directory of {entries:,} entries in {length:,} bytes")
    if start + length != end:
        raise ReadingError("a damaged zip file")
    file.seek(0)


def _check_pickles(file: BinaryIO, path: Path, *, stop_at: int) -> None:
    """Looks at the names in the first `stop_at` pickles; runs nothing."""
    content = BytesIO(file.read(_LARGEST_RECORD))
    for _ in range(stop_at):
        try:
            for _operation, argument, _place in pickletools.genops(content):
                if _operation.name == "GLOBAL":
                    _check_global(str(argument), path)
        except Exception as error:  # damaged bytes make it raise nearly anything
            if isinstance(error, WeightsError):
                raise
            raise ReadingError("not what torch.save writes") from error


def _check_global(argument: str, path: Path) -> None:
    """Refuses everything that torch would make beside tensors and their dictionary, such as a `bytearray` of any length."""
    module, _, name = argument.partition(" ")
    if module.partition(".")[0] != "torch" and (module, name) not in _HARMLESS:
        raise WeightsError(
            f"{path}: refused, it holds Python objects beside tensors ({clipped(f'{module}.{name}', 60)!r}), and loading "
            "those could run any code. Convert it to safetensors where you trust it"
        )
