"""Damage to files that knows their structure: values of JSON are exchanged, and now and then bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

# What breaks readers: other types, numbers out of range, names that lead elsewhere, text that fills lines.
HOSTILE = st.one_of(
    st.sampled_from([None, True, False, [], {}, "", "..", "../x", "/dev/zero", "~nobody/x", "a\0b", "a\nb", "\u2028"]),
    st.sampled_from([-1, 0, 1, 2**31, 2**53, 2**63, 2**64, -(2**63) - 1, 10**9, 10**30]),
    st.sampled_from([0.5, -0.0, 1e300, 1e-300, float("nan"), float("inf")]),
    st.integers(-5, 100),
    st.text(max_size=20),
    st.sampled_from(["x" * 10_000, "0-1048575", "0-99999999999", ",".join(["0-1048575"] * 50), "9" * 5_000]),
    st.builds(lambda depth: _nested(depth), st.integers(1, 150)),
    st.lists(st.one_of(st.integers(-1, 5), st.text(max_size=5), st.none()), max_size=5),
    st.dictionaries(st.text(max_size=8), st.integers(-1, 5), max_size=4),
)

_LARGEST = 1 << 20  # large files are the business of the tests


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in `value` with each of its keys."""
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """`document` with one to four values exchanged, removed, doubled or renamed."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(found)) if isinstance(found, dict | list) else []
        if not places:
            return draw(HOSTILE)
        parent, key = places[draw(st.integers(0, len(places) - 1))]
        action = draw(st.sampled_from(["exchange", "exchange", "exchange", "remove", "double", "rename", "swap"]))
        if action == "exchange":
            parent[key] = copy.deepcopy(draw(HOSTILE))  # later changes go into it
        elif action == "remove":
            del parent[key]
        elif action == "swap":
            other, name = places[draw(st.integers(0, len(places) - 1))]
            parent[key] = copy.deepcopy(other[name])
        elif isinstance(parent, list):
            parent.extend([copy.deepcopy(parent[key])] * draw(st.sampled_from([1, 100])))
        else:
            parent[draw(st.text(max_size=12)) if action == "rename" else f"{key}2"] = parent[key]
    return found


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` cut, doubled, or with bytes exchanged."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 8))):
        place = draw(st.integers(0, max(0, len(found) - 1)))
        match draw(st.sampled_from(["exchange", "insert", "cut", "remove", "double"])):
            case "exchange" if found:
                found[place] = draw(st.integers(0, 255))
            case "insert":
                found[place:place] = draw(
                    st.sampled_from([b"\0", b"\xff", b"\n", b"[", b"{", b'"', b"9" * 50, b"\t", b"-"])
                )
            case "cut":
                del found[place:]
            case "remove":
                del found[place : place + draw(st.integers(1, 40))]
            case "double":
                found += found[place : place + 200]
    return bytes(found)


def as_json(document: Any) -> bytes:
    """JSON with whatever Python takes for it: NaN, huge integers, half characters."""
    return json.dumps(document).encode("utf-8", "surrogatepass")


@st.composite
def json_files(draw: st.DrawFn, document: Any) -> bytes:
    """A JSON file: mostly of another structure, else of damaged bytes."""
    if draw(st.integers(0, 4)):
        return as_json(draw(changed(document)))[:_LARGEST]
    return draw(damaged(as_json(document)))
