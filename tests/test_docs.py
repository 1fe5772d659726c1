"""README.md and docs/: links resolve, commands and names exist, tables are those of the results."""

from __future__ import annotations

import ast
import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import prune_export
from benchmarks import pruning_tables, readme, recipes_tables, search_tables, training_tables
from benchmarks.speed import DENSE_ONNX
from docs import architecture, families
from prune_export.cli.main import VERBS, main

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
# Options of other programs that the pages name.
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
FOREIGN = {"--nproc-per-node", "--na-prob-file", "--openvino", "--only", "--runs"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$|^    .*?$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def blocks_of(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), flags=re.MULTILINE | re.DOTALL)


def commands_of(page: Path) -> Iterator[list[str]]:
    """The words of every prune-export command in the page's shell blocks and inline code."""
    lines = [
        line for block in blocks_of(page, "sh") for line in re.sub(r"\\\n\s*", "", block).splitlines() if line.strip()
    ]
    for line in [*lines, *re.findall(r"`(prune-export [^`]+)`", prose_of(page))]:
        words = shlex.split(line, comments=True)
        if words[0] == "prune-export":
            yield words[1:]


@cache
def options_of(verb: str) -> frozenset[str]:
    """The options that `prune-export VERB --help` names."""
    with redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
        main([verb, "--help"])
    return frozenset(OPTION.findall(printed.getvalue()))


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


@each_page
def test_links_resolve(page: Path) -> None:
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose_of(page))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"\]\(([^)#]+\.md)\)", text_of(DOCS / "index.md")))
    assert {page.relative_to(DOCS).as_posix() for page in PAGES[1:]} - {"index.md"} <= listed


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_page(verb: str) -> None:
    """The index's row of the page names the verb, and the page shows a command of it."""
    row = re.search(rf"^\| \[\w+\]\(([\w.]+)\) \|.*`prune-export {verb}`", text_of(DOCS / "index.md"), re.MULTILINE)
    assert row is not None
    commands = list(commands_of(DOCS / row[1]))
    assert any(words[0] == verb or (verb == "export" and words[0].startswith("--")) for words in commands)


@each_page
def test_commands_have_options_that_exist(page: Path) -> None:
    for words in commands_of(page):
        verb = words[0] if words[0] in VERBS or words[0] == "VERB" else "export"
        known = frozenset({"--help"}) if verb == "VERB" else options_of(verb)
        unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - known
        assert not unknown, f"prune-export {' '.join(words)}"


@each_page
def test_options_in_the_prose_exist(page: Path) -> None:
    named = {option for code in re.findall(r"`[^`]+`", prose_of(page)) for option in OPTION.findall(code)}
    assert named - frozenset().union(*map(options_of, VERBS)) <= FOREIGN


@each_page
def test_python_examples_are_of_names_that_exist(page: Path) -> None:
    for block in blocks_of(page, "python"):
        ast.parse(block)
    for name in re.findall(r"\bprune_export\.([A-Za-z]\w*)\b(?!/)", "".join(blocks_of(page, "python"))):
        assert name in prune_export.__all__
        assert hasattr(prune_export, name)


@each_page
def test_make_targets_and_files_exist(page: Path) -> None:
    makefile = text_of(ROOT / "Makefile")
    code = " ".join([*blocks_of(page, "sh"), *re.findall(r"`[^`]+`", prose_of(page))])
    for target in re.findall(r"\bmake ([a-z][\w-]*)", code):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"`((?:benchmarks|examples|prune_export|exporters|tests|docs)/[\w./*-]+)`", prose_of(page)):
        assert list(ROOT.glob(path)), path
    for module in re.findall(r"python -m (benchmarks[\w.]*)", code):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


@pytest.mark.parametrize(
    "tables",
    [readme, pruning_tables, training_tables, recipes_tables, search_tables],
    ids=lambda module: module.__name__,
)
def test_tables_are_those_of_the_results(tables: ModuleType) -> None:
    contents = tables.contents()
    assert contents
    for page, name, content in contents:
        assert f"<!-- {name} -->\n\n{content}\n\n<!-- /{name} -->" in text_of(page), f"python -m {tables.__name__}"


def test_pruning_alone_is_the_median_ratio_of_the_rounds() -> None:
    dense, slim = np.array([80.0, 120.0, 90.0]), np.array([40.0, 40.0, 60.0])
    rows = [
        {"row": name, "milliseconds": {"rounds": list(rounds)}}
        for name, rounds in (("dense PyTorch", 2 * dense), (DENSE_ONNX, dense), ("prune-export fp32", slim))
    ]
    assert readme.pruning_alone(rows) == np.median(dense / slim) == 2
    assert readme.pruning_alone(rows[1:2]) is None


def test_the_readme_has_pruning_alone_by_its_own_times() -> None:
    """The row divides the times that stand above it."""
    rows = [
        line.split("|")[2:-1] for line in text_of(ROOT / "README.md").splitlines() if re.match(r"\| (ONNX|\*\*)", line)
    ]
    times, alone = ([float(re.sub(r"[^\d.]", "", cell)) for cell in row] for row in rows)
    assert np.allclose(alone, np.array(times[0]) / times, rtol=5e-3)  # of rounded figures


def test_the_table_of_families_is_made_of_them() -> None:
    assert families.PAGE.read_text(encoding="utf-8") == families.page(), "python -m docs.families"


def test_the_picture_of_the_layers_is_drawn_from_the_contracts() -> None:
    assert architecture.PICTURE.read_text(encoding="utf-8") == architecture.picture(), "python -m docs.architecture"
    assert architecture.PAGE.read_text(encoding="utf-8") == architecture.page(), "python -m docs.architecture"
