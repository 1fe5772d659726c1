"""A student of fewer layers: some of a network's layers, under the same head, as a checkpoint of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from exporters.errors import UsageError
from prune_export.checkpoint.beside import check_beside, copy_beside, files_beside
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.weights import read_weights
from prune_export.facts.file_names import CONFIG, SAFETENSORS
from prune_export.families.names import Family
from prune_export.files.tensors import save_tensors
from prune_export.files.transaction import transaction
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.folder_types import DENSE


def even_layers(count: int, layers: int) -> tuple[int, ...]:
    """`count` of `layers` layers at even distances, counted from 0: the last of each block of them.

    So that the student's layer m stands where TinyBERT's mapping (`hidden.even_map`) looks for its teacher.
    """
    return tuple(round((place + 1) * layers / count) - 1 for place in range(count))


def write_student(checkpoint: Checkpoint, keep: Sequence[int], folder: Path) -> None:
    """Writes a checkpoint with the layers `keep` of `checkpoint`, counted from 0, in that order, into a new `folder`.

    Where all layers share their weights (ALBERT), only their number changes.

    Raises:
        UsageError: `keep` names a layer that is not there, or one twice, or none.
        OutputError: the folder is there already, or cannot be written.
    """
    family, config = checkpoint.family, checkpoint.config
    layers = family.dimensions(config).layers
    if not keep or len(set(keep)) < len(keep) or not all(0 <= layer < layers for layer in keep):
        raise UsageError(
            f"method.keep: expected different layers from 0 to {layers - 1}, at least one; found {list(keep)}"
        )
    check_beside(checkpoint.source.folder, (CONFIG,))  # the student's says the same
    weights = read_weights(checkpoint.source.folder, family)
    smaller = type(config).from_dict({**config.to_dict(), "num_hidden_layers": len(keep)})
    smaller.num_hidden_layers = len(keep)
    with transaction(folder_destination(folder, DENSE, overwrite=False).placement) as aside:
        smaller.to_json_file(aside / CONFIG, use_diff=False)
        copied = [name for name in files_beside(checkpoint.source.folder) if name != CONFIG]
        copy_beside(checkpoint.source.folder, aside, copied)
        save_tensors(kept_layers(weights, family, config, keep), aside / SAFETENSORS)


def kept_layers(tensors: Mapping[str, Tensor], family: Family, config: Any, keep: Sequence[int]) -> dict[str, Tensor]:
    """The tensors of a network with the layers `keep` alone, under its names."""
    old = [f"{path}." for path in family.layer_paths(config)]
    found = {name: value for name, value in tensors.items() if not any(name.startswith(path) for path in old)}
    for place, layer in enumerate(keep):
        for name, value in tensors.items():
            if name.startswith(old[layer]):
                found[old[place] + name.removeprefix(old[layer])] = value
    return found
