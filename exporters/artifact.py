"""The folder a user gets, written aside and moved into place.

Two cases. Where the output folder does not exist (or is a folder of ours that is to be overwritten), everything is
prepared in a hidden folder beside it and the two are exchanged at once. Where the model goes into a folder that holds
other things, everything is prepared in a hidden folder inside it, and our files are placed one by one, the model last;
what they replace is kept in the hidden folder until all are placed, so that any interruption can be undone, by this run
or, after a kill, by the next one.

Everything stays on one file system, so each move is atomic. A run holds a lock on its hidden folder; a hidden folder that
nobody has locked is the rest of a killed run.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from exporters.errors import OutputError

RECORD = "prune_export.json"
DEFAULT_MODEL = "model.onnx"

_ASIDE = ".prune-export-"
_LOCK = "lock"
_NEW = "new"
_OLD = "old"
_JOURNAL = "placing.json"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an export goes: `folder / model`; `whole` if the folder is put in place as a whole."""

    folder: Path
    model: str
    whole: bool
    overwrite: bool

    @property
    def path(self) -> Path:
        return self.folder / self.model


def destination(output: str | Path, *, overwrite: bool) -> Destination:
    """Decides where `output`, a file `….onnx` or a folder, leads, and checks what can be checked before the work.

    Raises:
        OutputError: something of ours is there already and `overwrite` is not given, or the place cannot be written.
    """
    path = Path(output).expanduser()
    is_file = path.suffix == ".onnx" and not path.is_dir()
    folder, model = (path.parent, path.name) if is_file else (path, DEFAULT_MODEL)
    folder = folder.resolve() if folder.is_symlink() else folder
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; expected a folder, or a file name that ends in .onnx")
    anchor = folder if folder.exists() else _existing_parent(folder)
    if not os.access(anchor, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write in {anchor.resolve()}; choose another --output")
    if not folder.exists():
        return Destination(folder, model, whole=True, overwrite=overwrite)
    clear_remains(folder)
    if not any(folder.iterdir()) and not _is_working_directory(folder):
        return Destination(folder, model, whole=_can_write(folder.parent), overwrite=overwrite)
    if _is_ours(folder):
        if not overwrite:
            raise OutputError(f"{folder} holds an earlier export; --overwrite replaces it")
        whole = not _is_working_directory(folder) and _can_write(folder.parent)
        return Destination(folder, model, whole=whole, overwrite=overwrite)
    found = Destination(folder, model, whole=False, overwrite=overwrite)
    if not overwrite:
        _refuse_existing(found, [model, RECORD, "config.json"])
    return found


@contextmanager
def staging(place: Destination) -> Iterator[Path]:
    """A folder to prepare the files in; when the block ends without an error they are moved into place.

    Whatever goes wrong (an error, Ctrl-C), the destination is left as it was and the prepared files are removed.

    Raises:
        OutputError: no space, no permission, or a file that appeared meanwhile.
    """
    made = _make_parents(place.folder if not place.whole else place.folder.parent)
    parent = place.folder.parent if place.whole else place.folder
    try:
        clear_remains(parent)
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=parent))
    except OSError as error:
        _remove_empty(made)
        raise explained(error, parent) from error
    lock = FileLock(aside / _LOCK)
    try:
        lock.acquire(timeout=0)
        new = aside / _NEW
        new.mkdir()
        new.chmod(_default_mode())
        yield new
        _sync(new)
        with _uninterrupted():
            if place.whole:
                _exchange(new, place)
            else:
                _place(aside, place)
    except OSError as error:
        _undo(aside, place.folder)
        _remove_empty(made)
        raise explained(error, parent) from error
    except BaseException:
        _undo(aside, place.folder)
        _remove_empty(made)
        raise
    finally:
        lock.release()
        shutil.rmtree(aside, ignore_errors=True)


def explained(error: OSError, place: Path) -> OutputError:
    """An operating-system error while writing, in one line."""
    free = ""
    with suppress(OSError):
        free = f" ({shutil.disk_usage(place).free / 2**20:,.0f} MiB free)"
    return OutputError(f"cannot write in {place}: {error.strerror or error}{free}. Nothing was changed there")


def check_space(place: Destination, needed: int) -> None:
    """Refuses before the work what would fill the disk; `needed` is in bytes.

    Raises:
        OutputError: less than that is free.
    """
    anchor = place.folder if place.folder.exists() else _existing_parent(place.folder)
    free = shutil.disk_usage(anchor).free
    if free < needed:
        raise OutputError(
            f"no space in {anchor.resolve()}: {needed / 2**20:,.0f} MiB needed, {free / 2**20:,.0f} MiB free"
        )


def clear_remains(parent: Path) -> None:
    """Undoes and removes what killed runs left in `parent`."""
    for aside in parent.glob(f"{_ASIDE}*"):
        lock = FileLock(aside / _LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue  # a run that is alive
        try:
            _undo(aside, parent)
        finally:
            lock.release()
            shutil.rmtree(aside, ignore_errors=True)


# --- a whole folder -------------------------------------------------------------------------------------------------


def _exchange(new: Path, place: Destination) -> None:
    if not place.folder.exists():
        new.rename(place.folder)
        return
    if not any(place.folder.iterdir()):
        new.replace(place.folder)  # POSIX: a folder may be renamed onto an empty one
        return
    if not place.overwrite or not _is_ours(place.folder):
        raise OutputError(f"{place.folder} appeared while the export ran; nothing was changed there")
    if not _swap(new, place.folder):  # no atomic exchange on this system: two moves
        old = new.with_name(_OLD)
        place.folder.rename(old)
        try:
            new.rename(place.folder)
        except BaseException:
            old.rename(place.folder)
            raise


def _swap(one: Path, other: Path) -> bool:
    """Exchanges two folders at once (Linux, renameat2 with RENAME_EXCHANGE); False where that is not to be had."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    result: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return result == 0


# --- single files ---------------------------------------------------------------------------------------------------


def _place(aside: Path, place: Destination) -> None:
    """Moves our files into a folder that holds other things, the model last."""
    new, old = aside / _NEW, aside / _OLD
    names = sorted((path.name for path in new.iterdir()), key=lambda name: (name == place.model, name))
    if not place.overwrite:
        _refuse_existing(place, names)
    for name in names:
        if (place.folder / name).is_dir():
            raise OutputError(f"{place.folder / name} is a folder; expected a file or nothing. Nothing was changed")
    replaced = [name for name in names if (place.folder / name).exists()]
    old.mkdir()
    journal = aside / _JOURNAL
    journal.write_text(json.dumps({"names": names, "replaced": replaced}), encoding="utf-8")
    _sync(aside)
    for name in names:
        if name in replaced:
            (place.folder / name).rename(old / name)
        (new / name).rename(place.folder / name)
    journal.unlink()  # from here on it is done


def _undo(aside: Path, folder: Path) -> None:
    """Puts back what a half-done `_place` replaced and takes away what it added."""
    journal = aside / _JOURNAL
    if not journal.is_file():
        return
    try:
        record = json.loads(journal.read_text(encoding="utf-8"))
    except ValueError:
        return  # killed while the journal was written: nothing was moved yet
    for name in record["names"]:
        placed = not (aside / _NEW / name).exists()
        if placed and name not in record["replaced"]:
            (folder / name).unlink(missing_ok=True)
        if (aside / _OLD / name).exists():
            (aside / _OLD / name).replace(folder / name)
    journal.unlink()


def _refuse_existing(place: Destination, names: list[str]) -> None:
    existing = [name for name in names if (place.folder / name).exists()]
    if existing:
        raise OutputError(
            f"{place.folder.resolve()} already holds {', '.join(existing)}; --overwrite replaces them, or choose another "
            "--output"
        )


# --- small things ---------------------------------------------------------------------------------------------------


def _is_ours(folder: Path) -> bool:
    """A folder that an export made and that holds nothing else."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = {*record["files"], RECORD}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return {path.name for path in folder.iterdir()} <= files


def _is_working_directory(folder: Path) -> bool:
    """Exchanging the folder that a shell stands in would leave the shell in the old one."""
    try:
        return Path.cwd().is_relative_to(folder.resolve())
    except OSError:
        return False


def _can_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _existing_parent(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _make_parents(folder: Path) -> list[Path]:
    """Makes `folder` and what is missing above it; returns what was made, innermost first."""
    missing = []
    current = folder.absolute()
    while not current.exists():
        missing.append(current)
        current = current.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, current) from error
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _default_mode() -> int:
    """The mode that mkdir gives a folder under the user's umask (mkdtemp gives 0700)."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o777 & ~mask


def _sync(folder: Path) -> None:
    """Brings the folder's files onto the disk, so that a power cut cannot leave names without contents."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the few moves are done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if caught:
            signal.raise_signal(signal.SIGINT)
