"""CamemBERT (Martin et al. 2019): RoBERTa's network for French."""

from __future__ import annotations

from dataclasses import replace

from prune_export.families.roberta import ROBERTA

CAMEMBERT = replace(ROBERTA, model_type="camembert", architecture="Camembert")
