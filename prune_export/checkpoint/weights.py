"""A checkpoint's tensors, read safely: nothing in the files is ever run."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from exporters.errors import WeightsError
from prune_export.checkpoint.source import PICKLED, PICKLED_INDEX, SAFETENSORS, SAFETENSORS_INDEX

# Names that transformers itself still reads under their old spelling.
_OLD_SUFFIXES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


class Weights(Mapping[str, Tensor]):
    """Named tensors, memory-mapped where the format allows, under today's names and with the family's prefix.

    `tensor` converts to float32 and checks; nothing is read before it is asked for.
    """

    def __init__(self, tensors: Mapping[str, Tensor], files: tuple[Path, ...], prefix: str) -> None:
        self.files = files
        self._prefix = prefix
        self._tensors = _with_prefix({_todays(name): value for name, value in tensors.items()}, prefix)
        self._asked: set[str] = set()
        self._converted: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """The tensor as it is stored, unchecked."""
        return self._tensors[name]

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def replaced(self, changed: Mapping[str, Tensor]) -> Weights:
        """The same weights with some tensors exchanged."""
        return Weights({**self._tensors, **changed}, self.files, self._prefix)

    @property
    def unused(self) -> list[str]:
        """Names that nobody has asked for."""
        return sorted(set(self._tensors) - self._asked)

    def tensor(self, name: str, shape: tuple[int, ...], *, reason: str = "") -> Tensor:
        """The tensor `name` as float32; the same object each time.

        Raises:
            WeightsError: it is missing, of another shape (`reason` says why that shape), not of a floating-point type,
                or holds NaN or infinity.
        """
        self._asked.add(name)
        because = f" ({reason})" if reason else ""
        where = self.files[0].name if len(self.files) == 1 else f"{self.files[0].name} and its shards"
        if name not in self._tensors:
            raise WeightsError(f"{where}: the tensor '{name}' is missing; expected shape {list(shape)}{because}")
        if name in self._converted:
            return self._converted[name]
        values = self._tensors[name]
        if tuple(values.shape) != shape:
            because = because or " (from config.json)"
            raise WeightsError(
                f"{where}: the tensor '{name}' has shape {list(values.shape)}; expected {list(shape)}{because}"
            )
        if not values.is_floating_point():
            raise WeightsError(f"{where}: the tensor '{name}' is of type {values.dtype}; expected floating point")
        values = values.to(torch.float32)
        # A finite sum proves that all terms are finite; only a sum that is not needs a look at each.
        if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
            count = int((~torch.isfinite(values)).sum())
            raise WeightsError(f"{where}: the tensor '{name}' holds {count} NaN or infinite values of {values.numel()}")
        self._converted[name] = values
        return values


def read_weights(folder: Path, prefix: str) -> Weights:
    """Opens the weights in `folder`, safetensors before pickled ones.

    Raises:
        WeightsError: there are none, or a file is damaged, or a pickled file holds more than tensors.
    """
    if (folder / SAFETENSORS).is_file():
        return Weights(read_safetensors(folder / SAFETENSORS), (folder / SAFETENSORS,), prefix)
    if (folder / SAFETENSORS_INDEX).is_file():
        return _read_shards(folder / SAFETENSORS_INDEX, read_safetensors, prefix)
    if (folder / PICKLED).is_file():
        return Weights(_read_pickled(folder / PICKLED), (folder / PICKLED,), prefix)
    if (folder / PICKLED_INDEX).is_file():
        return _read_shards(folder / PICKLED_INDEX, _read_pickled, prefix)
    raise WeightsError(
        f"{folder}: no weights; expected {SAFETENSORS}, {SAFETENSORS_INDEX}, {PICKLED} or {PICKLED_INDEX}"
    )


def sha256(files: tuple[Path, ...]) -> dict[str, str]:
    """The sha256 of each file, by name."""
    return {path.name: _digest(path) for path in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, memory-mapped.

    Raises:
        WeightsError: the file is damaged or cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        size = path.stat().st_size
        raise WeightsError(
            f"{path}: damaged or truncated ({size:,} bytes found): {error}. Download or copy it again"
        ) from error


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):  # the format before torch 1.6 cannot be mapped
                raise
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise WeightsError(
                f"{path}: refused, it holds Python objects beside tensors, and loading those could run any code. "
                "Convert it to safetensors where you trust it"
            ) from error
        raise WeightsError(f"{path}: damaged or truncated, or not a PyTorch file. Download or copy it again") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: damaged or truncated: {first}. Download or copy it again") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(f"{path}: expected a mapping of names to tensors; found {type(found).__name__}")
    return dict(found)


def _read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]], prefix: str) -> Weights:
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f'{index}: damaged; expected JSON with a "weight_map" from tensor to file') from error
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        path = index.parent / str(shard)
        if Path(str(shard)).name != shard:
            raise WeightsError(f"{index}: the shard '{shard}' is not beside the index; refused")
        if not path.is_file():
            raise WeightsError(f"{index}: the shard '{shard}' is missing ({len(shards)} shards expected)")
        tensors.update(read(path))
    return Weights(tensors, (index, *(index.parent / str(shard) for shard in shards)), prefix)


def _todays(name: str) -> str:
    for old, new in _OLD_SUFFIXES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A base model is saved without the prefix that the same tensors carry below a task head."""
    if any(name.startswith(f"{prefix}.") for name in tensors):
        return tensors
    return {f"{prefix}.{name}": value for name, value in tensors.items()}
