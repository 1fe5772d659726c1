"""Secrets are kept out of messages: what is known to be one, and what looks like one."""

from __future__ import annotations

import os
import re

HIDDEN = "[hidden]"
_ENVIRONMENT = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SHORTEST = 6  # what is shorter hides nothing and is in every text
# Access tokens of the hub, and the user and password of a URL.
_LOOKS_LIKE = re.compile(r"\b(?:hf|api_org)_(?:oauth_|jwt_)?[A-Za-z0-9]{16,}[\w.-]*|(?<=://)[^/\s]+(?=@)")

_known: set[str] = set()


def register(secret: str | None) -> None:
    """Makes `secret` one that no message shows; None and what is too short to be one are left out."""
    if secret is not None and len(secret.strip()) >= _SHORTEST:
        _known.add(secret.strip())


def redacted(text: str) -> str:
    """`text` without the secrets that were registered or are in the environment, and without what looks like one."""
    for name in _ENVIRONMENT:
        register(os.environ.get(name))
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN).replace(repr(secret)[1:-1], HIDDEN)
    return _LOOKS_LIKE.sub(HIDDEN, text)


def holds_secret(text: str) -> bool:
    """Whether `redacted` would change `text`."""
    return redacted(text) != text


def scrub(error: BaseException) -> None:
    """Takes the secrets out of the messages of `error` and of all that it came from."""
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        found.args = tuple(redacted(part) if isinstance(part, str) else part for part in found.args)
        for inner in (found.__cause__, found.__context__):
            if inner is not None:
                waiting.append(inner)
