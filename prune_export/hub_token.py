"""The access token for the hub: checked before it is used, never shown."""

from __future__ import annotations

from contextlib import suppress

from exporters import secrets
from exporters.errors import UsageError


def checked_token(token: str | None) -> str | None:
    """`token` without blanks around it; None where there is none. No message shows it.

    Raises:
        UsageError: it cannot be a token; the message does not show it.
    """
    token = (token or "").strip()
    if not token:
        return None
    secrets.register(token)
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            "--token: expected printable ASCII without blanks, such as hf_… from the hub's settings; found other characters"
        )
    return token


def register_stored_token() -> None:
    """Keeps the token that huggingface_hub would use out of all messages."""
    from huggingface_hub import get_token

    with suppress(OSError, ValueError):  # where it cannot be read, nobody sends it
        secrets.register(get_token())
