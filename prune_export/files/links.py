"""The real location of a downloaded folder's files: links must not lead out of it."""

from __future__ import annotations

import os
from pathlib import Path

from prune_export.files.reading import ReadingError, is_file


def plain_name(name: str) -> bool:
    """Says whether `name` is one component of a path and nothing more."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"} and len(os.fsencode(name)) <= 255


def file_inside(folder: Path, name: str) -> Path:
    """Returns the path of the regular file `name` of `folder`; if it is a link, it must stay in the folder.

    A snapshot in the hub's cache consists of links into the blobs of the same repository; those stay inside, too.

    Raises:
        ReadingError: it is not one.
    """
    try:
        if not plain_name(name):
            raise ReadingError("not a plain file name")
        path = folder / name
        if not is_file(path):
            exists = os.path.lexists(path)
            raise ReadingError("not a regular file" if exists else "no such file", missing=not exists)
        lies, real = folder.resolve(), path.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise ReadingError("not a file name") from error
    if not any(real.is_relative_to(home) for home in (lies, *_blobs(lies))):
        raise ReadingError("a link that leads out of the folder")
    return path


def inside(folder: Path, name: str) -> Path:
    """Returns the path of a file of `folder`, or of a folder in it ("1_Pooling/config.json"), which must be no link.

    Raises:
        ReadingError: it is not one.
    """
    subfolder, _, plain = name.rpartition("/")
    if subfolder and (not plain_name(subfolder) or (folder / subfolder).is_symlink()):
        raise ReadingError("not in a folder of the folder itself")
    return file_inside(folder / subfolder, plain)


def _blobs(folder: Path) -> list[Path]:
    """Lists the blobs of the repository `models--owner--name/snapshots/<commit>` that `folder` is, or lies in."""
    return [
        repository / "blobs"
        for repository in folder.parents
        if repository.name.startswith("models--") and folder.relative_to(repository).parts[0] == "snapshots"
    ]
