"""The tokenizer that lies beside a model, and how long its inputs may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exporters.errors import CheckpointError
from prune_export.checkpoint.config_keys import check_config
from prune_export.checkpoint.tokenizer_keys import check_tokenizer
from prune_export.families import FAMILIES

# Without one of these transformers 5 makes up a tokenizer that knows no word.
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer in `folder`.

    Raises:
        CheckpointError: there is none, it cannot be loaded, is not a fast one, has no padding token, or more tokens than
            the model has rows for.
    """
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise CheckpointError(
            f"'{folder}': needs a tokenizer beside the model; found none of {', '.join(_VOCABULARIES)}"
        )
    try:
        tokenizer = tokenizer_of(folder)
    except CheckpointError:
        raise
    except Exception as error:  # transformers raises many kinds
        message = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"'{folder}': needs a tokenizer beside the model; transformers cannot load it: {message}"
        ) from error
    if not tokenizer.is_fast:
        raise CheckpointError(f"'{folder}': needs a fast tokenizer (tokenizer.json); found {type(tokenizer).__name__}")
    if tokenizer.pad_token is None:
        raise CheckpointError(f"'{folder}': its tokenizer has no padding token, which batches need")
    rows = read_config(folder).get("vocab_size")
    if isinstance(rows, int) and len(tokenizer) > rows:
        raise CheckpointError(f"'{folder}': its tokenizer has {len(tokenizer)} tokens, and the model rows for {rows}")
    return tokenizer


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer in `folder`, whatever it is, by classes of transformers and files of the folder alone.

    Raises:
        CheckpointError: it would run its own code, read other files, or is not a fast one; transformers raises many more.
    """
    from transformers import AutoTokenizer

    if (folder / "config.json").exists():
        check_config(read_config(folder), folder / "config.json")
    check_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as it stands.

    Raises:
        CheckpointError: there is none, or it is not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a JSON object; found {type(config).__name__}")
    return config


def longest_input(config: dict[str, Any]) -> int:
    """The longest sequence, in tokens, for which a model with this configuration has positions."""
    rows = int(config.get("max_position_embeddings", 512))
    family = FAMILIES.get(str(config.get("model_type")))
    if family is not None and family.positions_from_padding:
        pad = config.get("pad_token_id")
        return rows - (1 if pad is None else int(pad)) - 1
    return rows
