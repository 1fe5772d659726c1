"""A folder's files, prepared aside and put in place in one step: in the end all is there, or all is as before.

Two cases. Where the folder does not exist, is empty, or holds an earlier output and nothing else, the files are prepared
in a hidden folder beside it, and the two folders are exchanged at once. Where it holds other things, they are prepared in a
hidden folder inside it and placed one by one; what they replace is kept in the hidden folder until all are placed, so that
any interruption can be undone, by this run or, after a kill, by the next one.

A hidden folder is taken for the rest of a killed run only if the user's journal (`prune_export.files.journal`) knows
its name and no run holds the entry's lock; all others are left alone. Everything stays on one file system, so each move is
atomic.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from exporters.errors import OutputError
from prune_export.files import journal
from prune_export.files.errors import file_type, write_error
from prune_export.files.journal import Entry, Identity
from prune_export.files.writing import sync_files, sync_folder

ASIDE = ".prune-export-"
_NEW, _OLD = "new", "old"
_RENAME_EXCHANGE = 2
_PATIENCE = 10.0  # seconds; to place files takes milliseconds
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_log = logging.getLogger("prune_export")
_named: set[str] = set()  # hidden folders that the log has named
_completed: list[Path] = []  # what this process has put in place, in order


@dataclass(frozen=True, slots=True)
class Placement:
    """Where files go, and what they may replace.

    `whole`: the folder is put in place as a whole. `overwrite`: files of the same names are replaced, and
    `removable(folder)`, the files of an earlier output as paths relative to it, are removed. `last` is the file that is
    placed after all others. Files of the names `siblings` would be read together with what is placed: if one stays, nothing
    is placed.
    """

    folder: Path
    last: str
    whole: bool
    overwrite: bool
    removable: Callable[[Path], frozenset[str]]
    siblings: frozenset[str] = frozenset()

    @property
    def parent(self) -> Path:
        """Returns the folder that holds the hidden one."""
        return self.folder.parent if self.whole else self.folder


@contextmanager
def transaction(placement: Placement) -> Iterator[Path]:
    """Yields a folder to prepare files in; when the block ends without an error they are moved into place.

    Whatever goes wrong (an error, Ctrl-C), the target is left as it was and the prepared files are removed. Ctrl-C and
    SIGTERM wait while the files are moved; the exception that they then raise carries a note that all is in place.

    Raises:
        OutputError: no space, no permission, or a file that appeared meanwhile.
    """
    made: list[Path] = []
    complete = False
    try:
        _make_parents(placement.parent, made)
        recover(placement.folder)
        with _begun(placement) as work:
            try:
                yield work.staged
                _finish_files(work.staged)
                with _uninterrupted():
                    if placement.whole:
                        _exchange(work, placement)
                    else:
                        _place(work, placement)
                    complete = True
                    _completed.append(placement.folder / placement.last)
                    work.settle()
            except BrokenPipeError:
                raise  # from the reader of our output
            except OSError as error:
                raise write_error(error, placement.parent) from error  # while the full disk is still full
    except BrokenPipeError:
        _remove_empty(made)
        raise
    except OSError as error:
        _remove_empty(made)
        raise write_error(error, placement.parent) from error
    except BaseException as error:
        main_file = placement.folder / placement.last
        error.add_note(f"{main_file} was complete before that" if complete else "nothing was changed")
        _remove_empty(made)
        raise


def last_completed() -> Path | None:
    """Returns the main file of this process's last complete transaction, to be named if it is stopped after that."""
    return _completed[-1] if _completed else None


def recover(folder: Path) -> None:
    """Undoes and removes what killed runs left in `folder` and beside it.

    Only what this user's journal proves is touched. Hidden folders that look alike are named in the log.

    Raises:
        OutputError: what a killed run replaced cannot be put back.
    """
    proven = set()
    parents = {os.path.realpath(parent) for parent in (folder, folder.parent)}
    for entry in journal.entries():
        if os.path.dirname(entry.aside) not in parents:  # noqa: PTH120 - a name, not a file
            continue
        try:
            with ExitStack() as stack:
                if (lock := journal.lock(entry.token)) is None:
                    raise BlockingIOError  # who knows
                stack.callback(os.close, lock)
                if (current := journal.read(entry.token)) is not None:  # read again, now that no run can change it
                    aside = stack.enter_context(_opened_folder(Path(current.aside).name, _parent_of(current, stack)))
                    if current.inode not in (0, os.fstat(aside).st_ino):
                        continue  # another folder of that name
                    _Work(current, aside, Path(current.aside) / _NEW).settle()
        except BlockingIOError:
            pass  # its run is alive
        except OSError:
            if not os.path.lexists(entry.aside):
                journal.remove(entry)  # somebody removed the hidden folder
            continue
        proven.add(entry.aside)
    for parent in parents:
        with suppress(OSError):
            for path in sorted(Path(parent).glob(f"{ASIDE}*")):
                if str(path) not in proven | _named:
                    _named.add(str(path))
                    _log.warning(
                        "%r: left alone, because nothing here proves that it is the rest of a killed run. If it is yours, "
                        "look what lies in its folder 'old' before you remove it",
                        str(path),
                    )


# --- the hidden folder ----------------------------------------------------------------------------------------------


@dataclass
class _Work:
    """A transaction under way, with its hidden folder open and locked; `staged` is where files are prepared."""

    entry: Entry
    aside: int
    staged: Path
    is_settled: bool = False

    @property
    def path(self) -> Path:
        return Path(self.entry.aside)

    def enter(self, **changes: object) -> bool:
        """Notes in the journal what is about to be done; returns False if it cannot be noted."""
        for name, value in changes.items():
            setattr(self.entry, name, value)
        return journal.write(self.entry)

    def settle(self) -> None:
        """Undoes what is half done, or finishes what is done, and removes the hidden folder.

        Raises:
            OutputError: what was there before cannot be put back; it is kept.
        """
        if self.is_settled:
            return
        try:
            match self.entry.phase:
                case "placing":
                    _undo(self)
                case "exchanging":
                    _finish_exchange(self)
                case "discarding":
                    _discard(self)
        except OSError as error:
            raise OutputError(
                f"{self.entry.folder}: what was there could not be put back: {error.strerror or error}. It lies in "
                f"{self.path / _OLD}; the next run with this --output puts it back"
            ) from error
        self.is_settled = True
        if self.entry.phase in ("placing", "discarding") and _is_filled(self.aside, _OLD):
            _log.warning("%r: kept, because it holds files that are not of an earlier output", str(self.path / _OLD))
            journal.remove(self.entry)
            return
        if self.entry.phase != "preparing":
            self.enter(phase="preparing")  # what is left is ours alone
        parent = os.open(self.path.parent, _DIRECTORY)
        try:
            shutil.rmtree(self.path.name, ignore_errors=True, dir_fd=parent)
        finally:
            os.close(parent)
        if not os.path.lexists(self.path):
            journal.remove(self.entry)


@contextmanager
def _begun(placement: Placement) -> Iterator[_Work]:
    """Makes and locks a hidden folder while the block runs; then what is half done is undone, and it is removed."""
    parent = Path(os.path.realpath(placement.parent))
    token = journal.new_token()
    folder = parent / placement.folder.name if placement.whole else parent
    entry = Entry(token, str(parent / f"{ASIDE}{token}"), str(folder))
    aside = Path(entry.aside)
    with ExitStack() as stack:
        if (lock := journal.lock(token)) is not None:
            stack.callback(os.close, lock)
        stack.callback(_forget, entry)
        journal.write(entry)
        aside.mkdir(mode=0o700)
        descriptor = stack.enter_context(_opened_folder(aside.name, _parent_of(entry, stack)))
        entry.inode = os.fstat(descriptor).st_ino
        work = _Work(entry, descriptor, aside / _NEW / placement.folder.name if placement.whole else aside / _NEW)
        stack.callback(_settle, work)
        work.enter()
        work.staged.mkdir(parents=True)
        (aside / _OLD).mkdir()
        yield work


def _forget(entry: Entry) -> None:
    """Removes the entry of a hidden folder that could not be made, or holds nothing."""
    with suppress(OSError):
        os.rmdir(entry.aside)  # noqa: PTH106
    if not os.path.lexists(entry.aside):
        journal.remove(entry)


def _parent_of(entry: Entry, stack: ExitStack) -> int:
    return stack.enter_context(_opened_folder(Path(entry.aside).parent))


def _settle(work: _Work) -> None:
    with _uninterrupted():  # people press Ctrl-C twice
        work.settle()


# --- a whole folder -------------------------------------------------------------------------------------------------


def _exchange(work: _Work, placement: Placement) -> None:
    folder, name = placement.folder, placement.folder.name
    if folder.is_dir():
        shutil.copymode(folder, work.staged)
    existing = _names(folder)
    with _opened_folder(_NEW, work.aside) as new, _opened_folder(folder.parent) as parent:
        if not existing:
            os.rename(name, name, src_dir_fd=new, dst_dir_fd=parent)  # POSIX: also onto an empty folder
            sync_folder(parent)
            return
        removable = placement.removable(folder)
        if not placement.overwrite or _tops(removable) != existing:
            raise OutputError(f"{folder} appeared or changed while the run went on; nothing was changed there")
        work.enter(phase="exchanging", staged=work.staged.stat().st_ino, removable=tuple(sorted(removable)))
        if swap(new, parent, name):
            sync_folder(parent)
            return
    work.enter(phase="preparing", staged=0)  # no exchange on this system: the files one by one
    os.rename(work.staged, work.path / "files")
    os.rmdir(_NEW, dir_fd=work.aside)
    os.rename("files", _NEW, src_dir_fd=work.aside, dst_dir_fd=work.aside)
    _place(work, placement)


def swap(first: int, second: int, name: str) -> bool:
    """Exchanges the folders `name` in two open folders at once (Linux, renameat2); returns False if it cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    result: int = renameat2(first, os.fsencode(name), second, os.fsencode(name), _RENAME_EXCHANGE)
    return result == 0


def _finish_exchange(work: _Work) -> None:
    """Removes the earlier output, if the folders were exchanged; its other files go to the new folder, or are kept."""
    name, staged = Path(work.entry.folder).name, work.entry.staged
    with _opened_folder(_NEW, work.aside) as new, _opened_folder(_OLD, work.aside) as kept:
        if not _is_there(name, new):
            return
        with _opened_folder(name, new) as old:
            if os.fstat(old).st_ino == staged:
                return  # not exchanged: nothing but what was prepared
            with suppress(OSError), _opened_folder(Path(work.entry.folder), follow=False) as folder:
                if os.fstat(folder).st_ino == staged:
                    remove_files(old, work.entry.removable)
                    for remaining in os.listdir(old):
                        if not _is_there(remaining, folder):
                            os.rename(remaining, remaining, src_dir_fd=old, dst_dir_fd=folder)
            if not os.listdir(old):
                return
        os.rename(name, name, src_dir_fd=new, dst_dir_fd=kept)
    work.entry.phase = "discarding"
    work.entry.removable = ()


# --- single files ---------------------------------------------------------------------------------------------------


def _place(work: _Work, placement: Placement) -> None:
    """Moves the prepared files into a folder that holds other things."""
    names = sorted(os.listdir(work.path / _NEW), key=lambda name: (name == placement.last, name))
    with _opened_folder(placement.folder) as folder, _turn(folder):
        existing = _names(folder) - {work.path.name}
        removable = placement.removable(placement.folder) if placement.overwrite else frozenset[str]()
        taken = [name for name in names if name in existing]
        if taken and not placement.overwrite:
            raise OutputError(
                f"{placement.folder.resolve()} already holds {', '.join(taken)}; --overwrite replaces them, or choose "
                "another --output"
            )
        stale = sorted((existing & placement.siblings) - _tops(removable) - set(names))
        if stale:
            raise OutputError(
                f"{placement.folder.resolve()} holds {', '.join(stale)}, which would be read as a part of what is written "
                "there; move it away, or choose another --output"
            )
        for name in taken:
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if name not in _tops(removable) and not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise OutputError(
                    f"{placement.folder / name} is {file_type(mode)}; expected a file or nothing. Nothing was changed"
                )
        away = [*taken, *sorted((_tops(removable) & existing) - set(names))]
        _move(work, folder, away, names, removable)


def _move(work: _Work, folder: int, away: list[str], placed: list[str], removable: frozenset[str]) -> None:
    with _opened_folder(_NEW, work.aside) as new, _opened_folder(_OLD, work.aside) as old:
        if not work.enter(
            phase="placing",
            away=tuple(away),
            placed={name: _identity(name, new) for name in placed},
            removable=tuple(sorted({*removable, *away})),
        ):
            raise OutputError(
                "there is no folder in which to note what is moved, so that a kill could be undone; set XDG_STATE_HOME to a "
                "folder that can be written, or give --output a new folder"
            )
        for name in [*(name for name in away if name not in placed), *placed]:
            if name in away:
                os.rename(name, name, src_dir_fd=folder, dst_dir_fd=old)
            if name in placed:
                os.rename(name, name, src_dir_fd=new, dst_dir_fd=folder)
        sync_folder(folder)
        if not work.enter(phase="discarding"):  # from here on it is done; otherwise a later run would undo it
            work.entry.phase = "placing"
            raise OutputError("the journal cannot be written: no space for it, or no permission; nothing was changed")


def _undo(work: _Work) -> None:
    """Takes back the moves of a `_move` that did not end. It may itself be interrupted and done again."""
    entry = work.entry
    with (
        _opened_folder(Path(entry.folder), follow=False) as folder,
        _opened_folder(_NEW, work.aside) as new,
        _opened_folder(_OLD, work.aside) as old,
    ):
        for name, identity in reversed(entry.placed.items()):
            if not _is_there(name, new) and _is_there(name, folder) and _identity(name, folder) == tuple(identity):
                os.rename(name, name, src_dir_fd=folder, dst_dir_fd=new)
        for name in entry.away:
            if not _is_there(name, old):
                continue
            if _is_there(name, folder):
                raise OutputError(
                    f"{Path(entry.folder) / name} was changed after a run that was killed; what stood there before lies in "
                    f"{work.path / _OLD}. Move one of the two away and run the command again"
                )
            os.rename(name, name, src_dir_fd=old, dst_dir_fd=folder)
        sync_folder(folder)


def _discard(work: _Work) -> None:
    """Removes what was replaced, and the other files of an earlier output."""
    with _opened_folder(_OLD, work.aside) as old:
        remove_files(old, work.entry.removable)


def remove_files(folder: int, paths: tuple[str, ...]) -> None:
    """Removes the files and links `paths`, relative to an open folder, and the folders that are empty then.

    Links to folders are not followed. What cannot be removed stays.
    """
    inside: dict[str, list[str]] = {}
    for path in paths:
        name, _, rest = path.partition("/")
        inside.setdefault(name, []).extend([rest] if rest else [])
    for name, rests in inside.items():
        with suppress(OSError):
            if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=folder)
                continue
            with _opened_folder(name, folder) as inner:
                remove_files(inner, tuple(rests))
                for left in os.listdir(inner):  # folders that held nothing
                    with suppress(OSError):
                        os.rmdir(left, dir_fd=inner)
            os.rmdir(name, dir_fd=folder)


@contextmanager
def _turn(folder: int) -> Iterator[None]:
    """Locks `folder`, so that one run at a time places files there; a lock on the folder itself leaves no file behind."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OutputError("another program holds a lock on the output's folder; nothing was changed") from None
            time.sleep(0.02)
            continue
        except OSError:
            pass  # without such locks, two runs may meet
        break
    yield


# --- small things ---------------------------------------------------------------------------------------------------


@contextmanager
def _opened_folder(path: Path | str, inside: int | None = None, *, follow: bool = True) -> Iterator[int]:
    """Opens a folder, and yields its descriptor; `follow` follows a link at the name itself."""
    flags = _DIRECTORY if inside is None and follow else _DIRECTORY | os.O_NOFOLLOW
    descriptor = os.open(path, flags, dir_fd=inside)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _names(folder: Path | str | int) -> set[str]:
    """Lists the names in `folder`; none if it does not exist."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _tops(paths: frozenset[str]) -> set[str]:
    return {path.split("/")[0] for path in paths}


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _identity(name: str, folder: int) -> Identity:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_filled(folder: int, name: str) -> bool:
    try:
        with _opened_folder(name, folder) as inner:
            return bool(os.listdir(inner))
    except OSError:
        return False


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Makes `folder` and what is missing above it; adds to `made` what was not there, innermost first."""
    made += [parent for parent in (folder.absolute(), *folder.absolute().parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _finish_files(folder: Path) -> None:
    """Brings the prepared files onto the disk, and gives them the mode that the umask asks for, as the folder has it.

    Libraries write some files for their owner alone.
    """
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
    sync_files(folder)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C, and SIGTERM if the program handles it, until the few moves are done."""
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
