"""A recipe: everything that decides a training, as frozen dataclasses; `recipe_file` reads them from TOML.

A field's type says its range and its meaning; docs/recipes.md is made of them (`python -m docs.recipe_keys`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from prune_export.training.keys import MOST, Count, CountOrZero, Epochs, Fraction, NotNegative, Positive, Share, key


@dataclass(frozen=True, slots=True)
class DataSection:
    """`[data]`: what is learnt, and what the result is judged on."""

    train: Annotated[tuple[str, ...], key("what `prune-export evaluate` takes as data; several are mixed")]
    eval: Annotated[str | None, key("what the final network is evaluated on, in the same forms; none: not at all")] = (
        None
    )
    dataset: Annotated[str | None, key("the GLUE task, where the data cannot tell")] = None
    labels: Annotated[
        tuple[str, ...] | None, key("the model's classes in order, where its config.json does not name them")
    ] = None
    samples: Annotated[Count | None, key("as many training examples, drawn by the recipe's `seed`; none: all")] = None
    eval_samples: Annotated[
        Count | None, key("as many examples of `eval`, drawn by the recipe's `seed`; none: all")
    ] = None
    max_seq_length: Annotated[
        Count | None,
        key("tokens of a window or text; none: 384 for question answering, 128 for texts, or the model's positions"),
    ] = None
    doc_stride: Annotated[CountOrZero, key("tokens that neighbouring windows of a long context share")] = 128
    group_by_length: Annotated[bool, key("examples of like length share a batch, which saves padding")] = False


@dataclass(frozen=True, slots=True)
class ScheduleSection:
    """`[schedule]`: how long, and when what is pruned; a student's trainings have lengths of their own."""

    steps: Annotated[Count | None, key("the length in steps of the optimiser; instead of `epochs`")] = None
    epochs: Annotated[Epochs | None, key("the length in passes through the data; instead of `steps`")] = None
    warmup: Annotated[Fraction, key("the fraction of steps before anything is pruned (movement, l0)")] = 0.1
    cooldown: Annotated[
        Fraction, key("the fraction of steps at the end with the final budget or threshold (movement, l0)")
    ] = 0.3


@dataclass(frozen=True, slots=True)
class BudgetSection:
    """`[budget]`: what stays."""

    flops: Annotated[
        tuple[Share, ...], key("fractions of the encoder layers' FLOPs; several only for gradual pruning")
    ] = ()
    heads: Annotated[Share | None, key("the fraction of heads (l0); instead of `flops`")] = None
    columns: Annotated[Share | None, key("the fraction of feed-forward columns (l0); instead of `flops`")] = None
    sequence_length: Annotated[
        Count | None, key("tokens at which FLOPs are counted; none: 384 for question answering, 128 for other tasks")
    ] = None


@dataclass(frozen=True, slots=True)
class OptimiserSection:
    """`[optimiser]`: AdamW."""

    learning_rate: Annotated[Positive, key("the highest learning rate of the weights")] = 3e-5
    score_learning_rate: Annotated[Positive, key("that of scores (movement) and gates (l0)")] = 1e-2
    weight_decay: Annotated[NotNegative, key("of weights; biases and norms have none")] = 0.0
    batch_size: Annotated[Count, key("examples in one forward pass of one process")] = 16
    accumulation: Annotated[Count, key("forward passes that make a step")] = 1
    warmup: Annotated[Fraction, key("the fraction of steps in which learning rates rise")] = 0.1
    decay: Annotated[Literal["linear", "cosine", "constant"], key("how learning rates fall after that")] = "linear"
    max_gradient_norm: Annotated[NotNegative, key("gradients are scaled down to this norm; 0: never")] = 1.0
    dropout: Annotated[
        Fraction | None, key("the probability of all dropouts; none: what the model's config.json says")
    ] = None
    bf16: Annotated[bool, key("computes in bfloat16 where that is safe")] = False
    fp16: Annotated[bool, key("computes in float16 where that is safe; instead of `bf16`")] = False
    gradient_checkpointing: Annotated[bool, key("computes activations twice, which saves memory")] = False


@dataclass(frozen=True, slots=True)
class Distillation:
    """`[distillation]`: the loss is (1 - `weight`) · task + `weight` · logits + `hidden_weight` · hidden states.

    The teacher is the recipe's `teacher`, or, without one, the network that the recipe starts from.
    """

    weight: Annotated[Fraction, key("how much the teacher's logits count; the task counts the rest")] = 0.9
    temperature: Annotated[
        Positive, key("softens the logits of both networks; their loss is multiplied by its square")
    ] = 2.0
    hidden_weight: Annotated[NotNegative, key("how much the teacher's hidden states count")] = 0.0
    layer_map: Annotated[
        tuple[Annotated[int, Meta(ge=-1, le=MOST)], ...],
        key(
            "the teacher's hidden state for each of the network's: its embeddings' first, then each layer's, from 1 "
            "(0: the embeddings'; -1: none); empty: at even distances"
        ),
    ] = ()


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """`[method]`: the keys of one kind of method (`prune_export.training.methods`)."""


@dataclass(frozen=True, slots=True)
class NoMethod(MethodConfig):
    """`kind = "none"`: trains on, or distils; nothing is pruned further."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The keys above all sections."""

    model: Annotated[str, key("a checkpoint of full size: a folder or a hub id")]
    output: Annotated[str, key("the folder of the run")]
    data: DataSection
    task: Annotated[
        str | None,
        key(
            "`question-answering` or `text-classification`; none: the model's. A model without a head for it gets a new one"
        ),
    ] = None
    teacher: Annotated[
        str | None, key("the network to learn from: a folder or a hub id; none: the model as it was")
    ] = None
    seed: Annotated[Annotated[int, Meta(ge=0, le=2**31)], key("of everything that is drawn at random")] = 0
    method: MethodConfig = field(default_factory=NoMethod)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    budget: BudgetSection = field(default_factory=BudgetSection)
    distillation: Distillation | None = None
    optimiser: OptimiserSection = field(default_factory=OptimiserSection)
    trainer: Annotated[
        Mapping[str, Any],
        key(
            "a section of its own, `[trainer]`: further `transformers.TrainingArguments`, for what no key of a recipe says"
        ),
    ] = field(default_factory=dict)
