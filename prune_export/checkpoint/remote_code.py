"""The last barrier against remote code: Python that comes with a model is never imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class RemoteCodeError(Exception):
    """Code that comes with a model was about to be imported."""


@contextmanager
def no_remote_code() -> Iterator[None]:
    """Makes transformers raise RemoteCodeError, while the block runs, where it would import a model's own code.

    Every import of such code goes through one function of `transformers.dynamic_module_utils`, whatever `trust_remote_code`
    was before: some classes ask by themselves, or pass on a value of config.json.
    """
    from transformers import dynamic_module_utils as module

    before = module.get_class_in_module
    module.get_class_in_module = _refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        module.get_class_in_module = before


def _refuse(name: str, path: Any, **_: Any) -> NoReturn:
    raise RemoteCodeError(f"it would run {name} of its own code ({path}), which is never run here")
