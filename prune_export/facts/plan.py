"""The plan: the heads, head dimensions and feed-forward columns that each layer keeps.

Pruning methods end in a plan and the surgeon starts from one; nothing else connects the two. A plan is read from the zeros
of a network or from a file. In a file (`pruning.json`, `--plan`):

    {
      "format": "prune-export/plan",
      "version": 1,
      "layers": [
        {"heads": "0,3-5", "columns": "0-551,600"},
        {"heads": "2", "columns": "", "value_dimensions": {"2": "0-30"}, "query_key_dimensions": {"2": "0-15"}}
      ]
    }

There is one entry per layer, in order. "heads" are indices in the original model. Index sets are comma-separated indices and
ranges (ends included) or JSON lists of integers. Dimensions are listed for heads that lost some. Other keys are ignored. A
file that holds a plan under the key "plan", such as prune_export.json and the output of `inspect --json`, is read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.encoder import Attention, Encoder, FeedForward, Layer
from exporters.errors import PlanError
from prune_export.facts.format import Format
from prune_export.files.reading import ReadingError, clipped, read_json, user_path
from prune_export.options.checking import checked

FORMAT = Format("prune-export/plan", 1)

# Larger than any network's; a mistyped range must not fill the memory.
_LARGEST_INDEX = 1 << 20
_MOST_INDICES = 1 << 21  # of all layers together

Indices = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """The units that one layer keeps, as ascending indices.

    `query_key_dimensions` and `value_dimensions` have an entry for each head of `heads` that does not keep all of its
    dimensions; indices count within the head.
    """

    heads: Indices
    columns: Indices
    query_key_dimensions: Mapping[int, Indices]
    value_dimensions: Mapping[int, Indices]


@dataclass(frozen=True, slots=True)
class Plan:
    """The units that a network keeps, layer by layer."""

    layers: tuple[LayerPlan, ...]


# --- files ----------------------------------------------------------------------------------------------------------


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Returns the plan as JSON data."""
    return FORMAT.marked({"layers": [_layer_to_json(layer) for layer in plan.layers]})


def _layer_to_json(layer: LayerPlan) -> dict[str, Any]:
    data: dict[str, Any] = {"heads": ranges(layer.heads), "columns": ranges(layer.columns)}
    for key, dimensions in (
        ("query_key_dimensions", layer.query_key_dimensions),
        ("value_dimensions", layer.value_dimensions),
    ):
        if dimensions:
            data[key] = {str(head): ranges(indices) for head, indices in dimensions.items()}
    return data


def ranges(indices: Indices) -> str:
    """Returns ascending indices in the form "0,3-5"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


@checked
def read_plan(path: str | Path) -> Plan:
    """Reads a plan from a JSON file.

    Raises:
        PlanError: the file cannot be read or is not a plan; the message names the location.
    """
    try:
        data = read_json(user_path(path), object)
    except ReadingError as error:
        raise PlanError(f"{path}: {error}; expected a pruning plan (JSON)") from error
    return plan_from_json(data, source=str(path))


def plan_from_json(data: Any, *, source: str) -> Plan:
    """Reads the plan in JSON data; `source` names it in messages.

    Raises:
        PlanError: the data is not a plan.
    """
    if isinstance(data, dict) and "layers" not in data and "plan" in data:
        data = data["plan"]  # a record (prune_export.json) or what inspect --json prints
    if not isinstance(data, dict) or not isinstance(data.get("layers"), list):
        raise PlanError(f'{source}: expected an object with "format": "{FORMAT.name}" and a list "layers"')
    if not FORMAT.marks(data):
        raise PlanError(
            f'{source}: expected "format": "{FORMAT.name}", "version": {FORMAT.version}; found "format": '
            f'{clipped(json.dumps(data.get("format")))}, "version": {clipped(json.dumps(data.get("version")))}'
        )
    allowance = _Allowance()
    return Plan(
        tuple(
            _layer_from_json(layer, f"{source}: layer {index}", allowance) for index, layer in enumerate(data["layers"])
        )
    )


class _Allowance:
    """A count of the indices that the rest of a plan may hold."""

    left = _MOST_INDICES

    def take(self, count: int, location: str) -> None:
        """Subtracts `count` indices, before they are made; `location` names them in the message.

        Raises:
            PlanError: they are too many.
        """
        self.left -= count
        if self.left < 0:
            raise PlanError(
                f"{location}: expected at most {_MOST_INDICES:,} indices in all layers together; found more"
            )


def _layer_from_json(data: Any, location: str, allowance: _Allowance) -> LayerPlan:
    if not isinstance(data, dict) or "heads" not in data or "columns" not in data:
        raise PlanError(f'{location}: expected an object with "heads" and "columns" (what stays)')
    dimensions: dict[str, dict[int, Indices]] = {}
    for key in ("query_key_dimensions", "value_dimensions"):
        entries = data.get(key, {})
        if not isinstance(entries, dict) or not all(head.isdecimal() and len(head) <= 7 for head in entries):
            raise PlanError(f'{location}: expected "{key}" to map head indices to dimensions')
        dimensions[key] = {int(head): _parse(entry, f"{location}, {key}", allowance) for head, entry in entries.items()}
    return LayerPlan(
        heads=_parse(data["heads"], f"{location}, heads", allowance),
        columns=_parse(data["columns"], f"{location}, columns", allowance),
        **dimensions,
    )


def parse_indices(value: Any, location: str) -> Indices:
    """Reads one set of indices, "0,3-5" or a list.

    Raises:
        PlanError: it is none, or too large; `location` names it in the message.
    """
    return _parse(value, location, _Allowance())


def _parse(value: Any, location: str, allowance: _Allowance) -> Indices:
    indices: list[int] = []
    for first, last in _runs(value, location):
        allowance.take(last - first + 1, location)
        indices.extend(range(first, last + 1))
    if len(set(indices)) != len(indices):
        raise PlanError(f"{location}: expected distinct indices of 0 or more; found {_quoted(value)}")
    return tuple(sorted(indices))


def _runs(value: Any, location: str) -> Iterator[tuple[int, int]]:
    """Yields the first and the last index of each run."""
    try:
        if isinstance(value, str):
            for part in filter(None, value.split(",")):
                first, _, last = part.partition("-")
                yield _run(int(first), int(last or first))
        else:
            for index in value:
                if type(index) is not int:
                    raise TypeError
                yield _run(index, index)
    except (TypeError, ValueError):
        raise PlanError(
            f'{location}: expected indices below {_LARGEST_INDEX:,} as "0,3-5" or [0, 3, 4, 5]; found {_quoted(value)}'
        ) from None


def _run(first: int, last: int) -> tuple[int, int]:
    if not 0 <= first <= last < _LARGEST_INDEX:
        raise ValueError
    return first, last


def _quoted(value: Any) -> str:
    return clipped(json.dumps(value)) if not isinstance(value, list) else clipped(json.dumps(value[:40]))


# --- the network ----------------------------------------------------------------------------------------------------


def check_fits(plan: Plan, encoder: Encoder) -> None:
    """Checks that `encoder` has all units that `plan` keeps, and that shared layers have equal plans.

    Raises:
        PlanError: the message names the layer.
    """
    if len(plan.layers) != len(encoder.layers):
        raise PlanError(f"the plan has {len(plan.layers)} layers, the model has {len(encoder.layers)}")
    indices = encoder.layer_indices
    for index, (layer_plan, layer) in enumerate(zip(plan.layers, encoder.layers, strict=True)):
        first = indices.index(indices[index])
        if plan.layers[first] != layer_plan:
            raise PlanError(f"layers {first} and {index} share their weights, but the plan prunes them differently")
        _check_layer(layer_plan, layer, index)


def _check_layer(layer_plan: LayerPlan, layer: Layer, index: int) -> None:
    heads: Iterable[int] = layer.attention.heads if isinstance(layer.attention, Attention) else ()
    columns = layer.feed_forward.columns if isinstance(layer.feed_forward, FeedForward) else 0
    if missing := sorted(set(layer_plan.heads) - set(heads)):
        raise PlanError(
            f"layer {index}: the plan keeps head{'s' * (len(missing) > 1)} {clipped(ranges(tuple(missing)))}, "
            f"but the model's heads there are {ranges(tuple(heads)) or 'none'}"
        )
    if layer_plan.columns and layer_plan.columns[-1] >= columns:
        raise PlanError(
            f"layer {index}: the plan keeps column {layer_plan.columns[-1]}, but the model has {columns} columns"
        )
    if not isinstance(layer.attention, Attention):
        return
    for kind, dimensions, size in (
        ("query/key", layer_plan.query_key_dimensions, layer.attention.query_key_size),
        ("value", layer_plan.value_dimensions, layer.attention.value_size),
    ):
        for head, indices in dimensions.items():
            if head not in layer_plan.heads:
                raise PlanError(f"layer {index}: the plan has {kind} dimensions for head {head}, which does not stay")
            if indices and indices[-1] >= size:
                raise PlanError(
                    f"layer {index}, head {head}: the plan keeps {kind} dimension {indices[-1]}, but a head has {size}"
                )
