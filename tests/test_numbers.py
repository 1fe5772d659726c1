"""Every number of every option: of the wrong kind or out of range, it is one line, before anything is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest

from exporters.errors import UsageError
from prune_export.cli.main import VERBS, main, parser_of
from prune_export.cli.parser import path
from prune_export.options import ranges as numbers
from prune_export.options.ranges import Range

BAD = ("nan", "inf", "-inf", "1e999", "-1e999", "", " ", "x", "0x10", "1,5", "½", "9" * 5000, "-1", "-0.5")
MAY_BE_NEGATIVE = ("--null-threshold",)


def number_options() -> Iterator[tuple[str, str]]:
    """The verbs' options whose words are turned into something else, other than paths."""
    for verb in VERBS:
        for action in parser_of(verb)._actions:
            if action.type not in (None, path):
                yield verb, action.option_strings[0]


def test_every_number_goes_the_same_way() -> None:
    found = list(number_options())
    assert {"export", "verify", "evaluate", "bench", "prune", "profile"} <= {verb for verb, _ in found}
    assert {"--samples", "--flops", "--atol", "--null-threshold", "--seconds"} <= {option for _, option in found}
    assert len(found) > 40
    for verb in VERBS:
        plain = [action.option_strings for action in parser_of(verb)._actions if action.type in (int, float)]
        assert not plain, verb


@pytest.mark.parametrize(("verb", "option"), list(number_options()))
def test_a_wrong_number_is_one_line(verb: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for word in BAD:
        if option in MAY_BE_NEGATIVE and word.startswith("-") and "e" not in word and "inf" not in word:
            continue
        assert main([verb, f"{option}={word}", "--json"]) == 2, word
        printed = capsys.readouterr()
        assert printed.err.startswith(f"prune-export: error: {option} ")
        assert ": expected a " in printed.err
        assert printed.err.count("\n") == 1
        assert len(printed.err) < 150
        assert json.loads(printed.out)["exit_code"] == 2


@pytest.mark.parametrize(
    ("allowed", "good", "bad", "words"),
    [
        (numbers.FRACTION, (0, 1, 0.5, np.float32(0.5)), (-1e-9, 1.0000001), "a number from 0 to 1"),
        (numbers.KEPT_FRACTION, (1, 1e-300), (0, 0.0, 1.1), "a number above 0, at most 1"),
        (numbers.FACTOR, (1, 1e300), (0.999, math.inf), "a number, 1 or more"),
        (numbers.PADDING, (0, 0.999), (1, 1.0), "a number from 0 to below 1"),
        (numbers.ANY, (-5, 0, 1e300), (math.inf, -math.inf), "a number"),
        (numbers.SEEDS, (0, np.int64(7), 2**32 - 1), (1.0, 2**32, -1), "a whole number from 0 to 4294967295"),
        (Range(2, whole=True), (2, 10**400), (1, 2.5), "a whole number, 2 or more"),
        (Range(most=3), (3, -1e9), (3.1,), "a number, at most 3"),
    ],
)
def test_ranges(allowed: Range, good: tuple[float, ...], bad: tuple[float, ...], words: str) -> None:
    for value in good:
        found = allowed.checked("--x", value)
        assert found == value
        assert type(found) in (int, float)
    for wrong in (*bad, math.nan, True, "1", None, [1], b"1", 1j):
        with pytest.raises(UsageError, match=r"^--x .*: expected") as caught:
            allowed.checked("--x", wrong)
        assert str(caught.value).endswith(f": expected {words}")
