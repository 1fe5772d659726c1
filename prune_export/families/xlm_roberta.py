"""XLM-RoBERTa (Conneau et al. 2019): RoBERTa's network with another vocabulary."""

from __future__ import annotations

from dataclasses import replace

from prune_export.families.roberta import ROBERTA

XLM_ROBERTA = replace(ROBERTA, model_type="xlm-roberta", architecture="XLMRoberta")
