"""Fill-mask: a word for each token."""

from exporters.encoder import MaskedLanguageHead
from prune_export.tasks.classes import drawn_losses, same_classes, token_divergence, token_loss
from prune_export.tasks.spec import TaskSpec

FILL_MASK = TaskSpec(
    name="fill-mask",
    head=MaskedLanguageHead,
    suffix="ForMaskedLM",
    output_class="MaskedLMOutput",
    loss=token_loss,
    sample_losses=drawn_losses,
    divergence=token_divergence,
    agree=same_classes,
)
