"""Fixtures: where the real data lies, and the published structures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from exporters import runtime, secrets
from exporters.errors import ProviderError
from exporters.providers import CUDA

settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("default")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that a test does is noted among the state files of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words that a test gives as a token are hidden in its own messages alone."""
    monkeypatch.setattr(secrets, "_known", set(secrets._known))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real checkpoints and data: ../shared, or PRUNE_EXPORT_DATA."""
    folder = Path(os.environ.get("PRUNE_EXPORT_DATA", ROOT.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no real checkpoints in {folder}; PRUNE_EXPORT_DATA says where they are")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first, so that no process waits for another at the end; cuda where what they need is there."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    missing: dict[str, str] = {}
    for item in items:
        marker = item.get_closest_marker("cuda")
        if marker is None:
            continue
        needed = marker.kwargs.get("by", "onnxruntime")
        if needed not in missing:
            missing[needed] = _why_not(needed)
        if missing[needed]:
            item.add_marker(pytest.mark.skip(reason=missing[needed]))


def _why_not(needed: str) -> str:
    """Why "onnxruntime" or "torch" cannot use a GPU here; empty where it can."""
    try:
        if needed == "torch":
            CUDA.check_torch("--device")
        else:
            runtime.check_provider("cuda")
    except ProviderError as error:
        return str(error)
    return ""
