"""Nothing half-written: whatever stops a run, and wherever, the destination is as it was or complete.

Kills and interruptions are tried at every line of `exporters.artifact` that a run executes, in a forked child.
"""

from __future__ import annotations

import errno
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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from filelock import FileLock

from exporters import artifact
from exporters.artifact import RECORD, Destination, clear_remains, destination, staging
from exporters.errors import OutputError

Snapshot = dict[str, bytes | str]

NEW = {
    "config.json": b"new config",
    "model.onnx": b"new model",
    "model.onnx_data": b"new weights",
    RECORD: json.dumps({"files": ["config.json", "model.onnx", "model.onnx_data"]}).encode(),
}
OLD = {
    "config.json": b"old config",
    "model.onnx": b"old model",
    "vocab.txt": b"only in the old export",
    RECORD: json.dumps({"files": ["config.json", "model.onnx", "vocab.txt"]}).encode(),
}


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def run(output: str | Path, *, overwrite: bool = False, files: dict[str, bytes] = NEW) -> Destination:
    place = destination(output, overwrite=overwrite)
    with staging(place) as folder:
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
    """Calls `act` before every line that runs in exporters/artifact.py, with its number, counted from 1."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != artifact.__file__:
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
            patch.setattr(artifact, "_swap", lambda *_: False)
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
        with pytest.raises(ZeroDivisionError), staging(place) as folder:
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
        with each_line(note), staging(place) as folder:
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
                with each_line(kill), staging(place) as folder:
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
                with each_line(press), staging(place) as folder:
                    fill(folder, NEW)
                interrupted = False
            except KeyboardInterrupt as error:
                complete = any("complete" in note for note in getattr(error, "__notes__", ()))
            leftovers += bool(hidden(root))
            clear_remains(place.folder if place.folder.is_dir() and not place.whole else place.folder.parent)
            assert snapshot(root) == (after if not interrupted or complete else before), f"before line {line}"
            assert not hidden(root)
    assert line > 50
    assert leftovers <= 8  # the few lines between making the hidden folder and being ready to remove it


class _Renames:
    """Path.rename, failing from call `first` (counted from 1) up to call `last`."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.count = first, last, 0

    def __call__(self, path: Path, target: Path) -> None:
        self.count += 1
        if self.first <= self.count <= self.last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path), None, str(target))
        os.rename(path, target)  # noqa: PTH104


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
            patch.setattr(Path, "rename", lambda path, target, renames=renames: renames(path, target))
            try:
                with staging(place) as folder:
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
    assert situation.swap or not artifact._swap(Path("a"), Path("b"))
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
    assert snapshot(folder) == OLD | NEW | {"notes.txt": b"mine"}
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
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, target: (placed.append(Path(target).name), rename(path, target)))
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
    with pytest.raises(OutputError, match=f"already holds {name}"), staging(place) as new:
        _ = fill(new, NEW | {"vocab.txt": b"ours"}), fill(folder, {name: b"theirs"})
    assert snapshot(folder) == {"notes.txt": b"mine", name: b"theirs"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_appears_during_the_work_is_not_touched(overwrite: bool, tmp_path: Path) -> None:
    place = destination(tmp_path / "out", overwrite=overwrite)
    with (
        pytest.raises(OutputError, match=r"out appeared while the export ran; nothing was changed there"),
        staging(place),
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
    with pytest.raises(OutputError) as caught, staging(place):
        raise error
    assert re.fullmatch(message, str(caught.value))
    assert not any(tmp_path.iterdir())


def test_a_reader_that_has_gone_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), staging(destination(tmp_path / "out", overwrite=False)):
        raise BrokenPipeError
    assert not any(tmp_path.iterdir())


def test_sigterm_waits_where_it_is_handled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminated(BaseException): ...

    def terminate(*_: object) -> None:
        raise Terminated

    folder = fill(tmp_path / "out", {"notes.txt": b"mine"})
    rename = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda path, target: (signal.raise_signal(signal.SIGTERM), rename(path, target))
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
            with staging(place) as folder:
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
        with staging(destination(tmp_path / "out", overwrite=False)) as folder:
            fill(folder, NEW)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    assert len(hidden(tmp_path)) == 1
    assert not (tmp_path / "out").exists()
    run(tmp_path / "out")
    assert not hidden(tmp_path)
    assert snapshot(tmp_path / "out") == NEW


def test_what_only_looks_like_the_rest_of_a_run_is_not_touched(tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", {".prune-export-file": b"mine"})
    fill(folder / ".prune-export-folder", {"notes.txt": b"mine"})
    (folder / ".prune-export-link").symlink_to(fill(tmp_path / "elsewhere", {"new": b"mine"}))
    before = snapshot(tmp_path)
    run(folder / "model.onnx")
    assert snapshot(tmp_path) == before | {f"out/{name}": content for name, content in NEW.items()}


def test_a_hidden_folder_of_another_user_is_not_touched(tmp_path: Path) -> None:
    """It could hold a journal that moves our files about."""
    if os.getuid() != 0:
        pytest.skip("only root can make another user's folder")
    aside = fill(tmp_path / ".prune-export-theirs", {"moving.json": b'{"away": [], "placed": ["mine"]}'})
    os.chown(aside, 65534, 65534)
    fill(tmp_path, {"mine": b"mine"})
    clear_remains(tmp_path)
    assert (tmp_path / "mine").is_file()
    assert aside.is_dir()


@pytest.mark.parametrize("still_clearing", [False, True])
def test_a_run_that_is_taken_for_a_killed_one_goes_on(
    still_clearing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making the hidden folder and locking it, another run may clear it away."""
    made: list[Path] = []
    make = tempfile.mkdtemp
    others: list[FileLock] = []

    def slow(**arguments: Any) -> str:
        made.append(Path(make(**arguments)))
        if len(made) == 1 and still_clearing:
            others.append(FileLock(made[0] / "lock"))
            others[0].acquire()
        elif len(made) == 1:
            clear_remains(tmp_path)
            assert not made[0].exists()
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", slow)
    run(tmp_path / "out")
    assert snapshot(tmp_path / "out") == NEW
    assert hidden(tmp_path) == made[:-1]
    for other in others:
        other.release()


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
        artifact.check_space(place, 1 << 20)
        with pytest.raises(OutputError, match=r"no space in .*: 4 MiB needed, 2 MiB free"):
            artifact.check_space(place, 4 << 20)


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
