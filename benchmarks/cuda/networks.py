"""Networks with random weights, pruned and cut by the real code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.cuda.structures import Structure
from exporters.encoder import Encoder
from exporters.tasks import Task
from prune_export.checkpoint.masking import masked_tensors
from prune_export.facts.plan import LayerPlan, Plan
from prune_export.families import FAMILIES
from prune_export.families.describe import describe
from prune_export.surgeon import operate

TASK: Task = "question-answering"
SPREAD = 0.05  # of all weights and biases: large enough for every block to matter

# How large the networks for parity are: on a GPU as real ones, otherwise just large enough to have all parts.
REAL = {"hidden": 256, "heads": 4, "columns": 1024, "layers": 4, "vocabulary": 1000, "positions": 512}
TINY = {"hidden": 32, "heads": 4, "columns": 48, "layers": 2, "vocabulary": 60, "positions": 40}


@dataclass(frozen=True, slots=True)
class Network:
    """A Hugging Face model before pruning, the same as an Encoder, and what surgery leaves of it once it is pruned."""

    module: Any
    dense: Encoder
    slim: Encoder


class ModelTensors(dict[str, Tensor]):
    """A module's tensors in float32 on the CPU, as `describe` reads them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__((name, value.detach().float().cpu()) for name, value in module.state_dict().items())

    def tensor(self, name: str, shape: tuple[int, ...], *, reason: str = "") -> Tensor:
        found = self[name]
        assert tuple(found.shape) == shape, (name, reason, tuple(found.shape), shape)
        return found


def make(structure: Structure, device: str) -> Network:
    """The network of `structure`; its module is on `device`, in float32 and evaluation mode, with PyTorch's SDPA."""
    config = transformers.BertConfig(
        vocab_size=structure.vocabulary,
        hidden_size=structure.hidden,
        num_hidden_layers=len(structure.kept_heads),
        num_attention_heads=structure.heads,
        intermediate_size=structure.columns,
        max_position_embeddings=structure.positions,
    )
    plan = keep_first(structure.kept_heads, structure.kept_columns)
    module = random_model(transformers.BertForQuestionAnswering, config, device)
    source, family = ModelTensors(module), FAMILIES["bert"]
    dense = describe(family, config, source, TASK)
    source.update(masked_tensors(source, family, config, dense, plan))
    return Network(module, dense, operate(describe(family, config, source, TASK), plan))


def random_model(model_class: Any, config: Any, device: str = "cpu") -> Any:
    """A model of `config` on `device` in evaluation mode, with random weights, biases and norms."""
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    with torch.device(device):
        module = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            norm = "norm" in name.lower() and name.endswith("weight")
            parameter.normal_(mean=1.0 if norm else 0.0, std=2 * SPREAD if norm else SPREAD)
    return module


def keep_first(heads: tuple[int, ...], columns: tuple[int, ...]) -> Plan:
    """A plan that keeps the first so many heads and columns of each layer."""
    kept = zip(heads, columns, strict=True)
    return Plan(tuple(LayerPlan(tuple(range(h)), tuple(range(c)), {}, {}) for h, c in kept))


def save_pruned(model_type: str, sizes: dict[str, int], folder: Path) -> Path:
    """A checkpoint of one family with random weights; half of the heads and columns are zero."""
    family = FAMILIES[model_type]
    config = transformers.AutoConfig.for_model(model_type, **_arguments(model_type, sizes))
    model = random_model(getattr(transformers, family.class_name(TASK)), config)
    tensors = ModelTensors(model)
    plan = keep_first((sizes["heads"] // 2,) * sizes["layers"], (sizes["columns"] // 2 + 1,) * sizes["layers"])
    masked = masked_tensors(tensors, family, config, describe(family, config, tensors, TASK), plan)
    model.load_state_dict(masked, strict=False)
    model.save_pretrained(folder)
    return folder


def _arguments(model_type: str, sizes: dict[str, int]) -> dict[str, Any]:
    if model_type == "distilbert":
        names = {"hidden": "dim", "heads": "n_heads", "columns": "hidden_dim", "layers": "n_layers"}
    else:
        names = {
            "hidden": "hidden_size",
            "heads": "num_attention_heads",
            "columns": "intermediate_size",
            "layers": "num_hidden_layers",
        }
    names |= {"vocabulary": "vocab_size", "positions": "max_position_embeddings"}
    return {names[key]: value for key, value in sizes.items()}
