"""Data sets of the `datasets` library: by the hub's name, or saved in a folder by `save_to_disk`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporters.errors import DataError, MissingDependencyError, UsageError
from exporters.secrets import holds_secret
from prune_export.data.allowed import check_builder, check_name, check_saved
from prune_export.data.columns import KNOWN, is_heading
from prune_export.data.examples import Data
from prune_export.data.glue_tasks import MISMATCHED, glue_task
from prune_export.data.rows import rows_data
from prune_export.data.splits import Purpose, choose_split, is_split, is_training
from prune_export.hub_token import register_stored_token

_SAVED = ("dataset_info.json", "dataset_dict.json")


def is_saved(folder: Path) -> bool:
    """Says whether `save_to_disk` wrote `folder`."""
    return any((folder / name).is_file() for name in _SAVED)


def read_saved(
    folder: Path, *, dataset: str | None = None, split: str | None = None, purpose: Purpose = "evaluation"
) -> Data:
    """Reads the examples of a saved data set; of a `DatasetDict`, those of `split` (None: of the one for `purpose`).

    Raises:
        DataError, UsageError, MissingDependencyError: as for `read_named`.
    """
    library = _library()
    check_saved(folder)
    try:
        loaded = library.load_from_disk(str(folder))
    except Exception as error:  # the library raises many kinds for what it cannot read
        raise DataError(f"{folder}: datasets cannot load it: {' '.join(str(error).split())[:300]}") from error
    return _convert(loaded, str(folder), dataset, split, purpose)


def read_named(
    name: str, *, dataset: str | None = None, split: str | None = None, purpose: Purpose = "evaluation"
) -> Data:
    """Reads the examples of `name`, `name:split`, `name:config` or `name:config:split`: `squad`, `glue:sst2:validation`.

    Without a split in the name, `split` says which, and otherwise `purpose`. `dataset` is the GLUE task if the name does not
    say it.

    Raises:
        DataError: it cannot be loaded, or has the columns of no task.
        UsageError: `dataset` names no GLUE task.
        MissingDependencyError: `datasets` is not installed.
    """
    if holds_secret(name):
        raise DataError("the data set's name holds what looks like a token or a password; set HF_TOKEN instead")
    path, *parts = name.split(":")
    if len(parts) > 2 or not all([path, *parts]):
        raise DataError(f"'{name}': expected NAME, NAME:SPLIT, NAME:CONFIG or NAME:CONFIG:SPLIT")
    named = parts.pop() if parts and (len(parts) == 2 or is_split(parts[-1])) else None
    if named is not None and split not in (None, named):
        raise UsageError(f"--split {split}: '{name}' names another, '{named}'")
    config = parts[0] if parts else None
    check_name(path, name)
    library = _library()
    if not Path(library.config.HF_DATASETS_CACHE).is_absolute():  # it holds "~": a folder would be called that
        raise DataError(f"'{name}': there is no home to keep downloads in; set HF_HOME")
    register_stored_token()
    try:
        builder = library.load_dataset_builder(path, config)
        check_builder(builder, name)
        builder.download_and_prepare()
        loaded = builder.as_dataset(split=named)
    except DataError:
        raise
    except Exception as error:  # from the network, the hub and the library: many kinds
        raise DataError(
            f"'{name}': no such file, and datasets cannot load it by that name: {' '.join(str(error).split())[:300]}"
        ) from error
    declared = dataset or (config if config and glue_task(config) else None)
    if named is not None:
        name, purpose = name.removesuffix(f":{named}"), "training" if is_training(named) else purpose
    return _convert(loaded, name, declared, None if named else split, purpose)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            "data sets by name need the datasets library: pip install 'prune-export[evaluate]'"
        ) from error
    return datasets


def _convert(loaded: Any, name: str, dataset: str | None, split: str | None, purpose: Purpose) -> Data:
    notes: tuple[str, ...] = ()
    chosen = None
    if isinstance(loaded, dict):
        split_name = split or (
            "validation_mismatched" if _mismatched(dataset, loaded) and purpose != "training" else None
        )
        chosen = choose_split(list(loaded), split_name, purpose, name)
        loaded, split = loaded[chosen], None
    elif loaded.split is not None:  # the only one, and the requested one
        chosen = str(loaded.split)
        if split is not None and "split" not in loaded.column_names:
            chosen = choose_split([chosen], split, purpose, name)
            split = None
        if is_training(chosen) and split is None and purpose == "evaluation":
            notes = (f"it calls itself the split '{chosen}'; figures on what a model was trained on mean little",)
    features = loaded.features
    known = [column for column in loaded.column_names if column.strip().lower() in KNOWN]
    data = rows_data(
        list(_stored(loaded.select_columns(known) if is_heading(known) else loaded)),
        name,
        dataset=dataset,
        split=split,
        purpose=purpose,
        class_names={column: feature.names for column, feature in features.items() if getattr(feature, "names", None)},
        config_name=str(loaded.info.config_name),
        saved=True,
    )
    return replace(data, split=data.split or chosen, notes=(*notes, *data.notes))


def _mismatched(dataset: str | None, splits: dict[str, Any]) -> bool:
    return dataset is not None and dataset.lower() in MISMATCHED and "validation_mismatched" in splits


def _stored(rows: Any) -> Iterator[dict[str, Any]]:
    """Yields the rows as they are stored: a column of pictures or sounds names files, which decoding would open."""
    for part in rows.with_format("arrow").iter(1000):
        yield from part.to_pylist()
