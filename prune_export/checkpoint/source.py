"""Where a checkpoint is: a folder, or a repository on the model hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from exporters.errors import CheckpointError

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
SLIM = "slim.safetensors"
PLAN_FILE = "pruning.json"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "sentencepiece.bpe.model",
    "spiece.model",
)

_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint's files in a local folder, and what the user called it. `revision` is the hub's commit."""

    name: str
    folder: Path
    revision: str | None


def resolve(
    model: str | Path, *, revision: str | None = None, cache_dir: str | Path | None = None, token: str | None = None
) -> Source:
    """Finds the checkpoint `model`: an existing folder, or else a hub id, downloaded into the cache.

    Offline use is huggingface_hub's: `HF_HUB_OFFLINE=1`, or what the cache holds when the hub cannot be reached.

    Raises:
        CheckpointError: no such folder, repository or revision, or the hub cannot be reached and the cache is empty.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"--revision {revision} was given, but '{model}' is a folder; revisions are the hub's"
            )
        return Source(str(model), path, None)
    if path.exists():
        raise CheckpointError(f"'{model}' is a file; expected a checkpoint's folder or a hub id such as owner/name")
    if not _REPOSITORY.fullmatch(str(model)) or str(model).startswith("."):
        raise CheckpointError(f"'{model}': no such folder, and not a hub id (owner/name) either")
    return _download(str(model), revision, cache_dir, token)


def _download(repository: str, revision: str | None, cache_dir: str | Path | None, token: str | None) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        patterns = ["config.json", PLAN_FILE, *TOKENIZER_FILES, *_weights_patterns(repository, revision, token)]
        folder = snapshot_download(
            repository, revision=revision, cache_dir=cache_dir, token=token, allow_patterns=patterns
        )
    except GatedRepoError as error:
        raise CheckpointError(f"'{repository}' is gated: accept its terms on the hub and pass --token") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"'{repository}' has no revision '{revision}' on the hub") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"'{repository}': no such folder here and no such repository on the hub (a private one needs --token)"
        ) from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"'{repository}': no such folder here, the hub cannot be reached, and the cache does not hold it. "
            "Check the connection (or HF_HUB_OFFLINE, HF_ENDPOINT), or give --cache-dir the cache that has it"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"'{repository}': the download from the hub failed: {_one_line(error)}") from error
    return Source(repository, Path(folder), Path(folder).name)


def _weights_patterns(repository: str, revision: str | None, token: str | None) -> list[str]:
    """The repository's weights in the best form that it has; every form where the hub cannot be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    forms = (
        [SLIM],
        [SAFETENSORS],
        [SAFETENSORS_INDEX, "model-*.safetensors"],
        [PICKLED],
        [PICKLED_INDEX, "pytorch_model-*.bin"],
    )
    everything = [pattern for form in forms for pattern in form]
    try:
        files = HfApi().list_repo_files(repository, revision=revision, token=token)
    except HfHubHTTPError:
        raise
    except (OfflineModeIsEnabled, ConnectionError, OSError):
        return everything
    except Exception as error:  # the HTTP client differs between versions of huggingface_hub (requests, httpx)
        if "Connect" in type(error).__name__ or "Timeout" in type(error).__name__:
            return everything
        raise
    return next((form for form in forms if form[0] in files), everything)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
