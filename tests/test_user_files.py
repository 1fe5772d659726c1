"""However a run ends, every byte that was the user's is still there, and nothing outside the output changed.

Each case is a home folder with random files, links and hostile hidden folders in, beside and above the output; one verb
that writes; and one way to end: success, an error, or Ctrl-C or kill -9 at a random change on the disk.
`PRUNE_EXPORT_CASES` says how many cases a verb gets (default: 12); a case is its number, so one can be run again alone.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w
import torch

import prune_export
from prune_export.cli.main import main
from prune_export.facts.file_names import DEFAULT_MODEL, PLAN_FILE, RECORD, SLIM, TOKENIZER_FILES
from prune_export.files.transaction import recover
from prune_export.outputs.folder_types import MASKED, SLIM_CHECKPOINT, FolderType, exported
from prune_export.outputs.run import run_files
from tests.tiny_training import checkpoint_folder, questions_file, recipe_data

CASES = int(os.environ.get("PRUNE_EXPORT_CASES", "12"))
ENDINGS = ("success", "error", "ctrl-c", "kill")

pytestmark = pytest.mark.slow

Tree = dict[str, bytes | str]


def tree(root: Path) -> Tree:
    """Every file (its bytes), link (where it leads) and folder below `root`."""
    found: Tree = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = "a folder"
    return found


@dataclass(frozen=True)
class Material:
    """What is read, made once: a checkpoint, questions, a recipe, and an earlier output of each verb."""

    root: Path

    @property
    def model(self) -> str:
        return str(self.root / "model")

    @property
    def questions(self) -> str:
        return str(self.root / "questions.json")

    def earlier(self, verb: str) -> Path:
        return self.root / f"earlier-{verb}"


Words = Callable[[Material, Path, bool], int]


def _export(material: Material, out: Path, overwrite: bool) -> int:
    words = ["--model", material.model, "--output", str(out), "--target", "portable", "--samples", "4", "--quiet"]
    return main([*words, *["--overwrite"] * overwrite])


def _prune(material: Material, out: Path, overwrite: bool) -> int:
    words = ["prune", "--model", material.model, "--calibration", material.questions, "--samples", "8", "--quiet"]
    words += ["--flops", "0.7", "--output", str(out), "--max-seq-length", "24", "--no-gradual"]
    return main([*words, *["--overwrite"] * overwrite])


def _train(material: Material, out: Path, overwrite: bool) -> int:
    words = ["train", str(material.root / "recipe.toml"), "--output", str(out), "--quiet"]
    return main([*words, "--overwrite" if overwrite else "--resume"])


def _save_pretrained(material: Material, out: Path, overwrite: bool) -> int:  # noqa: ARG001
    try:
        prune_export.slim(material.model).save_pretrained(out)
    except prune_export.PruneExportError:
        return 1
    return 0


def _evaluate(material: Material, out: Path, overwrite: bool) -> int:
    words = ["evaluate", "--model", material.model, "--data", material.questions, "--limit", "4", "--quiet"]
    words += ["--predictions", str(out / "config.json"), "--max-seq-length", "24", "--doc-stride", "4"]
    return main([*words, *["--overwrite"] * overwrite])


def _verify(material: Material, out: Path, overwrite: bool) -> int:  # noqa: ARG001
    words = [
        "verify",
        "--model",
        material.model,
        "--onnx",
        str(material.earlier("export")),
        "--samples",
        "4",
        "--quiet",
    ]
    return main([*words, "--junit", str(out / "vocab.txt")])


def _bench(material: Material, out: Path, overwrite: bool) -> int:  # noqa: ARG001
    words = ["bench", "--onnx", str(material.earlier("export")), "--batch-size", "1", "--sequence-length", "8"]
    return main([*words, "--rounds", "1", "--seconds", "0.01", "--threads", "1", "--output", str(out), "--quiet"])


VERBS: dict[str, Words] = {
    "export": _export,
    "prune": _prune,
    "train": _train,
    "save_pretrained": _save_pretrained,
    "evaluate": _evaluate,
    "verify": _verify,
    "bench": _bench,
}
NUMBERS = [(verb, number) for verb in VERBS for number in range(CASES if verb != "bench" else CASES // 3)]


SOUND = FolderType.removable  # as it is before a test changes it


def replaceable(verb: str, out: Path, overwrite: bool) -> set[str]:
    """Names in `out` that the user allows to be replaced or, in an earlier output, removed."""
    try:
        match verb:
            case "export" if overwrite:
                return set(exported(DEFAULT_MODEL).files | SOUND(exported(DEFAULT_MODEL), out))
            case "prune" if overwrite:
                return set(MASKED.files | SOUND(MASKED, out))
            case "train" if overwrite:
                return set(run_files(out))
            case "save_pretrained":
                return set(SOUND(SLIM_CHECKPOINT, out))
            case "evaluate" if overwrite:
                return {"config.json", "config.null_odds.json"}
    except (OSError, prune_export.PruneExportError):
        pass
    return set()


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Material]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # children are forked
    root = tmp_path_factory.mktemp("material")
    checkpoint_folder(root / "model")
    questions_file(root / "questions.json", count=16)
    recipe = recipe_data(root, schedule={"steps": 2}, method={"kind": "none"})
    (root / "recipe.toml").write_text(tomli_w.dumps(recipe))
    made = Material(root)
    for verb in ("export", "prune", "train", "save_pretrained", "bench"):
        assert VERBS[verb](made, made.earlier(verb), True) == 0, verb
    made.earlier("evaluate").mkdir()
    made.earlier("verify").mkdir()
    yield made
    torch.set_num_threads(threads)


# --- a world --------------------------------------------------------------------------------------------------------

NAMES = (
    *("thesis", "notes.txt", "photos/1.jpg", ".bashrc", "recipe.toml", "run.json", "log.jsonl", "other.onnx"),
    *("config.json", "model.onnx", "model.onnx_data", RECORD, PLAN_FILE, SLIM, "model.safetensors", *TOKENIZER_FILES),
    *("bench.json", "bench.md", "bench.svg"),
    *("final/config.json", "final/notes.txt", "checkpoints/01-none/checkpoint-1/optimizer.pt", "stages/mine.txt"),
    *("checkpoints/mine.txt", "tensorboard/mine", "new/config.json", "old/config.json"),
)
TARGETS = ("../.ssh/id_rsa", "../../.ssh/id_rsa", "nowhere", "..", ".", "../photos", "/dev/null")


def fill(path: Path, dice: random.Random) -> None:
    """A file of the user, if nothing stands in its way."""
    if any(os.path.lexists(part) and not part.is_dir() for part in (*path.parents, path)) or path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if dice.random() < 0.2:
        path.symlink_to(dice.choice(TARGETS))
    else:
        path.write_bytes(f"the user's {path.name}, {dice.random()}".encode())


def hostile_folder(place: Path, dice: random.Random) -> None:
    """What looks like the rest of a killed run, in today's form and in an earlier one, and leads elsewhere."""
    aside = place / f".prune-export-{dice.getrandbits(128):032x}"
    for part in ("new", "old"):
        for name in dice.sample(("config.json", "model.onnx", "notes.txt", "out", RECORD), 2):
            (aside / part).mkdir(parents=True, exist_ok=True)
            if dice.random() < 0.3:
                (aside / part / name).symlink_to(dice.choice(TARGETS))
            else:
                (aside / part / name).write_bytes(b"hostile")
    names = dice.sample(("thesis", "notes.txt", "../.ssh/id_rsa", "/etc/passwd", "config.json", "model.onnx", "out"), 3)
    journal = {"away": names, "placed": names, "phase": "placing", "aside": str(aside), "folder": str(place)}
    (aside / "moving.json").write_text(json.dumps(journal))
    (aside / "owner").write_text("0" * 32)
    (aside / "lock").write_bytes(b"")


def hostile_marker(out: Path, dice: random.Random) -> None:
    """A marker that claims the user's files."""
    for name, form in ((RECORD, "record"), (PLAN_FILE, "plan"), ("run.json", "run"), (PLAN_FILE, "slim")):
        if not os.path.lexists(out / name) and dice.random() < 0.4:
            files = ["thesis", "photos", "photos/1.jpg", "../.ssh/id_rsa", "notes.txt", "other.onnx", name, "."]
            (out / name).write_text(json.dumps({"format": f"prune-export/{form}", "version": 1, "files": files}))


def world(home: Path, verb: str, material: Material, dice: random.Random) -> Path:
    """A home folder; returns the output in it."""
    work = home / "work"
    out = work / "out"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_rsa").write_bytes(b"a key")
    work.mkdir()
    kind = dice.choice(("nothing", "empty", "earlier", "earlier", "files"))
    if kind == "earlier":
        shutil.copytree(material.earlier(verb), out)
    elif kind != "nothing":
        out.mkdir()
    places = [home, work] + [out] * (kind in ("earlier", "files"))
    for place in places:
        for name in dice.sample(NAMES, dice.randint(0, 5)):
            fill(place / name, dice)
        if dice.random() < 0.4:
            hostile_folder(place, dice)
    if kind == "files":
        hostile_marker(out, dice)
    return out


# --- a case ---------------------------------------------------------------------------------------------------------


CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "shutil.rmtree"}


def at_a_change(number: int, signal_number: int) -> None:
    """Sends this process a signal right before its change of that number on the disk, counted from 1."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        flags = arguments[2] if event == "open" and len(arguments) == 3 else 0
        if event in CHANGES or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal_number)

    sys.addaudithook(hook)


def in_child(work: Callable[[], int], ending: str, dice: random.Random) -> int:
    """Runs `work` in a forked child that ends as `ending` says; returns its exit code (negative: the signal)."""
    limit, number = dice.choice((2_000, 20_000, 60_000)), round(2 ** dice.uniform(0, 6))
    child = os.fork()
    if child == 0:
        code = 99
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if ending == "error":  # every write beyond it fails
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            elif ending != "success":
                at_a_change(number, signal.SIGINT if ending == "ctrl-c" else signal.SIGKILL)
            code = work()
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            import traceback

            Path(os.environ["FAILURE"]).write_text(traceback.format_exc())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("verb", "number"), NUMBERS)
def test_what_is_the_users_stays(
    verb: str, number: int, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_case(verb, number, ENDINGS[number % len(ENDINGS)], material, tmp_path, monkeypatch)


def run_case(
    verb: str, number: int, ending: str, material: Material, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Makes a world, lets the verb end in it, and checks it; returns the exit code."""
    dice = random.Random(f"{verb} {number}")
    home, overwrite = folder / "home", dice.random() < 0.6
    out = world(home, verb, material, dice)
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(folder / name))
    monkeypatch.setenv("FAILURE", str(folder / "failure"))
    monkeypatch.setenv("HOME", str(home))
    before = tree(home)
    inputs = tree(material.root)
    may_go = replaceable(verb, out, overwrite)

    code = in_child(lambda: VERBS[verb](material, out, overwrite), ending, dice)
    assert not (folder / "failure").exists(), (folder / "failure").read_text()
    if ending == "success":
        assert code in (0, 1, 2), code
    if code < 0:
        recover(out)  # as the next run does when it begins

    after = tree(home)
    inside = f"{out.relative_to(home)}/"
    for name, content in before.items():
        if name.startswith(inside) and name.removeprefix(inside) in may_go:
            continue
        if content == "a folder" and name.startswith(inside) and overwrite and name not in after:
            continue  # of an earlier output, whose files are gone
        assert after.get(name) == content, f"{name}: {str(content)[:60]} became {str(after.get(name))[:60]}"
    new = {name for name in after.keys() - before.keys() if name != inside.rstrip("/") and not name.startswith(inside)}
    assert not new
    assert not [name for name in after.keys() - before.keys() if ".prune-export-" in name]
    assert tree(material.root) == inputs
    return code


def failures(material: Material, root: Path) -> int:
    """How many of some cases, all of which end by themselves, find that something of the user's is gone."""
    count = 0
    for verb in ("export", "prune", "train"):
        for number in range(8):
            with pytest.MonkeyPatch.context() as patch:
                folder = root / f"{verb}-{number}"
                folder.mkdir(parents=True)
                try:
                    run_case(verb, number, "success", material, folder, patch)
                except AssertionError:
                    count += 1
    return count


def test_the_cases_have_teeth(material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rules taken away: markers are believed, and what a hidden folder holds is cleared away."""
    assert failures(material, tmp_path / "sound") == 0

    def believed(kind: FolderType, folder: Path) -> frozenset[str]:
        names = os.listdir(folder) if folder.is_dir() else ()
        return frozenset(names) if kind.marker in names else frozenset()

    with monkeypatch.context() as patch:
        patch.setattr(FolderType, "removable", believed)
        assert failures(material, tmp_path / "markers") >= 2

    def cleared(folder: Path) -> None:
        for place in (folder, folder.parent):
            for path in place.glob(".prune-export-*"):
                shutil.rmtree(path)

    with monkeypatch.context() as patch:
        for module in ("files.transaction", "outputs.destination"):
            patch.setattr(f"prune_export.{module}.recover", cleared)
        assert failures(material, tmp_path / "hidden") >= 2
