"""A few cases of `make fuzz`, always the same."""

from __future__ import annotations

import pytest

from exporters.errors import DataError
from tests.fuzz.readers import Reader, readers
from tests.fuzz.running import fuzz

NAMES = (
    "config.json",
    "safetensors index",
    "safetensors",
    "pickled weights",
    "plan",
    "pruning.json",
    "slim record",
    "export record",
    "recipe",
    "tokenizer_config.json",
    "tokenizer.json",
    "data: squad",
    "data: mrqa",
    "data: glue",
    "data: gzip",
    "data: csv",
    "data: quoted tsv",
    "data: flat questions",
    "data: json lines",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return {reader.name: reader for reader in readers(tmp_path_factory.mktemp("fuzz"))}


def test_every_reader_has_a_case(made: dict[str, Reader]) -> None:
    assert tuple(made) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_refused_or_read(name: str, made: dict[str, Reader]) -> None:
    found = fuzz(made[name], first_seed=0, cases=60)
    assert found.failure is None
    assert found.cases >= 60
    assert found.refused > 0


def _raise(error: BaseException) -> None:
    raise error


class _RawError(DataError):
    """Without what makes messages bearable."""

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)


@pytest.mark.parametrize(
    ("error", "fact"),
    [
        (ValueError("x"), "ValueError"),
        (_RawError("two\nlines"), "more than one line"),
        (_RawError("x" * 5_000), "a message of 5000"),
        (_RawError("\x1b[31m"), "control characters"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_the_oracle_notices(error: BaseException, fact: str, made: dict[str, Reader]) -> None:
    reader = made["plan"]
    broken = Reader("broken", reader.path, reader.files, lambda: _raise(error))
    found = fuzz(broken, first_seed=0, cases=5)
    assert found.failure is not None
    assert fact in found.failure
