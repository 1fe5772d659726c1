"""The names of a checkpoint's tensors, brought to those of the family's classes for tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from exporters.errors import WeightsError
from prune_export.families.names import Family
from prune_export.families.table import Table
from prune_export.files.reading import clipped

# Names that transformers itself still reads under their old spelling.
_OLD_SUFFIXES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

# What PyTorch's wrappers put into names wherever they stand.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")

# The first parts of the names of base models' tensors, beside those in a family's tables.
_BODY = frozenset({"embeddings", "embeddings_project", "encoder", "transformer", "pooler", "layers"})


def body_parts(family: Family) -> frozenset[str]:
    """Returns the first parts of the names of a base model's tensors: DeBERTa's pooler belongs to a head."""
    return (_BODY | _first_parts(family.embeddings, family.final_norm)) - _first_parts(*family.heads.values())


def _first_parts(*tables: Table) -> frozenset[str]:
    return frozenset(row.name.partition(".")[0] for table in tables for row in table.values())


def named(
    tensors: Mapping[str, Tensor], family: Family, files: tuple[Path, ...]
) -> tuple[dict[str, Tensor], tuple[Path, ...], str | None]:
    """Gives `tensors` the names that they have in the family's classes for tasks, such as `bert.embeddings.…`.

    What a wrapper puts before all names (`module.`, `_orig_mod.`, `model.`) goes. A base model's tensors get the family's
    prefix, beside those of a head as well.

    Returns:
        The tensors, `files`, and what was done that transformers itself does not do (None: nothing).

    Raises:
        WeightsError: some names begin with what a wrapper puts there, and others do not, or two names become one.
    """
    changes = []
    wrappers = [word for word in _WRAPPERS if any(word in name for name in tensors)]
    stored: dict[str, tuple[str, Tensor]] = {}
    for name, tensor in tensors.items():
        for today, part in _parts(_todays(_without(name, wrappers)), tensor, family):
            other, _ = stored.setdefault(today, (name, part))
            if other != name:
                raise WeightsError(
                    f"{files[0].name}: expected each tensor once; found '{clipped(other)}' and '{clipped(name)}', two "
                    "names of one. Save the model with the one that is meant"
                )
    found = {name: part for name, (_, part) in stored.items()}
    if wrappers:
        changes.append(f"'{', '.join(wrappers)}' was left out of the names")
    if lead := next(leads(found, family), ""):
        others = sorted(name for name in found if not name.startswith(lead))
        if others:
            raise WeightsError(
                f"{files[0].name}: {len(found) - len(others)} of {len(found)} names begin with '{clipped(lead)}', and these "
                f"do not: {clipped(', '.join(others))}. Save the model itself, without what is around it"
            )
        found = {name.removeprefix(lead): tensor for name, tensor in found.items()}
        changes.append(f"'{clipped(lead)}', with which all names begin, was left out")
    if not any(name.startswith(f"{family.prefix}.") for name in found):
        body = body_parts(family)
        heads = {name for name in found if name.partition(".")[0] not in body}
        if 0 < len(heads) < len(found):  # a base model alone is saved like that
            changes.append(f"'{family.prefix}.' was put before the names that lack it")
        found = {name if name in heads else f"{family.prefix}.{name}": tensor for name, tensor in found.items()}
    return found, files, "; ".join(changes) or None


def _parts(name: str, tensor: Tensor, family: Family) -> Iterator[tuple[str, Tensor]]:
    """Yields a file's tensor under its names in the family's classes; one whose rows cannot be divided stays as it is."""
    names = family.names_in_memory(name)
    if len(names) > 1 and (tensor.ndim == 0 or len(tensor) % len(names)):
        names = (name,)
    yield from zip(names, tensor.chunk(len(names)) if len(names) > 1 else (tensor,), strict=True)


def leads(names: Iterable[str], family: Family) -> Iterator[str]:
    """What stands before the names of word embeddings, the shortest first; empty where that is as it should be."""
    word = family.embeddings["word"].name
    for name in sorted(names, key=len):
        if name == word or name.endswith(f".{word}"):
            lead = name.removesuffix(word)
            yield lead.removesuffix(f"{family.prefix}.") if f".{lead}".endswith(f".{family.prefix}.") else lead


def _without(name: str, words: Iterable[str]) -> str:
    for word in words:
        name = name.replace(word, "")
    return name


def _todays(name: str) -> str:
    for old, new in _OLD_SUFFIXES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
