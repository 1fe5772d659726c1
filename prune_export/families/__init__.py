"""The supported model families, one file each."""

from __future__ import annotations

from prune_export.families.albert import ALBERT
from prune_export.families.bert import BERT
from prune_export.families.camembert import CAMEMBERT
from prune_export.families.deberta import DEBERTA
from prune_export.families.deberta_v2 import DEBERTA_V2
from prune_export.families.distilbert import DISTILBERT
from prune_export.families.electra import ELECTRA
from prune_export.families.eurobert import EUROBERT
from prune_export.families.gte import GTE
from prune_export.families.jina_embeddings_v3 import JINA_EMBEDDINGS_V3
from prune_export.families.modernbert import MODERNBERT
from prune_export.families.mpnet import MPNET
from prune_export.families.names import Family
from prune_export.families.nomic_bert import NOMIC_BERT
from prune_export.families.roberta import ROBERTA
from prune_export.families.xlm_roberta import XLM_ROBERTA

_ALL = (
    *(BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, DISTILBERT, ALBERT),
    *(MPNET, MODERNBERT, DEBERTA, DEBERTA_V2, NOMIC_BERT, GTE, JINA_EMBEDDINGS_V3, EUROBERT),
)

FAMILIES: dict[str, Family] = {family.model_type: family for family in _ALL}

# Types that are not supported, and what to do instead; they are refused with this.
OTHERS: dict[str, str] = {
    "mobilebert": "its layers have bottlenecks and three norms of their own; MiniLM is as small",
    "new": "it runs code of its own, which is never run here; transformers 5 has it as 'gte'",
    "neobert": "it runs code of its own, which is never run here",
    "NeoBERT": "it runs code of its own, which is never run here",
    "whisper": "only text encoders are supported",
    "vit": "only text encoders are supported",
    "t5": "only text encoders are supported",
}
