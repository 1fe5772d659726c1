"""The linear maps that a method may put masks on, found by the paths of the family."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from prune_export.checkpoint.load import Checkpoint


@dataclass(frozen=True, slots=True, eq=False)
class LayerModules:
    """The linear maps of one distinct layer of a Hugging Face model (layers that share weights are one).

    `query`, `key`, `value` are `[heads * head_size, hidden]`, `attention_output` `[hidden, heads * head_size]`, `up`
    `[columns, hidden]`, `down` `[hidden, columns]`. `module` is the layer itself, `times` how often it runs.
    """

    path: str
    module: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    up: nn.Linear
    down: nn.Linear
    heads: int
    head_size: int
    columns: int
    times: int

    @property
    def hidden(self) -> int:
        return int(self.query.in_features)


def layer_modules(checkpoint: Checkpoint, model: nn.Module) -> tuple[LayerModules, ...]:
    """The distinct layers of `checkpoint`'s Hugging Face model, in the order in which they first run."""
    family, config = checkpoint.family, checkpoint.config
    sizes = family.dimensions(config)
    paths = family.layer_paths(config, task=checkpoint.task)

    def linear(path: str, field: str) -> nn.Linear:
        found = model.get_submodule(f"{path}.{family.module(field)}")
        assert isinstance(found, nn.Linear)
        return found

    return tuple(
        LayerModules(
            path=path,
            module=model.get_submodule(path),
            query=linear(path, "attention.query_weight"),
            key=linear(path, "attention.key_weight"),
            value=linear(path, "attention.value_weight"),
            attention_output=linear(path, "attention.output_weight"),
            up=linear(path, "feed_forward.up.weight"),
            down=linear(path, "feed_forward.down.weight"),
            heads=sizes.heads,
            head_size=sizes.head_size,
            columns=sizes.intermediate,
            times=paths.count(path),
        )
        for path in dict.fromkeys(paths)
    )
