"""Nothing half-written: whatever stops a run, and wherever, the destination is as it was or complete.

Kills and interruptions are tried at every line of `prune_export.files` that a run executes, in a forked child.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from exporters.errors import OutputError
from prune_export.facts.file_names import RECORD
from prune_export.files import journal, writing
from prune_export.files import transaction as module
from prune_export.files.journal import Entry
from prune_export.files.state import state_folder
from prune_export.files.transaction import recover, transaction
from prune_export.outputs.destination import Destination, check_space
from prune_export.outputs.destination import model_destination as destination

FILES = (module.__file__, journal.__file__, writing.__file__)

Snapshot = dict[str, bytes | str]

NEW = {
    "config.json": b"new config",
    "model.onnx": b"new model",
    "model.onnx_data": b"new weights",
    RECORD: json.dumps(
        {"format": "prune-export/record", "files": ["config.json", "model.onnx", "model.onnx_data"]}
    ).encode(),
}
OLD = {
    "config.json": b"old config",
    "model.onnx": b"old model",
    "vocab.txt": b"only in the old export",
    RECORD: json.dumps({"format": "prune-export/record", "files": ["config.json", "model.onnx", "vocab.txt"]}).encode(),
}


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def run(output: str | Path, *, overwrite: bool = False, files: dict[str, bytes] = NEW) -> Destination:
    place = destination(output, overwrite=overwrite)
    with transaction(place.placement) as folder:
        fill(folder, files)
    return place


def snapshot(root: Path) -> Snapshot:
    """Every file (its bytes) and link (where it leads) below `root`; folders are only there to hold them."""
    found: Snapshot = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(root))] = f"-> {path.readlink()}"
        elif path.is_file():
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def hidden(root: Path) -> list[Path]:
    return list(root.rglob(".prune-export-*"))


def in_child(work: Callable[[], object]) -> int:
    """Runs `work` in a forked child; returns its exit code (negative: the signal that killed it)."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except OutputError:
            code = 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def each_line(act: Callable[[int], object]) -> Iterator[None]:
    """Calls `act` before every line that runs in FILES, with its number, counted from 1."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            count += 1
            act(count)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


# --- where it goes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Situation:
    """What is there before a run. `make` prepares a folder and returns the `--output`; `kept` is nobody's to touch."""

    name: str
    make: Callable[[Path], Path]
    overwrite: bool = False
    swap: bool = True  # whether the system exchanges two folders at once
    inside: bool = False  # run with the output's folder as the working directory
    gone: tuple[str, ...] = ()  # files of the old export that the new one does not have


def _foreign(root: Path) -> Path:
    return fill(root / "out", {"notes.txt": b"mine", "other.onnx": b"mine too"})


def _foreign_and_ours(root: Path) -> Path:
    folder = fill(_foreign(root), {"config.json": b"old config", RECORD: b"{}"})
    fill(root / "out" / "blobs", {"weights": b"what the link leads to"})
    (folder / "model.onnx").symlink_to("blobs/weights")  # as in a hub cache; from elsewhere it leads nowhere
    return folder / "model.onnx"


SITUATIONS = [
    Situation("nothing", lambda root: root / "out"),
    Situation("no parents", lambda root: root / "a" / "b" / "model.onnx"),
    Situation("an empty folder", lambda root: fill(root / "out", {})),
    Situation("ours", lambda root: fill(root / "out", OLD), overwrite=True, gone=("out/vocab.txt",)),
    Situation(
        "ours, two moves", lambda root: fill(root / "out", OLD), overwrite=True, swap=False, gone=("out/vocab.txt",)
    ),
    Situation("ours, working there", lambda root: fill(root / "out", OLD), True, inside=True, gone=("out/vocab.txt",)),
    Situation("empty, working there", lambda root: fill(root / "out", {}), inside=True),
    Situation("other things", lambda root: _foreign(root) / "model.onnx"),
    Situation("other things, ours among them", _foreign_and_ours, overwrite=True),
]
EACH_SITUATION = pytest.mark.parametrize("situation", SITUATIONS, ids=lambda one: one.name)


@contextmanager
def situated(situation: Situation, root: Path) -> Iterator[Path]:
    """The situation set up below `root`, which is emptied first; yields the output to give."""
    for path in root.iterdir():
        shutil.rmtree(path)
    output = situation.make(root)
    with pytest.MonkeyPatch.context() as patch:
        if not situation.swap:
            patch.setattr(module, "swap", lambda *_: False)
        if situation.inside:
            patch.chdir(output)
            output = Path("model.onnx")
        yield output


def expected(situation: Situation, root: Path, output: Path, before: Snapshot) -> Snapshot:
    folder = Path.cwd() if situation.inside else output.parent if output.suffix == ".onnx" else output
    after = {name: content for name, content in before.items() if name not in situation.gone}
    return after | {f"{folder.relative_to(root)}/{name}": content for name, content in NEW.items()}


@EACH_SITUATION
def test_puts_everything_in_place(situation: Situation, tmp_path: Path) -> None:
    with situated(situation, tmp_path) as output:
        before = snapshot(tmp_path)
        place = run(output, overwrite=situation.overwrite)
        assert snapshot(tmp_path) == expected(situation, tmp_path, output, before)
        assert place.path.read_bytes() == b"new model"
    assert not hidden(tmp_path)


@EACH_SITUATION
def test_nothing_remains_of_an_error(situation: Situation, tmp_path: Path) -> None:
    with situated(situation, tmp_path) as output:
        before, folders = snapshot(tmp_path), sorted(tmp_path.rglob("*"))
        place = destination(output, overwrite=situation.overwrite)
        with pytest.raises(ZeroDivisionError), transaction(place.placement) as folder:
            _ = fill(folder, NEW).stat().st_mode // 0
        assert snapshot(tmp_path) == before
        assert sorted(tmp_path.rglob("*")) == folders


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of runs follow."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def steps(situation: Situation, root: Path) -> list[int]:
    """The lines before which something has changed on the disk: a kill at any other line is like one of these."""
    found: dict[object, int] = {}

    def note(line: int) -> None:
        paths = sorted((str(path), path.lstat().st_ino, path.lstat().st_size) for path in root.rglob("*"))
        found.setdefault(tuple(paths), line)

    with situated(situation, root) as output:
        place = destination(output, overwrite=situation.overwrite)
        with each_line(note), transaction(place.placement) as folder:
            fill(folder, NEW)
    return sorted(found.values())


@EACH_SITUATION
def test_a_kill_at_any_line_leaves_the_old_or_the_new(situation: Situation, root: Path) -> None:
    lines = steps(situation, root)
    assert len(lines) > 6
    new = []
    for line in lines:
        with situated(situation, root) as output:
            before = snapshot(root)
            after = expected(situation, root, output, before)

            def kill(now: int, line: int = line) -> None:
                if now == line:
                    os.kill(os.getpid(), signal.SIGKILL)

            def work(output: Path = output, kill: Callable[[int], None] = kill) -> None:
                place = destination(output, overwrite=situation.overwrite)
                with each_line(kill), transaction(place.placement) as folder:
                    fill(folder, NEW)

            assert in_child(work) == -signal.SIGKILL
            # What the next run finds when it starts:
            destination(output, overwrite=True)
            found = snapshot(root)
            assert found in (before, after), f"killed before line {line}"
            assert not hidden(root)
            new.append(found == after)
            run(output, overwrite=True)
            assert snapshot(root) == after
    assert new == sorted(new)  # first the old, then the new
    assert set(new) == {False, True}


@EACH_SITUATION
def test_ctrl_c_at_any_line_leaves_the_old_or_says_that_it_is_done(situation: Situation, root: Path) -> None:
    line, interrupted, leftovers = 0, True, 0
    while interrupted:
        line += 1
        with situated(situation, root) as output:
            before = snapshot(root)
            after = expected(situation, root, output, before)
            place = destination(output, overwrite=situation.overwrite)

            def press(now: int, line: int = line) -> None:
                if now == line:
                    signal.raise_signal(signal.SIGINT)

            try:
                with each_line(press), transaction(place.placement) as folder:
                    fill(folder, NEW)
                interrupted = False
            except KeyboardInterrupt as error:
                complete = any("complete" in note for note in getattr(error, "__notes__", ()))
            leftovers += bool(hidden(root))
            recover(place.folder)
            assert snapshot(root) == (after if not interrupted or complete else before), f"before line {line}"
            assert not hidden(root)
    assert line > 50
    assert leftovers <= 8  # the few lines between making the hidden folder and being ready to remove it


class _Renames:
    """os.rename, failing from call `first` (counted from 1) up to call `last`."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.count = first, last, 0

    def __call__(self, path: str, target: str, **folders: int) -> None:
        self.count += 1
        if self.first <= self.count <= self.last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path), None, str(target))
        RENAME(path, target, **folders)


RENAME = os.rename


@EACH_SITUATION
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_a_move_that_fails_is_undone(situation: Situation, lasting: bool, root: Path) -> None:
    number, failed = 0, True
    while failed:
        number += 1
        with situated(situation, root) as output, pytest.MonkeyPatch.context() as patch:
            before = snapshot(root)
            renames = _Renames(number, sys.maxsize if lasting else number)
            place = destination(output, overwrite=situation.overwrite)
            patch.setattr(os, "rename", renames)
            try:
                with transaction(place.placement) as folder:
                    fill(folder, NEW)
                failed = False
            except OutputError as error:
                message = str(error)
            patch.undo()
            if not failed:
                break
            assert "No space left" in message
            assert "\n" not in message
            if "Nothing was changed" not in message:  # it could not be undone: it says so, and nothing is lost
                assert lasting
                assert "could not be put back" in message
                with situated_again(situation):
                    destination(output, overwrite=True)
            assert snapshot(root) == before
            assert not hidden(root)
    # An atomic exchange needs no rename at all.
    assert number >= (1 if situation.name == "ours" else 2)


@contextmanager
def situated_again(situation: Situation) -> Iterator[None]:
    """`patch.undo()` gave back the real renames; the working directory and the swap are still the situation's."""
    assert situation.swap or not module.swap(0, 0, "a")
    yield


# --- one case each --------------------------------------------------------------------------------------------------


def test_a_folder_of_ours_needs_overwrite(tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", OLD)
    for output in (folder, folder / "model.onnx", folder / "another.onnx"):
        with pytest.raises(OutputError, match=r"holds an earlier export; --overwrite replaces it"):
            destination(output, overwrite=False)
    assert snapshot(folder) == OLD


def test_a_folder_of_ours_is_exchanged_as_a_whole(tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", OLD)
    inode = folder.stat().st_ino
    run(folder, overwrite=True)
    assert snapshot(folder) == NEW
    assert folder.stat().st_ino != inode


def test_a_folder_of_ours_with_something_else_in_it_is_not_exchanged(tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", OLD | {"notes.txt": b"mine"})
    inode = folder.stat().st_ino
    run(folder, overwrite=True)
    assert snapshot(folder) == NEW | {"notes.txt": b"mine"}  # vocab.txt, of the old export alone, is gone
    assert folder.stat().st_ino == inode


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"files": 3}', '{"files": [[]]}', '"files"'])
def test_a_folder_with_a_damaged_record_is_not_ours(record: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", {RECORD: record.encode(), "model.onnx": b"?"})
    with pytest.raises(OutputError, match=r"already holds model\.onnx, prune_export\.json; --overwrite replaces them"):
        destination(folder, overwrite=False)
    run(folder, overwrite=True)
    assert snapshot(folder) == NEW


def test_the_model_is_placed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    placed = []
    monkeypatch.setattr(
        os, "rename", lambda path, target, **folders: (placed.append(target), RENAME(path, target, **folders))
    )
    run(folder / "a.onnx", files={"a.onnx": b"model", "a.onnx_data": b"weights", "vocab.txt": b"words", RECORD: b"{}"})
    assert placed == ["a.onnx_data", RECORD, "vocab.txt", "a.onnx"]


@pytest.mark.parametrize("name", ["model.onnx", "config.json", RECORD])
def test_a_file_that_is_there_is_an_error_before_the_work(name: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", {name: b"mine"})
    with pytest.raises(
        OutputError, match=f"already holds {name}; --overwrite replaces them, or choose another --output"
    ):
        destination(folder / "model.onnx", overwrite=False)


def test_a_link_that_leads_nowhere_is_there(tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    (folder / "model.onnx").symlink_to("nowhere")
    with pytest.raises(OutputError, match=r"already holds model\.onnx"):
        destination(folder / "model.onnx", overwrite=False)


@pytest.mark.parametrize("name", ["vocab.txt", "model.onnx"])
def test_a_file_that_appears_during_the_work_is_not_touched(name: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    place = destination(folder / "model.onnx", overwrite=False)
    with pytest.raises(OutputError, match=f"already holds {name}"), transaction(place.placement) as new:
        _ = fill(new, NEW | {"vocab.txt": b"ours"}), fill(folder, {name: b"theirs"})
    assert snapshot(folder) == {"notes.txt": b"mine", name: b"theirs"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_appears_during_the_work_is_not_touched(overwrite: bool, tmp_path: Path) -> None:
    place = destination(tmp_path / "out", overwrite=overwrite)
    with (
        pytest.raises(OutputError, match=r"out appeared or changed while the run went on; nothing was changed there"),
        transaction(place.placement),
    ):
        fill(tmp_path / "out", {"notes.txt": b"mine"})
    assert snapshot(tmp_path) == {"out/notes.txt": b"mine"}


def test_a_folder_of_the_models_name_is_not_touched(tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    fill(folder / "config.json", {"inner": b"mine"})
    with pytest.raises(OutputError, match=r"config\.json is a folder; expected a file or nothing"):
        run(folder / "model.onnx", overwrite=True)
    assert snapshot(tmp_path) == {"out/notes.txt": b"mine", "out/config.json/inner": b"mine"}


def test_a_folder_whose_name_ends_in_onnx(tmp_path: Path) -> None:
    (tmp_path / "out.onnx").mkdir()
    assert run(tmp_path / "out.onnx").path == tmp_path / "out.onnx" / "model.onnx"


@pytest.mark.parametrize("output", ["file", "file/model.onnx", "file/below", "file/below/model.onnx"])
def test_a_file_where_a_folder_is_expected(output: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"file is a file; expected a folder, or a file name that ends in \.onnx"):
        destination(tmp_path / output, overwrite=True)


def test_an_output_that_no_path_can_be(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    for output in (tmp_path / ("x" * 300), tmp_path / "one", tmp_path / "one" / "model.onnx", "~nobody-by-this-name/x"):
        with pytest.raises(OutputError) as caught:
            run(output)
        assert "\n" not in str(caught.value)


def test_a_name_that_is_too_long_leaves_no_parents(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="too long"):
        run(tmp_path / "a" / ("x" * 300) / "b")
    assert not any(tmp_path.iterdir())


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "real", OLD)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("missing")
    run(tmp_path / "link", overwrite=True)
    run(tmp_path / "dangling")
    assert snapshot(tmp_path / "real") == NEW
    assert snapshot(tmp_path / "missing") == NEW
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dangling").is_symlink()


def test_the_working_directory_stays_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "out", OLD)
    monkeypatch.chdir(folder)
    inode = folder.stat().st_ino
    run("model.onnx", overwrite=True)
    assert Path.cwd().stat().st_ino == folder.stat().st_ino == inode
    assert snapshot(folder) == NEW  # and vocab.txt, which only the old export had, is gone


@pytest.mark.parametrize("output", [".", "..", "../out", "../out/model.onnx", "below/..", "missing/.."])
def test_the_working_directory_by_other_names(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "out", OLD)
    (folder / "below").mkdir()
    monkeypatch.chdir(folder)
    run(output, overwrite=True)
    assert Path.cwd() == folder
    assert snapshot(tmp_path if output == ".." else folder).items() >= NEW.items()


def test_modes_respect_the_umask_and_an_existing_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    before = os.umask(0o027)
    try:
        run(tmp_path / "new")
        run(tmp_path / "empty")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "new" / "model.onnx").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o700


FULL = (errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(*FULL), r"cannot write in .*: No space left on device \(.* MiB free\)\. Nothing was changed there"),
        # shutil.copyfile names the source where the target's disk is full.
        (OSError(*FULL, "/elsewhere/config.json"), r"cannot write in .*: No space left on device \(.* MiB free\)\. .*"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/elsewhere/weights"),
            r"/elsewhere/weights: No such file or directory\. Nothing was changed in .*",
        ),
    ],
)
def test_errors_are_explained_in_one_line(error: OSError, message: str, tmp_path: Path) -> None:
    place = destination(tmp_path / "out", overwrite=False)
    with pytest.raises(OutputError) as caught, transaction(place.placement):
        raise error
    assert re.fullmatch(message, str(caught.value))
    assert not any(tmp_path.iterdir())


def test_a_reader_that_has_gone_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), transaction(destination(tmp_path / "out", overwrite=False).placement):
        raise BrokenPipeError
    assert not any(tmp_path.iterdir())


def test_sigterm_waits_where_it_is_handled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminated(BaseException): ...

    def terminate(*_: object) -> None:
        raise Terminated

    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    monkeypatch.setattr(
        os, "rename", lambda *names, **folders: (signal.raise_signal(signal.SIGTERM), RENAME(*names, **folders))
    )
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with pytest.raises(Terminated) as caught:
            run(folder / "model.onnx")
        assert caught.value.__notes__ == [f"{folder / 'model.onnx'} was complete before that"]
        assert signal.getsignal(signal.SIGTERM) is terminate
    finally:
        signal.signal(signal.SIGTERM, before)
    assert snapshot(folder) == NEW | {"notes.txt": b"mine"}


def test_outside_the_main_thread(tmp_path: Path) -> None:
    thread = threading.Thread(target=run, args=(tmp_path / "out",))
    thread.start()
    thread.join()
    assert snapshot(tmp_path / "out") == NEW


# --- other runs -----------------------------------------------------------------------------------------------------


@contextmanager
def another_run(output: Path, *, overwrite: bool) -> Iterator[Callable[[], int]]:
    """A run to `output` in another process, which waits with everything prepared; the value ends it: its exit code."""
    ready, ready_there = os.pipe()
    go_there, go = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            place = destination(output, overwrite=overwrite)
            with transaction(place.placement) as folder:
                fill(folder, NEW | {"model.onnx": b"the other's"})
                os.write(ready_there, b".")
                os.read(go_there, 1)
            code = 0
        except OutputError:
            code = 2
        finally:
            os._exit(code)
    os.read(ready, 1)

    def end() -> int:
        os.write(go, b".")
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    try:
        yield end
    finally:
        for descriptor in (ready, ready_there, go_there, go):
            os.close(descriptor)


@pytest.mark.parametrize("foreign", [False, True], ids=["whole", "single files"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["first wins", "last wins"])
def test_two_runs_at_once(foreign: bool, overwrite: bool, tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", {"notes.txt": b"mine"} if foreign else {})
    with another_run(folder, overwrite=overwrite) as end:
        (aside,) = hidden(tmp_path)
        run(folder, overwrite=overwrite)
        assert hidden(tmp_path) == [aside]  # it is alive, so it is left alone
        assert (folder / "model.onnx").read_bytes() == b"new model"
        assert end() == (0 if overwrite else 2)
    expected = NEW | ({"notes.txt": b"mine"} if foreign else {})
    assert snapshot(folder) == expected | ({"model.onnx": b"the other's"} if overwrite else {})
    assert not hidden(tmp_path)


def test_many_runs_at_once(tmp_path: Path) -> None:
    """Into one folder, files of different runs are never mixed."""
    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    names = ("a", "b", "model.onnx", RECORD)

    def work(number: int) -> Callable[[], object]:
        return lambda: [run(folder, overwrite=True, files=dict.fromkeys(names, b"%d" % number)) for _ in range(10)]

    children = [
        threading.Thread(target=lambda number=number: codes.append(in_child(work(number)))) for number in range(4)
    ]
    codes: list[int] = []
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert codes == [0] * 4
    assert len({(folder / name).read_bytes() for name in names}) == 1
    assert not hidden(tmp_path)


def test_the_rest_of_a_killed_run_is_cleared(tmp_path: Path) -> None:
    def work() -> None:
        with transaction(destination(tmp_path / "out", overwrite=False).placement) as folder:
            fill(folder, NEW)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    assert len(hidden(tmp_path)) == 1
    assert not (tmp_path / "out").exists()
    run(tmp_path / "out")
    assert not hidden(tmp_path)
    assert snapshot(tmp_path / "out") == NEW


# --- hidden folders that others made ------------------------------------------------------------------------------------


HOSTILE = {
    "the old journal": {
        "moving.json": json.dumps({"away": ["mine"], "placed": ["mine"]}).encode(),
        "old/mine": b"theirs",
    },
    "names that lead out": {
        "moving.json": json.dumps({"away": ["../mine", "/mine"], "placed": ["../../mine"]}).encode(),
        "new/mine": b"theirs",
    },
    "nothing but folders": {"new/model.onnx": b"theirs", "old/config.json": b"theirs", "lock": b""},
    "a journal that is no JSON": {"moving.json": b"{", "old/mine": b"theirs"},
    "somebody's notes": {"notes.txt": b"theirs"},
}


def hostile(place: Path, files: dict[str, bytes], name: str = ".prune-export-0123456789abcdef") -> Path:
    for path, content in files.items():
        fill((place / name / path).parent, {Path(path).name: content})
    return place / name


@pytest.mark.parametrize("files", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("place", ["out", "."], ids=["inside", "beside"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_hidden_folder_that_came_with_a_download_is_left_alone(
    files: dict[str, bytes],
    place: str,
    overwrite: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything that is cloned or unpacked belongs to the user who does it."""
    monkeypatch.setattr("prune_export.files.transaction._named", set())  # some versions of pytest use paths again
    folder = fill(tmp_path / "out", {"mine": b"mine", "notes.txt": b"mine"})
    fill(tmp_path, {"mine": b"mine"})
    aside = hostile(tmp_path / place, files)
    (aside / "link").symlink_to(tmp_path)
    before = snapshot(tmp_path)
    run(folder / "model.onnx", overwrite=overwrite)
    assert snapshot(tmp_path) == before | {f"out/{name}": content for name, content in NEW.items()}
    assert f"{str(aside)!r}: left alone" in caplog.text
    with pytest.raises(ZeroDivisionError), transaction(destination(folder / "a.onnx", overwrite=True).placement):
        _ = 1 // 0
    assert snapshot(tmp_path) == before | {f"out/{name}": content for name, content in NEW.items()}


def test_hidden_files_and_links_are_left_alone(tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", {".prune-export-file": b"mine"})
    (folder / ".prune-export-link").symlink_to(fill(tmp_path / "elsewhere", {"new": b"mine"}))
    before = snapshot(tmp_path)
    run(folder / "model.onnx")
    assert snapshot(tmp_path) == before | {f"out/{name}": content for name, content in NEW.items()}


def killed(output: Path, moment: str, *, files: dict[str, bytes] = NEW) -> Entry:
    """A run to `output`, killed when its journal says `moment`; returns the journal's entry."""

    def work() -> None:
        write = journal.write

        def note(entry: Entry) -> bool:
            done = write(entry)
            if entry.phase == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        journal.write = note
        run(output, overwrite=True, files=files)

    assert in_child(work) == -signal.SIGKILL
    (entry,) = [
        entry for entry in journal.entries() if Path(entry.folder).parent in (output.parent, output.parent.parent)
    ]
    return entry


ESCAPES = [
    {"away": ("../mine",)},
    {"away": ("..",)},
    {"placed": {"../mine": (1, 1, 1)}},
    {"placed": {"/mine": (1, 1, 1)}},
    {"removable": ("../mine",)},
    {"removable": ("a/../../mine",)},
    {"folder": "relative"},
    {"folder": "/tmp/../etc"},
]


@pytest.mark.parametrize("change", ESCAPES, ids=str)
def test_an_entry_with_names_that_lead_out_is_not_believed(change: dict[str, Any], tmp_path: Path) -> None:
    """Nobody can write there but the user; all the same, no name is taken that we do not write."""
    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    entry = killed(folder / "model.onnx", "placing")
    fill(tmp_path, {"mine": b"mine"})
    for name, value in change.items():
        setattr(entry, name, value)
    assert journal.write(entry)
    assert journal.read(entry.token) is None
    before = snapshot(tmp_path)
    recover(folder)
    assert snapshot(tmp_path) == before
    run(folder / "model.onnx")
    assert snapshot(tmp_path) == before | {f"out/{name}": content for name, content in NEW.items()}


@pytest.mark.parametrize("name", ["new", "old", "."])
def test_links_in_the_place_of_our_folders_are_not_followed(name: str, tmp_path: Path) -> None:
    """As when the rest of a killed run was changed by somebody before the next run."""
    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    entry = killed(folder / "model.onnx", "placing")
    theirs = fill(tmp_path / "elsewhere", {"config.json": b"mine", "model.onnx": b"mine"})
    fill(theirs / "new", {"config.json": b"mine"})
    shutil.rmtree(Path(entry.aside) / name)
    (Path(entry.aside) / name).symlink_to(theirs)
    before = snapshot(theirs)
    with suppress(OutputError):
        run(folder / "model.onnx", overwrite=True)
    assert snapshot(theirs) == before
    assert (folder / "notes.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"9" * 5000, b"\xff", b'{"token": 3}'])
def test_a_journal_that_cannot_be_read_blocks_nothing(content: bytes, tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    entry = killed(folder / "model.onnx", "placing")
    (entries,) = Path(os.environ["XDG_STATE_HOME"]).rglob(f"{entry.token}.json")
    entries.write_bytes(content)
    run(folder / "model.onnx")
    assert (folder / "model.onnx").read_bytes() == b"new model"
    assert hidden(tmp_path) == [Path(entry.aside)]  # left alone
    entries.unlink()


def test_what_the_user_wrote_after_a_kill_is_not_lost(tmp_path: Path) -> None:
    """All was in place but for the last note: undoing it must not take the user's own file for ours."""
    folder = fill(tmp_path / "out", {"notes.txt": b"mine", "config.json": b"before"})
    moved: list[str] = []

    def work() -> None:
        def rename(path: str, target: str, **folders: int) -> None:
            RENAME(path, target, **folders)
            moved.append(target)
            if moved.count("config.json") == 2:  # away, and the new one placed
                os.kill(os.getpid(), signal.SIGKILL)

        os.rename = rename
        run(folder / "model.onnx", overwrite=True)

    assert in_child(work) == -signal.SIGKILL
    assert (folder / "config.json").read_bytes() == b"new config"
    (folder / "config.json").write_bytes(b"by the user's hand")
    with pytest.raises(
        OutputError, match=r"config\.json was changed after a run that was killed; what stood there before lies"
    ):
        run(folder / "model.onnx", overwrite=True)
    assert (folder / "config.json").read_bytes() == b"by the user's hand"
    (old,) = folder.glob(".prune-export-*/old/config.json")
    assert old.read_bytes() == b"before"


def test_an_output_replaced_by_a_link_after_a_kill(tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    entry = killed(folder / "model.onnx", "placing")
    theirs = fill(tmp_path / "elsewhere", {"config.json": b"mine", "model.onnx": b"mine"})
    (tmp_path / "out").rename(tmp_path / "moved")
    Path(entry.aside.replace("/out/", "/moved/")).rename(theirs / Path(entry.aside).name)
    (tmp_path / "out").symlink_to(theirs)
    before = snapshot(theirs)
    with suppress(OutputError):
        run(folder / "model.onnx")
    assert before.items() <= snapshot(theirs).items()


@pytest.mark.parametrize("moment", ["preparing", "placing"])
def test_another_folder_of_that_name_is_left_alone(moment: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    entry = killed(folder / "model.onnx", "placing")
    entry.phase = moment  # type: ignore[assignment]
    assert journal.write(entry)
    shutil.move(entry.aside, tmp_path / "moved")
    for files in ({}, {"notes.txt": b"mine"}):
        fill(Path(entry.aside), files)
        run(folder / "model.onnx", overwrite=True)
        assert snapshot(Path(entry.aside)) == files
        assert snapshot(folder).items() >= NEW.items()


def test_a_copied_output_is_not_taken_for_the_exchanged_one(tmp_path: Path) -> None:
    """The folders were not exchanged yet, and the copy of what was prepared has another inode."""
    work, folder = tmp_path / "work", fill(tmp_path / "work" / "out", OLD)
    entry = killed(folder, "exchanging")
    assert entry.phase == "exchanging"
    shutil.copytree(work, tmp_path / "copy", symlinks=True)
    copied = Path(entry.aside.replace("/work/", "/copy/"))
    shutil.rmtree(Path(entry.aside) / "new")
    shutil.copytree(copied / "new", Path(entry.aside) / "new")
    recover(folder)
    assert snapshot(folder) == OLD


def test_a_lock_of_somebody_else_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another program holds a lock"):
            run(folder / "model.onnx")
    finally:
        os.close(descriptor)
    assert snapshot(tmp_path) == {"out/notes.txt": b"mine"}


@pytest.mark.parametrize("phase", ["placing", "discarding"])
def test_a_journal_that_cannot_be_written_changes_nothing(
    phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "out", {"notes.txt": b"mine", "config.json": b"before", "model.onnx": b"before"})
    before = snapshot(folder)
    write = journal.write
    monkeypatch.setattr(journal, "write", lambda entry: entry.phase != phase and write(entry))
    with pytest.raises(OutputError):
        run(folder / "model.onnx", overwrite=True)
    assert snapshot(tmp_path) == {f"out/{name}": content for name, content in before.items()}


def test_a_file_that_appears_in_a_folder_that_is_exchanged_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "out", OLD)
    swap = module.swap
    monkeypatch.setattr(module, "swap", lambda *names: (fill(folder, {"notes.txt": b"mine"}), swap(*names))[1])
    run(folder, overwrite=True)
    assert snapshot(tmp_path) == {f"out/{name}": content for name, content in (NEW | {"notes.txt": b"mine"}).items()}


def test_without_a_place_for_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole folder needs none; to place files one by one without one is refused."""
    monkeypatch.setattr(journal, "state_folder", lambda _: None)
    run(tmp_path / "new")
    assert snapshot(tmp_path / "new") == NEW
    folder = fill(tmp_path / "out", {"notes.txt": b"mine", "model.onnx": b"old"})
    before = snapshot(folder)
    with pytest.raises(OutputError, match="XDG_STATE_HOME"):
        run(folder, overwrite=True)
    assert snapshot(folder) == before
    assert not hidden(tmp_path)


def test_the_state_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that others can write in is not used, nor one that is a link."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    assert state_folder("transactions") == tmp_path / "state" / "prune-export" / "transactions"
    (tmp_path / "state" / "prune-export").chmod(0o777)
    private = state_folder("transactions")
    assert private == tmp_path / "tmp" / f"prune-export-{os.getuid()}" / "transactions"
    assert private.stat().st_mode & 0o077 == 0
    shutil.rmtree(private.parent)
    private.parent.symlink_to(fill(tmp_path / "elsewhere", {}))
    assert state_folder("transactions") is None


# --- other file systems and users -----------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mount is not allowed here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("output", ["out", "there/model.onnx", "ours"])
def test_a_full_disk_leaves_what_was_there(output: str, tmp_path: Path) -> None:
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=2m", "tmpfs"):
        fill(tmp_path / "there", {"notes.txt": b"mine"})
        fill(tmp_path / "ours", OLD)
        before = snapshot(tmp_path)
        with pytest.raises(
            OutputError, match=r"^cannot write in .*: No space left on device \(0 MiB free\)\. Nothing was"
        ):
            run(tmp_path / output, overwrite=True, files={"model.onnx": bytes(3 << 20)})
        assert snapshot(tmp_path) == before
        assert not hidden(tmp_path)
        place = destination(tmp_path / output, overwrite=True)
        check_space(place, 1 << 20)
        with pytest.raises(OutputError, match=r"no space in .*: 4 MiB needed, 2 MiB free"):
            check_space(place, 4 << 20)


@pytest.mark.parametrize("arguments", [("-t", "tmpfs", "tmpfs"), ("--bind", ".")], ids=["volume", "bind"])
@pytest.mark.parametrize("files", [{}, OLD], ids=["empty", "ours"])
def test_a_mount_point_stays(arguments: tuple[str, ...], files: dict[str, bytes], tmp_path: Path) -> None:
    """As with `docker run -v …:/out`: it cannot be renamed, and its parent is another file system."""
    folder = tmp_path / "with space"
    folder.mkdir()
    if arguments[0] == "--bind":
        arguments = ("--bind", str(fill(tmp_path / "volume", {})))
    with mounted(folder, *arguments):
        fill(folder, files)
        run(folder, overwrite=True)
        assert snapshot(folder) == NEW


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter (pytest's own are private)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(work: Callable[[], object]) -> str:
    """What `work` raises when a user without rights runs it."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    reader, writer = os.pipe()

    def there() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            work()
        except Exception as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())

    in_child(there)
    os.close(writer)
    with os.fdopen(reader) as file:
        return file.read()


def test_no_permission(open_folder: Path) -> None:
    fill(open_folder / "private", {"notes.txt": b"mine"}).chmod(0o700)
    fill(open_folder / "readable", {"notes.txt": b"mine"})
    before = snapshot(open_folder)
    for output in ("new", "readable/model.onnx", "readable/new/model.onnx", "private/new", "private/model.onnx"):
        message = as_nobody(lambda output=output: run(open_folder / output, overwrite=True))
        assert message.startswith("OutputError: "), output
        assert "ermission" in message
        assert str(open_folder) in message
        assert "choose another --output" in message
    assert snapshot(open_folder) == before


def test_a_folder_whose_parent_cannot_be_written(open_folder: Path) -> None:
    for name, files in (("empty", {}), ("ours", OLD)):
        folder = fill(open_folder / name, files)
        os.chown(folder, 65534, 65534)
        assert as_nobody(lambda folder=folder: run(folder, overwrite=True)) == ""
        assert snapshot(folder) == NEW
