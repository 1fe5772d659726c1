"""Recipes: all settings of a training, as frozen dataclasses; `recipe_file` reads them from TOML.

A field's annotation holds its range and its meaning, from which docs/recipes.md is made (`python -m docs.recipe_keys`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from prune_export.options.option import Option
from prune_export.options.ranges import Range
from prune_export.training.keys import MOST, Count, CountOrZero, Epochs, Fraction, NotNegative, Positive, Share


@dataclass(frozen=True, slots=True)
class DataSection:
    """`[data]`: what is learnt, and what the result is judged on."""

    train: Annotated[tuple[str, ...], Option("what `prune-export evaluate` takes as data; several are mixed")]
    eval: Annotated[
        str | None, Option("what the final network is evaluated on, in the same forms; none: not at all")
    ] = None
    dataset: Annotated[str | None, Option("the GLUE task, where the data cannot tell")] = None
    labels: Annotated[
        tuple[str, ...] | None, Option("the model's classes in order, where its config.json does not name them")
    ] = None
    samples: Annotated[Count | None, Option("as many training examples, drawn by the recipe's `seed`; none: all")] = (
        None
    )
    eval_samples: Annotated[
        Count | None, Option("as many examples of `eval`, drawn by the recipe's `seed`; none: all")
    ] = None
    max_seq_length: Annotated[
        Count | None,
        Option("tokens of a window or text; none: 384 for question answering, 128 for texts, or the model's positions"),
    ] = None
    doc_stride: Annotated[CountOrZero, Option("tokens that neighbouring windows of a long context share")] = 128
    group_by_length: Annotated[bool, Option("examples of like length share a batch, which saves padding")] = False


@dataclass(frozen=True, slots=True)
class ScheduleSection:
    """`[schedule]`: how long, and when what is pruned; a student's trainings have lengths of their own."""

    steps: Annotated[Count | None, Option("the length in steps of the optimiser; instead of `epochs`")] = None
    epochs: Annotated[Epochs | None, Option("the length in passes through the data; instead of `steps`")] = None
    warmup: Annotated[Fraction, Option("the fraction of steps before anything is pruned (movement, l0)")] = 0.1
    cooldown: Annotated[
        Fraction, Option("the fraction of steps at the end with the final budget or threshold (movement, l0)")
    ] = 0.3


@dataclass(frozen=True, slots=True)
class BudgetSection:
    """`[budget]`: what stays."""

    flops: Annotated[
        tuple[Share, ...], Option("fractions of the encoder layers' FLOPs; several only for gradual pruning")
    ] = ()
    heads: Annotated[Share | None, Option("the fraction of heads (l0); instead of `flops`")] = None
    columns: Annotated[Share | None, Option("the fraction of feed-forward columns (l0); instead of `flops`")] = None
    sequence_length: Annotated[
        Count | None, Option("tokens at which FLOPs are counted; none: 384 for question answering, 128 for other tasks")
    ] = None


@dataclass(frozen=True, slots=True)
class OptimiserSection:
    """`[optimiser]`: AdamW."""

    learning_rate: Annotated[Positive, Option("the highest learning rate of the weights")] = 3e-5
    score_learning_rate: Annotated[Positive, Option("that of scores (movement) and gates (l0)")] = 1e-2
    weight_decay: Annotated[NotNegative, Option("of weights; biases and norms have none")] = 0.0
    batch_size: Annotated[Count, Option("examples in one forward pass of one process")] = 16
    accumulation: Annotated[Count, Option("forward passes that make a step")] = 1
    warmup: Annotated[Fraction, Option("the fraction of steps in which learning rates rise")] = 0.1
    decay: Annotated[Literal["linear", "cosine", "constant"], Option("how learning rates fall after that")] = "linear"
    max_gradient_norm: Annotated[NotNegative, Option("gradients are scaled down to this norm; 0: never")] = 1.0
    dropout: Annotated[
        Fraction | None, Option("the probability of all dropouts; none: what the model's config.json says")
    ] = None
    bf16: Annotated[bool, Option("computes in bfloat16 where that is safe")] = False
    fp16: Annotated[bool, Option("computes in float16 where that is safe; instead of `bf16`")] = False
    gradient_checkpointing: Annotated[bool, Option("computes activations twice, which saves memory")] = False


@dataclass(frozen=True, slots=True)
class Distillation:
    """`[distillation]`: the loss is (1 - `weight`) · task + `weight` · logits + `hidden_weight` · hidden states.

    The teacher is the recipe's `teacher`, or, without one, the network that the recipe starts from.
    """

    weight: Annotated[Fraction, Option("how much the teacher's logits count; the task counts the rest")] = 0.9
    temperature: Annotated[
        Positive, Option("softens the logits of both networks; their loss is multiplied by its square")
    ] = 2.0
    hidden_weight: Annotated[NotNegative, Option("how much the teacher's hidden states count")] = 0.0
    layer_map: Annotated[
        tuple[Annotated[int, Range(-1, MOST, whole=True)], ...],
        Option(
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

    model: Annotated[str, Option('a checkpoint of full size, or for `kind = "none"` a slim one: a folder or a hub id')]
    output: Annotated[str, Option("the folder of the run")]
    data: DataSection
    task: Annotated[
        str | None,
        Option(
            "`question-answering` or `text-classification`; none: the model's. A model without a head for it gets a new one"
        ),
    ] = None
    teacher: Annotated[
        str | None, Option("the network to learn from: a folder or a hub id; none: the model as it was")
    ] = None
    seed: Annotated[Annotated[int, Range(0, 2**31, whole=True)], Option("of everything that is drawn at random")] = 0
    method: MethodConfig = field(default_factory=NoMethod)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    budget: BudgetSection = field(default_factory=BudgetSection)
    distillation: Distillation | None = None
    optimiser: OptimiserSection = field(default_factory=OptimiserSection)
    trainer: Annotated[
        Mapping[str, Any],
        Option(
            "a section of its own, `[trainer]`: further `transformers.TrainingArguments`, for what no key of a recipe says"
        ),
    ] = field(default_factory=dict)
