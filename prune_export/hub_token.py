"""The access token for the hub: checked before it is used, never shown."""

from __future__ import annotations

from exporters import secrets
from exporters.errors import UsageError


def checked_token(token: str | None) -> str | None:
    """`token` without blanks around it; None where there is none. It, and the stored one, are kept out of all messages.

    Raises:
        UsageError: it cannot be a token; the message does not show it.
    """
    from huggingface_hub import get_token

    secrets.register(get_token())
    token = (token or "").strip()
    if not token:
        return None
    secrets.register(token)
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            "--token: expected printable ASCII without blanks, such as hf_… from the hub's settings; found other characters"
        )
    return token
