"""The names of the files that checkpoints and outputs consist of."""

from __future__ import annotations

RECORD = "prune_export.json"
DEFAULT_MODEL = "model.onnx"
CONFIG = "config.json"

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
SLIM = "slim.safetensors"
PLAN_FILE = "pruning.json"
SUBARCHITECTURE = "subarchitecture.json"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "sentencepiece.bpe.model",
    "spiece.model",
)

# What sentence-transformers keeps beside a network: its own files, and those of modules in folders such as 1_Pooling.
_SENTENCE_MODULES = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout", "SpladePooling")
SENTENCE_FILES = (
    "modules.json",
    "config_sentence_transformers.json",
    *(
        f"sentence_{kind}_config.json"
        for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta")
    ),
    *(
        f"{index}_{module}/{name}"
        for index in range(1, 10)
        for module in _SENTENCE_MODULES
        for name in ("config.json", SAFETENSORS, PICKLED)
    ),
)
