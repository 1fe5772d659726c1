"""Tiny checkpoints in a folder, sound ones to be damaged by tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering

HIDDEN, HEADS, LAYERS, INTERMEDIATE, VOCABULARY, POSITIONS = 32, 4, 2, 48, 60, 40


def make_checkpoint(
    folder: Path,
    *,
    hidden: int = HIDDEN,
    layers: int = LAYERS,
    intermediate: int = INTERMEDIATE,
    vocabulary: int = VOCABULARY,
    model_class: Any = BertForQuestionAnswering,
) -> Path:
    """Saves a BERT with random weights, the same each time, and no tokenizer."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=intermediate,
        max_position_embeddings=POSITIONS,
    )
    model_class(config).save_pretrained(folder)
    return folder


def change_config(folder: Path, **changes: object) -> None:
    """Sets keys of config.json; None removes them."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}), encoding="utf-8")


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Changes the tensors in place, or leaves out what `change` removes."""
    found = tensors(folder)
    change(found)
    (folder / "model.safetensors").unlink()
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


def to_pickle(folder: Path, content: object = None, **options: Any) -> Path:
    """Replaces model.safetensors by pytorch_model.bin that holds `content` (None: the same tensors)."""
    path = folder / "pytorch_model.bin"
    torch.save(tensors(folder) if content is None else content, path, **options)
    (folder / "model.safetensors").unlink()
    return path


def to_shards(folder: Path) -> dict[str, str]:
    """Replaces model.safetensors by two shards and their index; returns the index's weight_map."""
    found = tensors(folder)
    names = sorted(found)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file({name: found[name] for name in part}, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    write_index(folder, {"weight_map": weight_map})
    (folder / "model.safetensors").unlink()
    return weight_map


def write_index(folder: Path, index: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
