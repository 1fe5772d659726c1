"""The tensors of a checkpoint, read safely: nothing in the files is ever run."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from torch import Tensor

from exporters.errors import WeightsError
from prune_export.checkpoint.pickles import check_pickled
from prune_export.checkpoint.safetensors_header import check_header
from prune_export.checkpoint.tensor_names import named
from prune_export.facts.file_names import PICKLED, PICKLED_INDEX, SAFETENSORS, SAFETENSORS_INDEX
from prune_export.families.names import Family
from prune_export.files.links import plain_name
from prune_export.files.reading import LARGE_FILE, ReadingError, clipped, is_file, one_line, opened, read_json, shown

# How torch's weights-only unpickler names an object that it will not make (torch/_weights_only_unpickler.py).
_REFUSED = re.compile(
    r"GLOBAL (\S*\w\.\w\S*)|unrecognized function (.+)|via `add_safe_globals`,? but got (.+)|"
    r"(``torch\..+``) must be imported"
)
_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_MOST_SHARDS = 1_000
_LFS_POINTER = b"version https://git-lfs"


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class Weights(Mapping[str, Tensor]):
    """Named tensors, memory-mapped if the format allows, under the names of the family's classes for tasks.

    `tensor` converts to float32 and checks; nothing is read before that. `renamed` says what was done to names that
    transformers itself would not find; None if there are none.
    """

    def __init__(self, tensors: Mapping[str, Tensor], files: tuple[Path, ...], renamed: str | None = None) -> None:
        self.files = files
        self.renamed = renamed
        self._tensors = dict(tensors)
        self._asked: set[str] = set()
        self._converted: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Returns the tensor as it is stored, unchecked."""
        return self._tensors[name]

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def replaced(self, changed: Mapping[str, Tensor]) -> Weights:
        """Returns the same weights with some tensors exchanged."""
        return Weights({**self._tensors, **changed}, self.files, self.renamed)

    @property
    def unused(self) -> list[str]:
        """Names the tensors that were not requested."""
        return sorted(set(self._tensors) - self._asked)

    def tensor(self, name: str, shape: tuple[int, ...], *, reason: str = "") -> Tensor:
        """Returns the tensor `name` as float32; the same object each time.

        Raises:
            WeightsError: it is missing, of another shape (`reason` says why that shape), not of a floating-point type of 16
                bits or more, or holds NaN or infinity.
        """
        self._asked.add(name)
        because = f" ({reason})" if reason else ""
        where = self.files[0].name if len(self.files) == 1 else f"{self.files[0].name} and its shards"
        if name not in self._tensors:
            listing = clipped(", ".join(self._tensors))
            raise WeightsError(
                f"{where}: the tensor '{name}' is missing; expected shape {list(shape)}{because}. It holds {listing}"
            )
        values = self._tensors[name]
        if tuple(values.shape) != shape:
            because = because or " (from config.json)"
            raise WeightsError(
                f"{where}: the tensor '{name}' has shape {list(values.shape)}; expected {list(shape)}{because}"
            )
        if name in self._converted:
            return self._converted[name]
        if values.dtype not in _TYPES:
            dequantize = "; dequantize the weights first" if values.element_size() == 1 else ""
            raise WeightsError(
                f"{where}: the tensor '{name}' is of type {values.dtype}; expected floating point (float32, float16, "
                f"bfloat16 or float64){dequantize}"
            )
        values = values.to(torch.float32)
        # A finite sum proves that all terms are finite; only a sum that is not needs a look at each.
        if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
            count = int((~torch.isfinite(values)).sum())
            raise WeightsError(f"{where}: the tensor '{name}' holds {count} NaN or infinite values of {values.numel()}")
        self._converted[name] = values
        return values


def read_weights(folder: Path, family: Family) -> Weights:
    """Opens the weights of a network of `family` in `folder`, safetensors before pickled ones.

    Raises:
        WeightsError: there are none, or a file is damaged, or a pickled file holds more than tensors, or some names have a
            prefix that others lack.
    """
    tensors, files = _read_files(folder)
    return Weights(*named(tensors, family, files))


def _read_files(folder: Path) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    for name in (SAFETENSORS, SAFETENSORS_INDEX, PICKLED, PICKLED_INDEX):
        if os.path.lexists(folder / name) and not is_file(folder / name):
            raise WeightsError(f"{folder / name}: not a regular file, nor a link to one")
    if (folder / SAFETENSORS).is_file():
        return read_safetensors(folder / SAFETENSORS), (folder / SAFETENSORS,)
    if (folder / SAFETENSORS_INDEX).is_file():
        return _read_shards(folder / SAFETENSORS_INDEX, read_safetensors)
    if (folder / PICKLED).is_file():
        return _read_pickled(folder / PICKLED), (folder / PICKLED,)
    if (folder / PICKLED_INDEX).is_file():
        return _read_shards(folder / PICKLED_INDEX, _read_pickled)
    raise WeightsError(
        f"{folder}: no weights; expected {SAFETENSORS}, {SAFETENSORS_INDEX}, {PICKLED} or {PICKLED_INDEX}"
    )


def sha256(files: tuple[Path, ...]) -> dict[str, str]:
    """Returns the sha256 of each file, by name."""
    return {path.name: _digest(path) for path in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file, memory-mapped.

    Raises:
        WeightsError: the file is damaged or cannot be read.
    """
    try:
        check_header(path)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except MemoryError:
        raise
    except Exception as error:  # the two libraries' own, and torch's for a type that it does not know
        raise _unreadable(path, error) from error


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        check_pickled(path)
        content = _unpickle(path)
    except pickle.UnpicklingError as error:
        if refused := _REFUSED.search(str(error)):
            content = next(filter(None, refused.groups()))[:60]
            raise WeightsError(
                f"{path}: refused, it holds Python objects beside tensors ({content!r}), and loading those could run any "
                "code. Convert it to safetensors where you trust it"
            ) from error
        raise _unreadable(path, ValueError("not what torch.save writes")) from error
    except (MemoryError, WeightsError):
        raise
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise _unreadable(path, error) from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected a mapping of names to tensors; found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path}: expected a mapping of names to tensors; found {type(value).__name__} under {shown(name)}. "
                "Save the model's state_dict() alone"
            )
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise WeightsError(
                f"{path}: the tensor '{clipped(name)}' is sparse, quantized or without values; expected plain ones"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise WeightsError(
                f"{path}: the tensor '{clipped(name)}' of shape {shown(list(value.shape))} repeats its values; expected "
                "plain ones"
            )
    return {name: value.detach() for name, value in content.items()}  # a Parameter would ask for gradients


def _unpickle(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old pickle protocols; what cannot be read is an error below
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):  # the format before torch 1.6 cannot be mapped
                raise
        return torch.load(path, map_location="cpu", weights_only=True)


def _unreadable(path: Path, error: Exception) -> WeightsError:
    if not os.access(path, os.R_OK):
        return WeightsError(f"{path}: no permission to read it")
    with suppress(ReadingError), opened(path) as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            return WeightsError(f"{path}: a Git LFS pointer, not the weights themselves; fetch them with git lfs pull")
    size = ""
    with suppress(OSError):
        size = f" ({path.stat().st_size:,} bytes found)"
    reason = one_line(error)
    if isinstance(error, EOFError):
        reason = "it ends early"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return WeightsError(f"{path}: damaged or truncated{size}: {reason.rstrip('.')}. Download or copy it again")


def _read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    try:
        shards = sorted(set(read_json(index, _Index, limit=LARGE_FILE).weight_map.values()))
    except ReadingError as error:
        raise WeightsError(
            f'{index}: damaged; expected JSON with a "weight_map" from tensor to file: {error}'
        ) from error
    if len(shards) > _MOST_SHARDS:
        raise WeightsError(f"{index}: names {len(shards):,} shards; expected at most {_MOST_SHARDS:,}")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if not plain_name(shard):
            raise WeightsError(f"{index}: the shard '{clipped(shard)}' is not beside the index; refused")
        path = index.parent / shard
        if not os.path.lexists(path):
            raise WeightsError(f"{index}: the shard '{clipped(shard)}' is missing ({len(shards)} shards expected)")
        if not is_file(path):
            raise WeightsError(f"{index}: the shard '{clipped(shard)}' is not a regular file")
        tensors.update(read(path))
    return tensors, (index, *(index.parent / shard for shard in shards))
