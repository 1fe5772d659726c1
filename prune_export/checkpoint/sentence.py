"""The files of sentence-transformers beside a network, by which its outputs become an embedding.

modules.json lists the modules; each but the network itself has a folder with a small configuration, and weights if it has
any. Without them sentence-transformers silently takes the mean of the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from exporters.errors import CheckpointError, WeightsError
from prune_export.checkpoint.config_keys import check_config
from prune_export.checkpoint.pickles import check_pickled
from prune_export.checkpoint.safetensors_header import check_header
from prune_export.facts.file_names import PICKLED, SAFETENSORS, SENTENCE_FILES
from prune_export.files.links import inside, plain_name
from prune_export.files.reading import ReadingError, clipped, is_file, read_json

MODULES = "modules.json"
_MOST_MODULES = 100
_OWN = "sentence_transformers."


class _Module(msgspec.Struct):
    path: str
    type: str


def sentence_files(folder: Path) -> tuple[str, ...]:
    """Names the files of sentence-transformers in `folder`, relative to it, that are copied with its network.

    They are plain JSON and weights of known names, in the folders that modules.json lists.

    Raises:
        CheckpointError: one cannot be read, leads out of the folder, or would make sentence-transformers run other code than
            its own.
    """
    folders = {module.path for module in _modules(folder)}
    names = [name for name in SENTENCE_FILES if name.rpartition("/")[0] in {"", *folders} and is_file(folder / name)]
    for name in names:
        _check(folder, name)
    return tuple(names)


def embeds_sentences(folder: Path) -> bool:
    """Says whether sentence-transformers pools the hidden states of the network in `folder`.

    Raises:
        CheckpointError: as `sentence_files`.
    """
    return any(module.type.rpartition(".")[2] == "Pooling" for module in _modules(folder))


def left_behind(folder: Path) -> tuple[str, ...]:
    """Names the folders of modules in `folder` whose files are not copied, because their type is not known."""
    known = {name.rpartition("/")[0] for name in SENTENCE_FILES}
    paths = [module.path for module in _modules(folder) if module.path not in known]
    return tuple(clipped(path) for path in paths if (folder / path).is_dir() and any((folder / path).iterdir()))


_MODULES: Any = Annotated[list[_Module], msgspec.Meta(max_length=_MOST_MODULES)]


def _modules(folder: Path) -> Iterator[_Module]:
    path = folder / MODULES
    try:
        modules: list[_Module] = read_json(path, _MODULES)
    except ReadingError as error:
        if error.missing:
            return
        raise CheckpointError(
            f"{path}: expected the list of modules of sentence-transformers: {error}. Mend it, or remove it to export "
            "the network alone"
        ) from error
    for module in modules:
        if module.path and not plain_name(module.path):
            raise CheckpointError(f"{path}: the module '{clipped(module.path)}' does not lie in the folder; refused")
        if not module.type.startswith(_OWN) or not all(part.isidentifier() for part in module.type.split(".")):
            raise CheckpointError(
                f"{path}: the module '{clipped(module.type)}' runs code of its own, which never goes along; expected "
                f"modules of sentence-transformers. Remove {MODULES} to export the network alone"
            )
        yield module


def _check(folder: Path, name: str) -> None:
    try:
        path = inside(folder, name)
        if path.name == SAFETENSORS:
            check_header(path)
        elif path.name == PICKLED:
            check_pickled(path)
        elif path.name != MODULES:
            check_config(read_json(path, dict[str, Any]), path)
    except (ReadingError, WeightsError) as error:
        raise CheckpointError(
            f"{folder / name}: {error}; expected a file of sentence-transformers, because it goes along. Mend it, or "
            f"remove it and {MODULES} to export the network alone"
        ) from error
