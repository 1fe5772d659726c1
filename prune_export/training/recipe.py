"""A recipe: everything that decides a training, as frozen dataclasses; `recipe_file` reads them from TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prune_export.training.distillation.config import Distillation
from prune_export.training.distillation.student_config import StudentConfig
from prune_export.training.gradual.config import GradualConfig
from prune_export.training.l0.config import L0Config
from prune_export.training.movement.config import MovementConfig


@dataclass(frozen=True, slots=True)
class DataSection:
    """`train` (several are mixed), `eval`: what `prune-export evaluate` takes as data. `samples`, `eval_samples`: so many
    examples, drawn by the recipe's seed (None: all). Lengths are in tokens, as in `prune_export.data.features`.
    `group_by_length`: examples of like length share a batch, which saves padding."""

    train: tuple[str, ...]
    eval: str | None = None
    dataset: str | None = None
    labels: tuple[str, ...] | None = None
    samples: int | None = None
    eval_samples: int | None = None
    max_seq_length: int | None = None
    doc_stride: int = 128
    group_by_length: bool = False


@dataclass(frozen=True, slots=True)
class ScheduleSection:
    """How long: `steps` of the optimiser, or `epochs`. `warmup`, the fraction of steps before anything is pruned, and
    `cooldown`, the fraction at the end in which the budget or threshold is the final one, are for movement and l0."""

    steps: int | None = None
    epochs: float | None = None
    warmup: float = 0.1
    cooldown: float = 0.3


@dataclass(frozen=True, slots=True)
class BudgetSection:
    """What stays. `flops`: fractions of the encoder layers' FLOPs at `sequence_length` tokens (None: 384 for question
    answering, else 128), several for methods that give several networks; `heads`, `columns`: fractions of those."""

    flops: tuple[float, ...] = ()
    heads: float | None = None
    columns: float | None = None
    sequence_length: int | None = None


@dataclass(frozen=True, slots=True)
class OptimiserSection:
    """AdamW. `batch_size` is that of one process and one forward pass; `accumulation` passes make a step. `warmup` is the
    fraction of steps in which learning rates rise. `dropout` is the probability of all dropouts (None: what the model's
    configuration says)."""

    learning_rate: float = 3e-5
    score_learning_rate: float = 1e-2
    weight_decay: float = 0.0
    batch_size: int = 16
    accumulation: int = 1
    warmup: float = 0.1
    decay: Literal["linear", "cosine", "constant"] = "linear"
    max_gradient_norm: float = 1.0
    dropout: float | None = None
    bf16: bool = False
    fp16: bool = False
    gradient_checkpointing: bool = False


@dataclass(frozen=True, slots=True)
class NoMethod:
    """`kind = "none"`: trains as the checkpoint is."""


Method = NoMethod | MovementConfig | L0Config | GradualConfig | StudentConfig

# The name after `kind =` in the section [method], and its parameters.
METHODS: dict[str, type[Method]] = {
    "none": NoMethod,
    "movement": MovementConfig,
    "l0": L0Config,
    "gradual": GradualConfig,
    "student": StudentConfig,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """`model` is a folder or a hub id of full size; `output` the folder of the run. `trainer` holds further
    `transformers.TrainingArguments`."""

    model: str
    output: str
    data: DataSection
    task: str | None = None
    teacher: str | None = None
    seed: int = 0
    method: Method = field(default_factory=NoMethod)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    budget: BudgetSection = field(default_factory=BudgetSection)
    distillation: Distillation | None = None
    optimiser: OptimiserSection = field(default_factory=OptimiserSection)
    trainer: Mapping[str, Any] = field(default_factory=dict)
