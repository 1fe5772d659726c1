"""The tasks, one file each: their classes, losses, divergence, usual length, and how answers are compared."""

from exporters.encoder import Encoder
from exporters.tasks import Task
from prune_export.tasks.feature_extraction import FEATURE_EXTRACTION
from prune_export.tasks.fill_mask import FILL_MASK
from prune_export.tasks.question_answering import QUESTION_ANSWERING
from prune_export.tasks.spec import TaskSpec
from prune_export.tasks.text_classification import TEXT_CLASSIFICATION
from prune_export.tasks.token_classification import TOKEN_CLASSIFICATION

SPECS: dict[Task, TaskSpec] = {
    spec.name: spec
    for spec in (QUESTION_ANSWERING, TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION, FEATURE_EXTRACTION, FILL_MASK)
}

# The tasks with readers of labelled data and official metrics.
LABELLED: tuple[Task, ...] = tuple(name for name, spec in SPECS.items() if spec.has_readers)


def usual_length(encoder: Encoder) -> int:
    """Returns the default length of a sequence in tokens: 384 for question answering, otherwise 128.

    It is less where `encoder` has fewer positions.
    """
    return SPECS[encoder.task].length_for(encoder.embeddings.max_length)
