"""The writer of plain networks as checkpoints that any program of the Hugging Face world loads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exporters.errors import CheckpointError
from prune_export.checkpoint.beside import check_beside, copy_beside, files_beside
from prune_export.checkpoint.load import Checkpoint
from prune_export.facts.file_names import CONFIG, SAFETENSORS, SUBARCHITECTURE
from prune_export.facts.format import Format
from prune_export.files.reading import ReadingError, read_json
from prune_export.files.tensors import save_tensors
from prune_export.files.transaction import transaction
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.folder_types import PLAIN
from prune_export.subarchitecture.plain_network import PlainNetwork

FORMAT = Format("prune-export/plain", 1)

# The keys that name the width of the states in 1_Pooling/config.json of sentence-transformers, and modules that have weights
# for that width.
_WIDTHS = ("word_embedding_dimension", "embedding_dimension")
_WITH_WEIGHTS = ("_Dense/", "_LayerNorm/")


def write_plain(
    parent: Checkpoint, network: PlainNetwork, folder: str | Path, *, overwrite: bool = False, **provenance: Any
) -> None:
    """Writes `network`, made of `parent`, into a new `folder`.

    These are config.json, model.safetensors, the parent's tokenizer, its files of sentence-transformers with the new width,
    and subarchitecture.json: the parent's layers, heads and columns that were taken, the fits, and `provenance`.

    Raises:
        CheckpointError: a module of sentence-transformers has weights for the parent's width, or a file leads out of its
        folder. OutputError: the folder is there already, is the parent's own, or cannot be written.
    """
    place = folder_destination(folder, PLAIN, overwrite=overwrite)
    source = parent.source.folder
    place.refuse_source(source)
    names = tuple(name for name in files_beside(source) if name != CONFIG)
    is_narrower = network.shape.hidden < parent.encoder.hidden_size
    changed = dict(_pooling_files(source, names, network.shape.hidden)) if is_narrower else {}
    copied = tuple(name for name in names if name not in changed)
    check_beside(source, copied)
    place.check(names)
    record = FORMAT.marked(
        {
            "files": [*names, CONFIG, SAFETENSORS, SUBARCHITECTURE],
            "shape": network.shape._asdict(),
            "source": parent.source_to_json(),
            "layers": [
                {"layer": layer, "heads": list(heads), "columns": list(columns)}
                for layer, (heads, columns) in zip(network.layers, network.units, strict=True)
            ],
            "held_out_errors": [
                {"layer": fit.layer, "part": fit.part, "before": fit.before, "after": fit.after} for fit in network.fits
            ],
            **provenance,
        }
    )
    with transaction(place.placement) as aside:
        copy_beside(source, aside, copied)
        (aside / CONFIG).write_text(
            json.dumps(_config(parent, network), indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
        for name, content in changed.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        save_tensors(network.tensors, aside / SAFETENSORS)
        (aside / SUBARCHITECTURE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _config(parent: Checkpoint, network: PlainNetwork) -> dict[str, Any]:
    """Returns config.json: the network's configuration, and keys of the parent's that transformers takes out when it reads.

    These are what another version of it needs: version 5 makes `rope_parameters` of ModernBERT's `global_rope_theta`.
    """
    raw = read_json(parent.source.folder / CONFIG, dict[str, Any])
    config: dict[str, Any] = json.loads(network.config.to_json_string(use_diff=False))
    return {key: value for key, value in raw.items() if key not in config and key != "torch_dtype"} | config


def _pooling_files(folder: Path, names: tuple[str, ...], hidden: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the configurations of sentence-transformers that name the width, with the new one."""
    for name in names:
        if any(part in name for part in _WITH_WEIGHTS):
            raise CheckpointError(
                f"{folder / name}: a module of sentence-transformers with weights for the parent's width, which a network "
                f"of hidden size {hidden} cannot use; expected none, or the parent's hidden size"
            )
        if not name.endswith("Pooling/config.json"):
            continue
        try:
            content = read_json(folder / name, dict[str, Any])
        except ReadingError as error:
            raise CheckpointError(
                f"{folder / name}: {error}; expected a configuration of sentence-transformers"
            ) from error
        yield name, content | {key: hidden for key in _WIDTHS if key in content}
