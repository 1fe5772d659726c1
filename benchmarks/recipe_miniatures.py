"""The miniatures of benchmarks.recipes: per recipe what its system published, and what a short run changes."""

from __future__ import annotations

from dataclasses import dataclass

STEPS = 16  # of each training


@dataclass(frozen=True, slots=True)
class Miniature:
    """A recipe, what its system published, and the changes to it; `data` is the form of its data ("found" ends as "qa")."""

    recipe: str
    system: str
    published: str
    data: str
    steps: int
    changes: tuple[str, ...]


# In a run of STEPS steps no score falls below a threshold, and no gate closes, at the recipes' rates.
_SCORES = (f"schedule.steps={STEPS}", "optimiser.score_learning_rate=1.0")
_GATES = (*_SCORES, f"method.retrain_steps={STEPS}")
_FILLED = (*_SCORES, f"method.fill_steps={STEPS}")
_STUDENT = ("method.layers=3", f"method.prediction_steps={STEPS}")

MINIATURES = (
    Miniature(
        "nn_pruning-hybrid",
        "nn_pruning, hybrid, SQuAD 1.1",
        "F1 86.94 of 88.5 at 2.35×",
        "qa",
        STEPS,
        _SCORES,
    ),
    Miniature(
        "nn_pruning-hybrid-filled",
        "nn_pruning, hybrid-filled, SQuAD 1.1",
        "F1 87.71 of 88.5 at 2.44×",
        "qa",
        2 * STEPS,
        _FILLED,
    ),
    Miniature("nn_pruning-struct", "nn_pruning, struct, SQuAD 1.1", "F1 84.68 of 88.5 at 3.64×", "qa", STEPS, _SCORES),
    Miniature("nn_pruning-block", "nn_pruning, block, SQuAD 1.1", "no network", "qa", STEPS, _SCORES),
    Miniature(
        "nn_pruning-hybrid-bert-large-squad2",
        "nn_pruning, hybrid, BERT-large, SQuAD 2.0",
        "F1 83.22 of 85.85 at 2.15×",
        "qa2",
        STEPS,
        _SCORES,
    ),
    Miniature(
        "nn_pruning-hybrid-filled-mnli",
        "nn_pruning, hybrid-filled, MNLI",
        "accuracy 83.71 of 84.6 at 2.00×",
        "texts",
        2 * STEPS,
        _FILLED,
    ),
    Miniature(
        "mccarley-l0", "McCarley et al., SQuAD 2.0, BERT-base", "none for this network", "qa2", 2 * STEPS, _GATES
    ),
    Miniature(
        "mccarley-l0-bert-large-squad2",
        "McCarley et al., SQuAD 2.0",
        "1.5 F1 lost at nearly 2× (without distillation)",
        "qa2",
        2 * STEPS,
        _GATES,
    ),
    Miniature(
        "mccarley-l0-roberta-large-nq",
        "McCarley et al., Natural Questions",
        "less than 0.5 F1 lost at nearly 2×",
        "mrqa",
        2 * STEPS,
        _GATES,
    ),
    Miniature(
        "tinyroberta-distil",
        "TinyRoBERTa, SQuAD 2.0",
        "F1 82.04, EM 78.86 at 2×",
        "qa2",
        3 * STEPS,
        (*_STUDENT, f"method.intermediate_steps={STEPS}", f"method.fine_tuning_steps={STEPS}"),
    ),
    Miniature(
        "tinyroberta-mrqa-distil", "TinyRoBERTa, MRQA, distillation", "none after this alone", "mrqa", STEPS, _STUDENT
    ),
    Miniature(
        "tinyroberta-mrqa-finetune",
        "TinyRoBERTa, MRQA, fine-tuning",
        "F1 80.07 in domain, 64.16 out of domain, of 84.38 and 72.88, at 2×",
        "mrqa",
        STEPS,
        (f"schedule.steps={STEPS}",),
    ),
    Miniature(
        "bort-search",
        "Bort",
        "GLUE 83.6 (BERT-large 80.5) at 7.9× of BERT-base",
        "found",
        STEPS,
        (f"schedule.steps={STEPS}",),
    ),
    Miniature(
        "gradual-fisher",
        "scores of Kwon et al., steps of ZipLM",
        "nothing for the combination",
        "qa",
        STEPS,
        (f"schedule.steps={STEPS // 4}", f"method.recovery_steps={STEPS // 4}", "method.step=0.7", "method.samples=48"),
    ),
)
