"""The source of a checkpoint: a folder, or a repository on the model hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exporters.errors import CheckpointError, UsageError, WeightsError
from exporters.secrets import holds_secret
from prune_export.facts.file_names import (
    PICKLED,
    PICKLED_INDEX,
    PLAN_FILE,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    SENTENCE_FILES,
    SLIM,
    TOKENIZER_FILES,
)
from prune_export.files.reading import ReadingError, clipped, expanded, user_path
from prune_export.hub_token import checked_token, register_stored_token
from prune_export.options.checkpoint import HubAccess
from prune_export.progress import SILENT, Progress

_BESIDE_WEIGHTS = ["config.json", PLAN_FILE, *TOKENIZER_FILES, *SENTENCE_FILES]

# The forms that weights may have, the best first. A form is there if its first file is; the rest are patterns.
_FORMS = (
    [SLIM],
    [SAFETENSORS],
    [SAFETENSORS_INDEX, "model-*.safetensors"],
    [PICKLED],
    [PICKLED_INDEX, "pytorch_model-*.bin"],
)


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint's files in a local folder, and what the user called it. `revision` is the hub's commit."""

    name: str
    folder: Path
    revision: str | None


def holds_weights(folder: Path) -> bool:
    """Says whether `folder` holds weights in one of the forms that are read."""
    return any((folder / form[0]).is_file() for form in _FORMS)


DEFAULT_HUB = HubAccess()


def resolve(model: str | Path, hub: HubAccess = DEFAULT_HUB, *, progress: Progress = SILENT) -> Source:
    """Finds the checkpoint `model`: an existing folder, or else a hub id, downloaded into the cache.

    Offline use is huggingface_hub's: `HF_HUB_OFFLINE=1`, or what the cache holds when the hub cannot be reached.

    Raises:
        CheckpointError: no such folder, repository or revision, the hub refuses access, the download fails, or the hub
            cannot be reached and the cache does not hold the checkpoint.
        WeightsError: the repository has no weights.
        UsageError: the token is none, the model's name holds one, or that name is empty.
    """
    progress.pause()
    token = checked_token(hub.token)
    if holds_secret(str(model)):
        raise UsageError(
            "--model: the name holds what looks like a token or a password; give that by --token or HF_TOKEN"
        )
    if not str(model):
        raise UsageError("the model's name is an empty string; expected a folder or a hub id such as owner/name")
    try:
        path = user_path(model)
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ReadingError) as error:  # no permission, a name too long, the home of an unknown user
        raise CheckpointError(f"'{clipped(str(model))}' cannot be looked at: {_one_line(error)}") from error
    if is_folder:
        if hub.revision is not None:
            raise CheckpointError(
                f"--revision {hub.revision} was given, but '{model}' is a folder; revisions are the hub's"
            )
        return Source(str(model), path, None)
    if exists:
        raise CheckpointError(f"'{model}' is a file; expected a checkpoint's folder or a hub id such as owner/name")
    cache_dir = None if hub.cache_dir is None else expanded(hub.cache_dir)
    folder = _from_hub(str(model), hub.revision, cache_dir, token)
    return Source(str(model), folder, folder.name)  # the cache names a snapshot's folder by its commit


def _from_hub(repository: str, revision: str | None, cache_dir: Path | None, token: str | None) -> Path:
    """Returns the snapshot's folder in the cache, filled from the hub if that can be reached."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_ETAG_TIMEOUT
    from huggingface_hub.errors import HFValidationError

    if cache_dir is None and not Path(HF_HUB_CACHE).is_absolute():  # it holds "~": a folder would be called that
        raise CheckpointError(
            f"'{repository}': there is no home to keep downloads in; give --cache-dir, or set HF_HOME"
        )
    register_stored_token()
    failures = _failures()
    try:
        siblings = HfApi().model_info(repository, revision=revision, token=token, timeout=HF_HUB_ETAG_TIMEOUT).siblings
    except HFValidationError as error:
        raise CheckpointError(f"'{repository}': no such folder, and not a hub id (owner/name) either") from error
    except failures as error:
        if refusal := _refusal(error, repository, revision):
            raise CheckpointError(refusal) from error
        return _from_cache(repository, revision, cache_dir, error)
    names = {file.rfilename for file in siblings or ()}
    form = next((form for form in _FORMS if form[0] in names), None)
    if form is None:
        expected = ", ".join(form[0] for form in _FORMS)
        raise WeightsError(f"'{repository}': no weights on the hub; expected one of {expected}")
    try:
        # The weights come last, so that a cache that holds them holds all: offline, nothing else tells.
        folder = snapshot_download(
            repository, revision=revision, cache_dir=cache_dir, token=token, allow_patterns=_BESIDE_WEIGHTS
        )
        commit = Path(folder).name
        snapshot_download(repository, revision=commit, cache_dir=cache_dir, token=token, allow_patterns=form)
    except failures as error:
        cause = f"the download from the hub failed; run the command again. The cause: {_root(error)}"
        raise CheckpointError(_refusal(error, repository, revision) or f"'{repository}': {cause}") from error
    if not (Path(folder) / form[0]).is_file():  # snapshot_download takes what the cache has if the hub goes away
        raise CheckpointError(f"'{repository}': the hub stopped answering in the download; run the command again")
    return Path(folder)


def _from_cache(repository: str, revision: str | None, cache_dir: Path | None, cause: Exception) -> Path:
    """Returns the snapshot's folder in the cache; `cause` is why the hub could not be asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=True,
            allow_patterns=_BESIDE_WEIGHTS,
        )
    except LocalEntryNotFoundError:
        folder = None
    if folder is None or not holds_weights(Path(folder)):
        missing = f"revision '{revision}'" if revision is not None else "it"
        raise CheckpointError(
            f"'{repository}': no such folder here, the hub cannot be reached, and the cache does not hold all of {missing}. "
            "Check the connection (or HF_HUB_OFFLINE, HF_ENDPOINT), or give --cache-dir the cache that has it. "
            f"The cause: {_root(cause)}"
        ) from cause
    return Path(folder)


def _failures() -> tuple[type[Exception], ...]:
    """Returns the types of errors that huggingface_hub raises when a request fails.

    OSError covers requests (huggingface_hub 0.x), ValueError an answer that is not the hub's JSON (a login page, say),
    RuntimeError hf_xet's transfers; httpx (1.x) has a tree of its own.
    """
    try:
        from httpx import HTTPError
    except ImportError:
        return (OSError, ValueError, RuntimeError)
    return (OSError, ValueError, RuntimeError, HTTPError)


def _refusal(error: Exception, repository: str, revision: str | None) -> str | None:
    """Explains the hub's refusal; None if `error` is not one."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):  # before RepositoryNotFoundError, which it is too
        return f"'{repository}' is gated: accept its terms on the hub and pass --token"
    if isinstance(error, RevisionNotFoundError):
        return f"'{repository}' has no revision '{revision or 'main'}' on the hub"
    if isinstance(error, RepositoryNotFoundError):
        return f"'{repository}': no such folder here and no such repository on the hub (a private one needs --token)"
    if isinstance(error, HfHubHTTPError) and error.response is not None and error.response.status_code in (401, 403):
        return f"'{repository}': the hub refuses access; check --token. The cause: {_one_line(error)}"
    return None


def _root(error: BaseException) -> str:
    """Returns the message of the first error: the HTTP clients wrap "Connection refused" in up to three of their own."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
