"""The place of an output: decided, and checked as far as possible, before the work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from exporters.errors import OutputError
from prune_export.facts.file_names import DEFAULT_MODEL
from prune_export.files.transaction import Placement, recover
from prune_export.outputs.folder_types import FolderType, exported, top_names


@dataclass(frozen=True, slots=True)
class Destination:
    """A folder of a type: `placement` is for `prune_export.files.transaction`."""

    kind: FolderType
    placement: Placement

    @property
    def folder(self) -> Path:
        return self.placement.folder

    @property
    def path(self) -> Path:
        """Returns the path of the main file."""
        return self.placement.folder / self.kind.last

    def refuse_source(self, source: Path) -> None:
        """Refuses to write over the checkpoint that is read.

        Raises:
            OutputError: the destination is the folder `source`.
        """
        if self.folder.exists() and self.folder.samefile(source):
            raise OutputError(
                f"{self.folder} is the checkpoint that is read; expected another folder for the {self.kind.name}"
            )

    def check(self, optional: Collection[str]) -> None:
        """Looks whether the files that will be written, the `optional` ones among them known now, go with those that stay.

        Raises:
            OutputError: a file would stay that would be read as a part of the output.
        """
        if self.placement.whole or not self.folder.is_dir():
            return
        existing, removable = set(os.listdir(self.folder)), top_names(self.kind.removable(self.folder))
        written = {*self.kind.required, *optional}
        folders = top_names(name for name in written if "/" in name)
        if taken := sorted(existing & folders - removable):
            raise OutputError(
                f"{self.folder.resolve()} already holds {', '.join(taken)}, with files that are not of an earlier "
                f"{self.kind.name}; move it away, or choose another --output"
            )
        stale = existing & top_names(self.kind.optional) - top_names(written) - removable
        if stale:
            raise OutputError(
                f"{self.folder.resolve()} holds {', '.join(sorted(stale))}, which would be read as a part of "
                f"the {self.kind.name} there; move it away, or choose another --output"
            )


def model_destination(output: str | Path, *, overwrite: bool) -> Destination:
    """Decides where the exported model `output`, a file `….onnx` or a folder, goes.

    Raises:
        OutputError: something is there already and `overwrite` is not given, or the place cannot be written.
    """

    def decide(path: Path) -> tuple[Path, FolderType]:
        is_file = path.suffix == ".onnx" and not path.is_dir()
        if is_file and path.name.encode(errors="replace").decode() != path.name:  # the record could not hold it
            raise OutputError(f"{str(output)!r}: expected a file name in UTF-8")
        return (path.parent, exported(path.name)) if is_file else (path, exported(DEFAULT_MODEL))

    return _explained(
        output, decide, "expected a file name that ends in .onnx, or a folder ('.' for this one)", overwrite
    )


def folder_destination(output: str | Path, kind: FolderType, *, overwrite: bool) -> Destination:
    """Decides where the folder `output` of `kind` goes.

    Raises:
        OutputError: something is there already and `overwrite` is not given, or the place cannot be written.
    """

    def decide(path: Path) -> tuple[Path, FolderType]:
        if any(part.suffix == ".onnx" and not part.is_dir() for part in (path, path.parent)):
            raise OutputError(f"{output}: a {kind.name} is a folder; expected a folder's name")
        return path, kind

    return _explained(output, decide, "expected a folder ('.' for this one)", overwrite)


def _explained(
    output: str | Path, decide: Callable[[Path], tuple[Path, FolderType]], expected: str, overwrite: bool
) -> Destination:
    if not str(output):
        raise OutputError(f"--output is empty; {expected}")
    try:
        folder, kind = decide(Path(output).expanduser())
        return _destination(folder, kind, overwrite)
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, the home of an unknown user, a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OutputError(f"cannot write to {str(output)!r}: {reason}; choose another --output") from error


def _destination(folder: Path, kind: FolderType, overwrite: bool) -> Destination:
    folder = folder.resolve() if folder.is_symlink() or ".." in folder.parts else folder
    anchor = existing_parent(folder)
    if not anchor.is_dir():
        raise OutputError(f"{anchor} is a file; expected a folder, or a file name that ends in .onnx")
    if not _can_write(anchor):
        raise OutputError(f"no permission to write in {anchor.resolve()}; choose another --output")
    recover(folder)  # which may bring back the files before a run that was killed
    existing = set(os.listdir(folder)) if folder.exists() else set()
    removable = kind.removable(folder) if existing else frozenset[str]()
    if not overwrite and removable:
        raise OutputError(f"{folder} holds an earlier {kind.name}; --overwrite replaces it")
    if not overwrite and (taken := sorted(existing & top_names(kind.files))):
        raise OutputError(
            f"{folder.resolve()} already holds {', '.join(taken)}; --overwrite replaces them, or choose another --output"
        )
    whole = not folder.exists() or (existing == top_names(removable) and can_exchange(folder))
    return Destination(kind, Placement(folder, kind.last, whole, overwrite, kind.removable, top_names(kind.optional)))


def check_space(destination: Destination, needed: int) -> None:
    """Refuses before the work what would fill the disk; `needed` is in bytes.

    Raises:
        OutputError: less than that is free.
    """
    anchor = existing_parent(destination.folder)
    free = shutil.disk_usage(anchor).free
    if free < needed:
        raise OutputError(
            f"no space in {anchor.resolve()}: {needed / 2**20:,.0f} MiB needed, {free / 2**20:,.0f} MiB free"
        )


def can_exchange(folder: Path) -> bool:
    """Says whether the existing `folder` can be exchanged for another."""
    return _can_write(folder.parent) and not _is_working_directory(folder) and not _is_mount_point(folder)


def _is_working_directory(folder: Path) -> bool:
    """Says whether `folder` is the working directory: an exchange would leave the shell in the old folder."""
    try:
        return Path.cwd().is_relative_to(folder.resolve())
    except OSError:
        return False


def _is_mount_point(folder: Path) -> bool:
    """Says whether `folder` is a mount point, which cannot be renamed, and whose parent is another file system."""
    if folder.is_mount():
        return True
    try:  # Path.is_mount does not see a folder that is mounted from the same file system (bind mounts)
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    name = str(folder.resolve())
    for character in "\\ \t\n":  # escaped there, the backslash first
        name = name.replace(character, f"\\{ord(character):03o}")
    return any(line.split(" ")[4] == name for line in mounts)


def _can_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def existing_parent(folder: Path) -> Path:
    """Returns `folder`, or the nearest existing folder above it."""
    if folder.exists():
        return folder
    return next(parent for parent in folder.absolute().parents if parent.exists())
