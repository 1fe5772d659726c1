"""The folder a user gets, written aside and moved into place.

Two cases. Where the output folder does not exist (or is a folder of ours that is to be overwritten), everything is
prepared in a hidden folder beside it and the two are exchanged at once. Where the model goes into a folder that holds
other things, everything is prepared in a hidden folder inside it, and our files are placed one by one, the model last;
what they replace is kept in the hidden folder until all are placed, so that any interruption can be undone, by this run
or, after a kill, by the next one.

Everything stays on one file system, so each move is atomic. A run holds a lock on its hidden folder; a hidden folder that
nobody has locked is the rest of a killed run. Where moves take more than one step, a journal in the hidden folder says
what they are; it is there from before the first to after the last.
"""

from __future__ import annotations

import ctypes
import errno
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
_JOURNAL = "moving.json"
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
    if not str(output):
        raise OutputError("--output is empty; expected a file name that ends in .onnx, or a folder ('.' for this one)")
    try:
        return _destination(Path(output).expanduser(), overwrite=overwrite)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, or the home of nobody
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OutputError(f"cannot write to {output}: {reason}; choose another --output") from error


def _destination(path: Path, *, overwrite: bool) -> Destination:
    is_file = path.suffix == ".onnx" and not path.is_dir()
    folder, model = (path.parent, path.name) if is_file else (path, DEFAULT_MODEL)
    folder = folder.resolve() if folder.is_symlink() or ".." in folder.parts else folder
    anchor = _existing_parent(folder)
    if not anchor.is_dir():
        raise OutputError(f"{anchor} is a file; expected a folder, or a file name that ends in .onnx")
    if not _can_write(anchor):
        raise OutputError(f"no permission to write in {anchor.resolve()}; choose another --output")
    for parent in (folder, folder.parent):
        if parent.is_dir():
            clear_remains(parent)  # which may bring back what stood there before a run that was killed
    if not folder.exists():
        return Destination(folder, model, whole=True, overwrite=overwrite)
    ours = _is_ours(folder)
    if ours and not overwrite:
        raise OutputError(f"{folder} holds an earlier export; --overwrite replaces it")
    whole = (ours or not any(folder.iterdir())) and _can_exchange(folder)
    found = Destination(folder, model, whole=whole, overwrite=overwrite)
    if not overwrite:
        _refuse_existing(found, [model, RECORD, "config.json"])
    return found


@contextmanager
def staging(place: Destination) -> Iterator[Path]:
    """A folder to prepare the files in; when the block ends without an error they are moved into place.

    Whatever goes wrong (an error, Ctrl-C), the destination is left as it was and the prepared files are removed. Ctrl-C
    and SIGTERM wait while the files are moved; the exception that they then raise carries a note that all is in place.

    Raises:
        OutputError: no space, no permission, or a file that appeared meanwhile.
    """
    parent = place.folder.parent if place.whole else place.folder
    made: list[Path] = []
    complete = False
    try:
        _make_parents(parent, made)
        clear_remains(parent)
        with _locked_aside(parent) as aside:
            try:
                new = aside / _NEW / place.folder.name if place.whole else aside / _NEW
                new.mkdir(exist_ok=True)
                yield new
                _sync(new)
                with _uninterrupted():
                    if place.whole:
                        _exchange(aside, place)
                    else:
                        _place(aside, place)
                    complete = True
                    _clear(aside)
            except BrokenPipeError:
                raise  # from whoever reads our output
            except OSError as error:
                raise explained(error, parent) from error  # while the full disk is still full
    except BrokenPipeError:
        _remove_empty(made)
        raise
    except OSError as error:
        _remove_empty(made)
        raise explained(error, parent) from error
    except BaseException as error:
        error.add_note(f"{place.path} was complete before that" if complete else "nothing was changed")
        _remove_empty(made)
        raise


def explained(error: OSError, place: Path) -> OutputError:
    """An operating-system error while preparing what goes into `place`, in one line."""
    reason = error.strerror or str(error)
    names = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    inside = [name.absolute().is_relative_to(place.absolute()) for name in names]
    if names and not any(inside) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{names[0]}: {reason}. Nothing was changed in {place}")
    free = ""
    with suppress(OSError):
        free = f" ({shutil.disk_usage(place).free / 2**20:,.0f} MiB free)"
    return OutputError(f"cannot write in {place}: {reason}{free}. Nothing was changed there")


def check_space(place: Destination, needed: int) -> None:
    """Refuses before the work what would fill the disk; `needed` is in bytes.

    Raises:
        OutputError: less than that is free.
    """
    anchor = _existing_parent(place.folder)
    free = shutil.disk_usage(anchor).free
    if free < needed:
        raise OutputError(
            f"no space in {anchor.resolve()}: {needed / 2**20:,.0f} MiB needed, {free / 2**20:,.0f} MiB free"
        )


# --- the hidden folder ----------------------------------------------------------------------------------------------


def clear_remains(parent: Path) -> None:
    """Undoes and removes what killed runs left in `parent`.

    Raises:
        OutputError: what a killed run replaced cannot be put back.
    """
    for aside in parent.glob(f"{_ASIDE}*"):
        if not _is_aside(aside):
            continue
        lock = FileLock(aside / _LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue  # a run that is alive
        try:
            _clear(aside)
        finally:
            _release(lock, aside)


@contextmanager
def _locked_aside(parent: Path) -> Iterator[Path]:
    """A hidden folder in `parent`, locked while the block runs; then what is half done is undone, and it is removed."""
    aside, lock = _make_aside(parent)
    try:
        yield aside
    finally:
        try:
            with _uninterrupted():  # people press Ctrl-C twice
                _clear(aside)
        finally:
            _release(lock, aside)


def _make_aside(parent: Path) -> tuple[Path, FileLock]:
    for _ in range(100):
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=parent))
        lock = FileLock(aside / _LOCK)
        try:
            lock.acquire(timeout=0)
            (aside / _NEW).mkdir()
        except (Timeout, FileNotFoundError, FileExistsError):
            continue  # before it was locked, another run took it for the rest of a killed one
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            _release(lock, aside)
            raise
        return aside, lock
    raise OutputError(f"cannot lock a folder in {parent}: another program removes it at once")


def _release(lock: FileLock, aside: Path) -> None:
    lock.release()
    with suppress(OSError):
        aside.rmdir()  # NFS keeps a file that is open, the lock, and with it the folder


def _is_aside(path: Path) -> bool:
    """A hidden folder of ours: made by this user, with nothing in it that we do not put there."""
    try:
        if path.is_symlink() or path.stat().st_uid != os.getuid():
            return False
        return all(inside.name in (_NEW, _OLD, _JOURNAL) or inside.name.startswith(_LOCK) for inside in path.iterdir())
    except OSError:
        return False


def _clear(aside: Path) -> None:
    """Undoes what is half done and removes the folder, or leaves it: what cannot be put back must not be lost."""
    try:
        _undo(aside)
    except OSError as error:
        raise OutputError(
            f"{aside.parent}: what was there could not be put back: {error.strerror or error}. It lies in {aside / _OLD}; "
            "the next run with this --output puts it back"
        ) from error
    shutil.rmtree(aside, ignore_errors=True)


# --- moves of more than one step ------------------------------------------------------------------------------------


def _move(aside: Path, away: list[str], placed: list[str]) -> None:
    """Moves `away` from where the hidden folder stands into its `old`, and `placed` from its `new` to there."""
    parent, new, old = aside.parent, aside / _NEW, aside / _OLD
    old.mkdir()
    journal = aside / _JOURNAL
    journal.write_text(json.dumps({"away": away, "placed": placed}), encoding="utf-8")
    _sync(aside)
    for name in [*(name for name in away if name not in placed), *placed]:
        if name in away:
            (parent / name).rename(old / name)
        if name in placed:
            (new / name).rename(parent / name)
    journal.unlink()  # from here on it is done


def _undo(aside: Path) -> None:
    """Takes back the moves of a `_move` that did not end. It may itself be interrupted and done again."""
    parent, new, old = aside.parent, aside / _NEW, aside / _OLD
    journal = aside / _JOURNAL
    if not journal.is_file():
        return
    try:
        record = json.loads(journal.read_text(encoding="utf-8"))
    except ValueError:
        return  # it ended while the journal was written: nothing was moved yet
    for name in reversed(record["placed"]):
        if not _is_there(new / name) and _is_there(parent / name):
            (parent / name).rename(new / name)
    for name in record["away"]:
        if _is_there(old / name):
            (old / name).rename(parent / name)
    journal.unlink()


def _is_there(path: Path) -> bool:
    """Path.exists follows links, and takes one that leads nowhere for nothing."""
    return os.path.lexists(path)


# --- a whole folder -------------------------------------------------------------------------------------------------


def _exchange(aside: Path, place: Destination) -> None:
    folder = place.folder
    new = aside / _NEW / folder.name
    if folder.is_dir():
        shutil.copymode(folder, new)
    if not folder.exists() or not any(folder.iterdir()):
        new.rename(folder)  # POSIX: a folder may be renamed onto an empty one
        return
    if not place.overwrite or not _is_ours(folder):
        raise OutputError(f"{folder} appeared while the export ran; nothing was changed there")
    if not _swap(new, folder):  # no atomic exchange on this system: two moves
        _move(aside, away=[folder.name], placed=[folder.name])


def _swap(one: Path, other: Path) -> bool:
    """Exchanges two folders at once (Linux, renameat2 with RENAME_EXCHANGE); False where that is not to be had."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    result: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return result == 0


def _can_exchange(folder: Path) -> bool:
    """Whether the existing `folder` can be exchanged for another."""
    return _can_write(folder.parent) and not _is_working_directory(folder) and not _is_mount_point(folder)


def _is_working_directory(folder: Path) -> bool:
    """Exchanging the folder that a shell stands in would leave the shell in the old one."""
    try:
        return Path.cwd().is_relative_to(folder.resolve())
    except OSError:
        return False


def _is_mount_point(folder: Path) -> bool:
    """A mount point, such as a container's volume, cannot be renamed, and its parent is another file system."""
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


# --- single files ---------------------------------------------------------------------------------------------------


def _place(aside: Path, place: Destination) -> None:
    """Moves our files into a folder that holds other things, the model last."""
    folder = place.folder
    names = sorted((path.name for path in (aside / _NEW).iterdir()), key=lambda name: (name == place.model, name))
    with _turn(folder):
        if not place.overwrite:
            _refuse_existing(place, names)
        for name in names:
            if (folder / name).is_dir():
                raise OutputError(f"{folder / name} is a folder; expected a file or nothing. Nothing was changed")
        away = [name for name in names if _is_there(folder / name)]
        if place.overwrite and _is_ours(folder, besides=aside.name):  # then the old export goes, all of it
            away += sorted({path.name for path in folder.iterdir()} - {aside.name, *names})
        _move(aside, away, placed=names)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One run at a time places files in `folder`. The lock is on the folder itself: no file to leave behind."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(ImportError, OSError):  # where there are no such locks, two runs may meet
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_existing(place: Destination, names: list[str]) -> None:
    existing = [name for name in names if _is_there(place.folder / name)]
    if existing:
        raise OutputError(
            f"{place.folder.resolve()} already holds {', '.join(existing)}; --overwrite replaces them, or choose another "
            "--output"
        )


# --- small things ---------------------------------------------------------------------------------------------------


def _is_ours(folder: Path, *, besides: str | None = None) -> bool:
    """A folder that an export made and that holds nothing else (`besides` does not count)."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = {*record["files"], RECORD, besides}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return {path.name for path in folder.iterdir()} <= files


def _can_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _existing_parent(folder: Path) -> Path:
    """`folder`, or the nearest above it that is there."""
    if folder.exists():
        return folder
    return next(parent for parent in folder.absolute().parents if parent.exists())


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Makes `folder` and what is missing above it; adds to `made` what was not there, innermost first."""
    made += [parent for parent in (folder.absolute(), *folder.absolute().parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _sync(folder: Path) -> None:
    """Brings the folder's files onto the disk, so that a power cut cannot leave names without contents."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system does that for folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C, and SIGTERM where the program handles it, wait until the few moves are done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in handlers:
            signal.signal(number, lambda number, _: caught.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])
