"""Tiny seeded networks of every family, made from a configuration: no download, whole tests in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from exporters.tasks import TASKS, Task
from prune_export.families import FAMILIES

BERT_LIKE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "num_labels": 3,
}
DEBERTA_LIKE = BERT_LIKE | {
    "type_vocab_size": 0,
    "relative_attention": True,
    "max_relative_positions": 32,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "embedding_size": 24,
}


# Every key of a configuration that says how likely a dropout is.
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout_prob",
    "dropout",
    "attention_dropout",
    "qa_dropout",
    "seq_classif_dropout",
    "mlp_dropout",
    "embedding_dropout",
    "classifier_dropout",
)


@dataclass(frozen=True)
class FamilyCase:
    """One family's row: a configuration small enough for a test."""

    model_type: str
    config: str
    arguments: dict[str, Any]
    epsilon: str = "layer_norm_eps"  # the key of the norms' epsilon
    int8: float = 0.2  # the largest error in 8 bits, relative to max(1, max|reference|)

    def __str__(self) -> str:
        return self.model_type

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that transformers has of this family."""
        return tuple(task for task in TASKS if task in FAMILIES[self.model_type].heads)

    @property
    def task(self) -> Task:
        """The task of tests for which any would do that answers per token."""
        return "question-answering" if "question-answering" in self.tasks else "token-classification"


# A new family is a new row here, and inherits every test.
ALL_CASES = (
    FamilyCase("bert", "BertConfig", BERT_LIKE),
    FamilyCase("roberta", "RobertaConfig", BERT_LIKE | {"type_vocab_size": 1, "pad_token_id": 1}),
    FamilyCase("xlm-roberta", "XLMRobertaConfig", BERT_LIKE | {"type_vocab_size": 1, "pad_token_id": 1}),
    FamilyCase("camembert", "CamembertConfig", BERT_LIKE | {"type_vocab_size": 1, "pad_token_id": 1}),
    FamilyCase("electra", "ElectraConfig", BERT_LIKE | {"embedding_size": 12}),
    FamilyCase(
        "distilbert",
        "DistilBertConfig",
        {
            "vocab_size": 61,
            "dim": 24,
            "n_layers": 3,
            "n_heads": 4,
            "hidden_dim": 20,
            "max_position_embeddings": 40,
            "num_labels": 3,
        },
    ),
    FamilyCase(
        "mpnet",
        "MPNetConfig",
        {name: value for name, value in BERT_LIKE.items() if name != "type_vocab_size"} | {"pad_token_id": 1},
    ),
    FamilyCase(
        "modernbert",
        "ModernBertConfig",
        {name: value for name, value in BERT_LIKE.items() if name != "type_vocab_size"}
        | {
            "num_hidden_layers": 4,
            "local_attention": 8,
            "pad_token_id": 0,
            "classifier_pooling": "mean",
            "global_rope_theta": 1000.0,
            "local_rope_theta": 10.0,
            **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1),
            "reference_compile": False,
            **dict.fromkeys(("mlp_dropout", "attention_dropout", "embedding_dropout", "classifier_dropout"), 0.1),
        },
        epsilon="norm_eps",
        int8=0.4,  # sums are not normalized, so that errors of four layers add up
    ),
    FamilyCase(
        "deberta-v2",
        "DebertaV2Config",
        DEBERTA_LIKE | {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    ),
    FamilyCase("deberta", "DebertaConfig", DEBERTA_LIKE | {"max_relative_positions": 11, "type_vocab_size": 2}),
    FamilyCase(
        "nomic_bert",
        "NomicBertConfig",
        BERT_LIKE | {"pad_token_id": 0, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    ),
    FamilyCase("gte", "GteConfig", BERT_LIKE | {"pad_token_id": 0, "type_vocab_size": 1}),
    FamilyCase("jina_embeddings_v3", "JinaEmbeddingsV3Config", BERT_LIKE | {"pad_token_id": 1, "type_vocab_size": 1}),
    FamilyCase(
        "eurobert",
        "EuroBertConfig",
        {name: value for name, value in BERT_LIKE.items() if name != "type_vocab_size"}
        | {
            "classifier_pooling": "late",
            "attention_dropout": 0.1,
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "mask_token_id"), 1),
        },
        epsilon="rms_norm_eps",
        int8=0.4,  # as ModernBERT's
    ),
    FamilyCase("albert", "AlbertConfig", BERT_LIKE | {"embedding_size": 12, "hidden_act": "gelu_new"}),
)

# Those that the installed transformers has, and their tasks.
FAMILY_CASES = tuple(case for case in ALL_CASES if hasattr(transformers, case.config))
FAMILY_TASKS = tuple((case, task) for case in FAMILY_CASES for task in case.tasks)


def make_model(case: FamilyCase, task: Task, *, seed: int = 0, **changes: Any) -> Any:
    """A seeded Hugging Face model with biases and norms that matter, in evaluation mode."""
    arguments = case.arguments | changes
    if task == "question-answering":
        arguments = arguments | {"num_labels": 2}
    config = getattr(transformers, case.config)(**arguments)
    torch.manual_seed(seed)
    model = getattr(transformers, FAMILIES[case.model_type].class_name(task))(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.normal_(1.0, 0.2)
            else:
                parameter.normal_(0.0, 0.3)
    return model.eval()


class Rows:
    """Some rows of a parameter, which are read and written in place as if they were a tensor of their own."""

    def __init__(self, parameter: torch.Tensor, rows: torch.Tensor) -> None:
        self._parameter, self._rows = parameter, rows
        self.shape = torch.Size([len(rows), *parameter.shape[1:]])

    def _place(self, key: Any) -> Any:
        first, *rest = key if isinstance(key, tuple) else (key,)
        return (self._rows[first], *rest)

    def __getitem__(self, key: Any) -> torch.Tensor:
        return self._parameter[self._place(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._parameter.data[self._place(key)] = value

    @property
    def data(self) -> Rows:
        return self

    def zero_(self) -> None:
        self[:] = 0


@dataclass(frozen=True)
class LinearView:
    """Weight and bias of a linear map, which may be a part of a fused one; where there is no bias, zeros of no effect."""

    weight: Any
    bias: Any


def linear(model: nn.Module, case: FamilyCase, layer: int, name: str) -> LinearView:
    """The linear map `name` ("query", "attention_output", "up" and so on) of layer `layer`."""
    family = FAMILIES[case.model_type]
    field = f"feed_forward.{name}." if name in ("up", "down") else f"attention.{name.removeprefix('attention_')}_"
    row = family.layers[f"{field}weight"]
    body = getattr(model, family.prefix, model)
    path = f"{family.layer(model.config, layer)}."
    module = body.get_submodule(f"{path}{row.module}")
    assert isinstance(module, nn.Linear)
    heads = family.dimensions(model.config).heads if row.per_head else 1
    rows = torch.arange(len(module.weight)).view(heads, row.parts, -1)[:, row.part].flatten()
    named = dict(body.named_parameters())
    own = family.layers.get(f"{field}bias")
    bias = None if own is None else named.get(f"{path}{own.name}")
    if bias is None:
        bias = torch.zeros(len(rows))
    elif own is not None and own.parts > 1:
        bias = Rows(bias, rows)
    if row.parts == 1:
        return LinearView(module.weight, bias)
    return LinearView(module.weight[rows[0] : rows[-1] + 1] if heads == 1 else Rows(module.weight, rows), bias)


def save(model: Any, folder: Path) -> Path:
    """Saves the model as any checkpoint is saved."""
    model.save_pretrained(folder)
    return folder


def example_inputs(model: Any, *, batch: int = 3, length: int = 17, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tokens with one row padded right and one padded left."""
    generator = torch.Generator().manual_seed(seed)
    pad = model.config.pad_token_id or 0
    ids = torch.randint(2, model.config.vocab_size, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    if batch > 1:
        mask[1, : length // 3] = 0
    inputs = {"input_ids": torch.where(mask == 1, ids, pad), "attention_mask": mask}
    types = getattr(model.config, "type_vocab_size", 1)
    if types > 1:
        inputs["token_type_ids"] = torch.randint(0, types, (batch, length), generator=generator)
    return inputs


def padded_inputs(model: Any, length: int) -> dict[str, torch.Tensor]:
    """Four rows of random tokens: padding on either side, a hole, and a row of at most five tokens."""
    inputs = example_inputs(model, batch=4, length=length, seed=length)
    pad, mask = model.config.pad_token_id or 0, torch.ones_like(inputs["input_ids"])
    mask[0, max(1, length - 3) :] = 0
    mask[1, : length // 3] = 0
    mask[2, length // 4 : length // 2] = 0
    mask[3, 5:] = 0
    ids = torch.randint(2, model.config.vocab_size, (4, length), generator=torch.Generator().manual_seed(length))
    return inputs | {"input_ids": torch.where(mask == 1, ids, pad), "attention_mask": mask}
