"""The journal of transactions, in the user's state folder: no folder that was downloaded can write there.

An entry names its hidden folder by a secret that nobody knew before the folder was made, so no folder can be made to fit
an entry. A run holds a lock on its entry; an entry that nobody has locked belongs to a killed run. An entry that cannot
be read is ignored.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from prune_export.files.state import state_folder
from prune_export.files.writing import write_file

Identity = tuple[int, int, int]
"""Inode, size and time of change of a file: enough to tell a file of ours from one that replaced it."""


class Entry(msgspec.Struct):
    """A transaction: `token` is its secret.

    `aside` is the hidden folder in which it is prepared, and `inode` that folder's (0: not made yet); `folder` is where the
    files go. `phase` says what is being done:

    preparing   nothing outside of `aside` has been touched
    exchanging  the prepared folder, whose inode is `staged`, is exchanged for `folder`
    placing     `away` are moved from `folder` into aside, then `placed` are moved from aside into `folder`
    discarding  all is in place; what was there before is removed

    `removable` are the files of an earlier output, relative to `folder`: nothing else of it is removed.
    """

    token: str
    aside: str
    folder: str
    inode: int = 0
    phase: Literal["preparing", "exchanging", "placing", "discarding"] = "preparing"
    staged: int = 0
    away: tuple[str, ...] = ()
    placed: dict[str, Identity] = {}
    removable: tuple[str, ...] = ()
    version: Literal[1] = 1

    def is_plain(self) -> bool:
        """Says whether all names are of the form that we write: single names, relative paths, absolute folders."""
        names = (*self.away, *self.placed, *(part for path in self.removable for part in path.split("/")))
        paths = Path(self.aside), Path(self.folder)
        return all(map(is_plain_name, names)) and all(path.is_absolute() and ".." not in path.parts for path in paths)


def is_plain_name(name: str) -> bool:
    """Says whether `name` is one component of a path, and names something inside of a folder."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def new_token() -> str:
    """Makes the secret of a new transaction."""
    return secrets.token_hex(16)


def write(entry: Entry) -> bool:
    """Writes `entry` to the disk; returns False if it cannot be kept."""
    folder = state_folder("transactions")
    if folder is None:
        return False
    # Python's own JSON: names of files may hold bytes that are no UTF-8.
    content = json.dumps(msgspec.to_builtins(entry)).encode()
    try:
        write_file(folder / f"{entry.token}.json", content, overwrite=True, mode=0o600)
    except OSError:
        return False
    return True


def lock(token: str) -> int | None:
    """Locks the entry `token`, which need not exist yet; returns the lock's descriptor, None on a system without locks.

    Raises:
        BlockingIOError: a run that is alive holds the lock.
    """
    folder = state_folder("transactions")
    if folder is None:
        return None
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(folder / f"{token}.lock", flags, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None  # a file system without locks
    return descriptor


def remove(entry: Entry) -> None:
    """Forgets `entry`, as far as that is possible."""
    folder = state_folder("transactions")
    for ending in ("json", "lock"):
        with suppress(OSError):
            if folder is not None:
                (folder / f"{entry.token}.{ending}").unlink()


def entries() -> list[Entry]:
    """Reads all transactions that were begun and not ended, alive or not."""
    folder = state_folder("transactions")
    if folder is None:
        return []
    return [entry for path in sorted(folder.glob("*.json")) if (entry := read(path.stem)) is not None]


def read(token: str) -> Entry | None:
    """Reads the entry of `token`; None if there is none that can be read."""
    folder = state_folder("transactions")
    if folder is None:
        return None
    try:
        entry = msgspec.convert(json.loads((folder / f"{token}.json").read_bytes()), Entry)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return entry if entry.token == token and entry.is_plain() else None
