"""The tokenizer beside a model, and the longest input of the model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from exporters.errors import CheckpointError
from prune_export.checkpoint.folder import check_folder, own_files
from prune_export.checkpoint.raw_config import read_raw_config
from prune_export.checkpoint.remote_code import no_remote_code
from prune_export.checkpoint.tokenizer_keys import check_tokenizer
from prune_export.families import FAMILIES
from prune_export.files.reading import ReadingError, is_file, one_line, shown

# Without one of these transformers 5 makes up a tokenizer that knows no word.
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")

_SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model")


def load_tokenizer(folder: Path) -> Any:
    """Loads the tokenizer in `folder`; a slow one if its class has nothing faster, which knows no character offsets.

    Raises:
        CheckpointError: there is none, it cannot be loaded, has no padding token, or more tokens than the model has rows
            for.
    """
    check_folder(folder)
    if not any(is_file(folder / name) for name in _VOCABULARIES):
        raise CheckpointError(
            f"'{folder}': needs a tokenizer beside the model; found none of {', '.join(_VOCABULARIES)}"
        )
    tokenizer = open_tokenizer(folder)
    if tokenizer.pad_token is None:
        raise CheckpointError(f"'{folder}': its tokenizer has no padding token, which batches need")
    rows = read_config(folder).get("vocab_size")
    if isinstance(rows, int) and len(tokenizer) > rows:
        raise CheckpointError(f"'{folder}': its tokenizer has {len(tokenizer)} tokens, and the model rows for {rows}")
    return tokenizer


def check_fast(tokenizer: Any) -> None:
    """Checks that `tokenizer` knows the characters of each token.

    Raises:
        CheckpointError: it cannot.
    """
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"'{tokenizer.name_or_path}': answers in a text need a fast tokenizer (tokenizer.json), which knows the place "
            f"of each token; found {type(tokenizer).__name__}"
        )


def open_tokenizer(folder: Path) -> Any:
    """Loads the tokenizer in `folder` by transformers' own classes, and of the folder's own files alone.

    Raises:
        CheckpointError: it cannot be loaded, would run its own code, or is of a class that is not known to be plain.
    """
    from transformers import AutoTokenizer

    check_folder(folder)
    check_tokenizer(folder)
    files = own_files(folder)
    if is_file(folder / "config.json"):  # which transformers reads for the tokenizer's class
        model_type = read_config(folder).get("model_type")
        if model_type not in FAMILIES:  # some configurations load others, from the hub too, and run their code
            raise CheckpointError(
                f"'{folder}': needs a tokenizer beside the model, for a model_type of {', '.join(FAMILIES)}; found "
                f"{shown(model_type)}"
            )
    try:
        with no_remote_code():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **files)
    except BaseException as error:  # transformers raises many kinds, and tokenizers panics of Rust
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"'{folder}': needs a tokenizer beside the model; {_missing_package(folder) or one_line(error)}"
        ) from error


def _missing_package(folder: Path) -> str | None:
    """Says what to install to read a SentencePiece vocabulary, if that is all there is of the tokenizer."""
    if is_file(folder / "tokenizer.json") or not any(is_file(folder / name) for name in _SENTENCEPIECE):
        return None
    if find_spec("sentencepiece") is not None:
        return None
    return (
        "reading its SentencePiece vocabulary takes sentencepiece: pip install 'prune-export[sentencepiece]' (or save the "
        "tokenizer with tokenizer.json)"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json in `folder`.

    Raises:
        CheckpointError: there is none, it is not a JSON object, or its sizes are beyond the limits.
    """
    path = folder / "config.json"
    try:
        return read_raw_config(path)
    except ReadingError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def longest_input(config: dict[str, Any]) -> int:
    """Returns the longest sequence, in tokens, for which a model with this configuration has positions."""
    rows = int(config.get("max_position_embeddings") or 512)
    family = FAMILIES.get(str(config.get("model_type")))
    if family is not None and family.positions == "from_padding":
        pad = config.get("pad_token_id")
        return rows - (1 if pad is None else int(pad)) - 1
    return rows
