"""An Encoder as a PyTorch module.

One implementation for every family, independent of transformers' own modules, so that it runs on any version of them.
It takes the arguments and gives the outputs of the Hugging Face class of its task, loss included, and trains in their
Trainer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import modeling_outputs

from exporters.distances import Distances
from exporters.encoder import Attention, AttentionScores, Encoder, RelativeBias
from exporters.kinds import check_kinds
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.slim_writing import write_slim
from prune_export.families.names import Dimensions
from prune_export.files.reading import expanded
from prune_export.options.checking import checked
from prune_export.slim_model.blocks import SlimEmbeddings, SlimLayer, SlimNorm, SlimRelativeBias
from prune_export.slim_model.distances import SlimDistances
from prune_export.slim_model.heads import make_head
from prune_export.tasks import SPECS


class SlimModel(nn.Module):
    """A slim network for one task.

    `forward` takes `input_ids`, `attention_mask`, `token_type_ids` (int64 `[batch, sequence]`; the mask defaults to
    ones, the types to zeros) and the labels of the task, and returns the transformers output of the task's class.
    `config` is the original transformers configuration.
    """

    def __init__(self, encoder: Encoder, config: Any, dimensions: Dimensions) -> None:
        super().__init__()
        check_kinds(encoder.layers, "the slim PyTorch network")
        self.task, self.config, self.dimensions = encoder.task, config, dimensions
        self.embeddings = SlimEmbeddings(encoder.embeddings, dimensions.hidden_dropout)
        self.layer_indices = encoder.layer_indices  # those of shared layers repeat
        self.layers = nn.ModuleList(SlimLayer(layer, dimensions) for layer in encoder.distinct_layers)
        self.relative_bias = _relative_bias(encoder)
        self.final_norm = None if encoder.final_norm is None else SlimNorm(encoder.final_norm)
        self.distances = _distances(encoder)
        self.head = make_head(encoder.head, encoder.embeddings, dimensions.classifier_dropout)
        self._checkpointing: dict[str, Any] | None = None
        self.eval()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **labels: Tensor,
    ) -> Any:
        x = self.embeddings(input_ids, token_type_ids)
        if self.embeddings.masked and attention_mask is not None:
            x = x * attention_mask[..., None].to(x.dtype)
        mask = None if attention_mask is None else _additive_mask(attention_mask, x.dtype)
        common = None if self.relative_bias is None else self.relative_bias(x.shape[1])
        if self.distances is not None:
            common = self.distances()
        for index in self.layer_indices:
            if self._checkpointing is not None and self.training:
                x = checkpoint(self.layers[index], x, mask, common, **self._checkpointing)
            else:
                x = self.layers[index](x, mask, common)
        if self.final_norm is not None:
            x = self.final_norm(x)
        logits = self.head(x, self.embeddings.word, attention_mask)
        spec = SPECS[self.task]
        outputs = spec.outputs_of(logits)
        loss = spec.loss(outputs, labels, self.config)
        return getattr(modeling_outputs, spec.output_class)(**outputs, **({} if loss is None else {"loss": loss}))

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Makes layers run again for the backward pass while training, which saves the memory of their activations.

        The arguments are those of torch.utils.checkpoint.checkpoint. The Trainer of transformers 4 calls this.
        """
        self._checkpointing = {"use_reentrant": False} | (gradient_checkpointing_kwargs or {})

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Does the same as `gradient_checkpointing_enable`. The Trainer of transformers 5 calls this."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs)

    def describe(self) -> Encoder:
        """Returns the network with its current weights as an Encoder, which shares this module's memory."""
        embeddings = self.embeddings.describe()
        modules = [module for module in (self.relative_bias, self.distances) if module is not None]
        scores = modules[0].describe() if modules else None
        layers = [layer.describe(scores) for layer in self.layers if isinstance(layer, SlimLayer)]
        head = self.head.describe(embeddings.word)
        final_norm = None if self.final_norm is None else self.final_norm.describe()
        return Encoder(self.task, embeddings, tuple(layers[index] for index in self.layer_indices), head, final_norm)

    @checked
    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Writes the slim checkpoint into `folder`: `slim.safetensors`, `config.json`, `pruning.json`.

        `prune_export.load_slim` reads it back; `prune-export --model folder` exports it.
        """
        write_slim(self.describe(), self.config, expanded(folder))


def _scores_of(encoder: Encoder) -> AttentionScores | None:
    blocks = (layer.attention for layer in encoder.layers)
    return next((block.scores for block in blocks if isinstance(block, Attention)), None)


def _relative_bias(encoder: Encoder) -> SlimRelativeBias | None:
    """Returns the bias of scores by distance; None where no layer has one."""
    scores = _scores_of(encoder)
    return SlimRelativeBias(scores) if isinstance(scores, RelativeBias) else None


def _distances(encoder: Encoder) -> SlimDistances | None:
    """Returns the embeddings of distances; None where no layer has scores with terms by distance."""
    scores = _scores_of(encoder)
    return SlimDistances(scores) if isinstance(scores, Distances) and scores.embeddings is not None else None


def _additive_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns `[batch, 1, 1, sequence]`: 0 where attended, the most negative number elsewhere, as Hugging Face does."""
    masked = 1.0 - attention_mask.to(dtype)
    return (masked * torch.finfo(dtype).min)[:, None, None, :]


def slim_module(checkpoint: Checkpoint, encoder: Encoder) -> SlimModel:
    """Returns `encoder` as a module, with the configuration of `checkpoint`."""
    return SlimModel(encoder, checkpoint.config, checkpoint.family.dimensions(checkpoint.config))
