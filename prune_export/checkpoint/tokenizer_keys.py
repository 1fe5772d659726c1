"""The keys of a tokenizer's configuration by which transformers would run code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporters.errors import CheckpointError
from prune_export.files.reading import ReadingError, read_json

_CONFIG = "tokenizer_config.json"
_REFUSED = (
    "trust_remote_code",
    "auto_map",
    "gguf_file",
    "tokenizer_object",
    "from_slow",
    "init_inputs",
    "__slow_tokenizer",
)

# Slow tokenizers for models of our families, each looked through: they read vocab.txt and bpe.codes, and nothing else.
_PLAIN = ("PhobertTokenizer", "BertweetTokenizer")


def check_tokenizer(folder: Path) -> None:
    """Checks the tokenizer's configuration in `folder`, and the class that it or config.json names.

    Raises:
        CheckpointError: it names code of its own, a file elsewhere, or a class that is not a fast tokenizer of transformers.
    """
    config = _read(folder / _CONFIG)
    for key, value in config.items():
        if value in (None, False, [], {}, ""):
            continue
        if key in ("auto_map", "trust_remote_code"):
            raise CheckpointError(
                f"{folder / _CONFIG}: has {key}: this tokenizer runs its own code, which is never run here; "
                f"convert it to a fast tokenizer (tokenizer.json), and remove {key}"
            )
        if key in _REFUSED:
            raise CheckpointError(
                f"{folder / _CONFIG}: has {key}, which makes transformers read another file than the folder's; remove it"
            )
    named = config.get("tokenizer_class") or _read(folder / "config.json").get("tokenizer_class")
    if named is not None and not _is_fast(named):
        raise CheckpointError(
            f"'{folder}': needs a fast tokenizer (tokenizer.json) of a class of transformers, or one of "
            f"{', '.join(_PLAIN)}; found {str(named)[:80]!r}"
        )


def _read(path: Path) -> dict[str, Any]:
    """Reads a JSON file, if there is one; NaN and lone surrogates, which transformers takes, are refused."""
    try:
        return read_json(path, dict[str, Any])
    except ReadingError as error:
        if error.missing:
            return {}
        raise CheckpointError(f"{path}: {error}") from error


def _is_fast(name: Any) -> bool:
    """Says whether transformers loads a tokenizer of the class `name` by the library `tokenizers`, or not at all.

    The other classes are Python that runs freely: some start programs, unpickle, or load further models. Those of `_PLAIN`
    only read their vocabulary.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if not isinstance(name, str) or not name.isidentifier():
        return False
    if name in _PLAIN:
        return True
    names = (f"{name.removesuffix('Fast')}Fast", name)
    tokenizer_class = next(
        (candidate for candidate in map(tokenizer_class_from_name, names) if candidate is not None), None
    )
    return tokenizer_class is None or (
        isinstance(tokenizer_class, type) and issubclass(tokenizer_class, PreTrainedTokenizerFast)
    )
