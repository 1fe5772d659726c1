"""Removal of secrets from messages: those that are known, and what looks like one."""

from __future__ import annotations

import os
import re

HIDDEN = "[hidden]"
_ENVIRONMENT = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SHORTEST = 6  # shorter texts are no secrets, and occur everywhere
# Access tokens of the hub, and the user and password of a URL.
_LOOKS_LIKE = re.compile(r"\b(?:hf|api_org)_(?:oauth_|jwt_)?[A-Za-z0-9]{16,}[\w.-]*|(?<=://)[^/\s]+(?=@)")

_known: set[str] = set()


def register(secret: str | None) -> None:
    """Hides `secret` in all messages from now on; None and texts too short to be one are ignored."""
    if secret is not None and len(secret.strip()) >= _SHORTEST:
        _known.add(secret.strip())


def redacted(text: str) -> str:
    """Hides in `text` the secrets that were registered or are in the environment, and what looks like one."""
    for name in _ENVIRONMENT:
        register(os.environ.get(name))
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN).replace(repr(secret)[1:-1], HIDDEN)
    return _LOOKS_LIKE.sub(HIDDEN, text)


def holds_secret(text: str) -> bool:
    """Says whether `redacted` would change `text`."""
    return redacted(text) != text


def scrub(error: BaseException) -> None:
    """Removes the secrets from the messages of `error` and of all its causes."""
    waiting, seen = [error], set[int]()
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        current.args = tuple(redacted(part) if isinstance(part, str) else part for part in current.args)
        for inner in (current.__cause__, current.__context__):
            if inner is not None:
                waiting.append(inner)
