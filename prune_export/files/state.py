"""The user's state folder for this program, where runs note what they are about to move."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import platformdirs


def state_folder(name: str) -> Path | None:
    """Returns the folder `name` for state, made if needed and open to this user alone; None if there can be none.

    It lies in XDG_STATE_HOME or its default. Without a home, as in some containers, it lies among temporary files.
    """
    homes = [Path(tempfile.gettempdir()) / f"prune-export-{os.getuid()}"]
    with suppress(RuntimeError):  # no home is known
        homes.insert(0, platformdirs.user_state_path("prune-export", appauthor=False))
    for home in homes:
        if home.is_absolute() and _is_private(home) and _is_private(home / name):
            return home / name
    return None


def _is_private(folder: Path) -> bool:
    """Says whether `folder`, made if needed, is a real folder of this user that nobody else writes in."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return is_ours and os.access(folder, os.W_OK | os.X_OK)
