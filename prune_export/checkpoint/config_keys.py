"""The keys of config.json by which transformers would run code, reach the network, or load something else.

transformers takes every key of config.json as an attribute of the configuration, and acts on some of them whatever
`trust_remote_code` says. They are refused here, at any depth, before transformers sees the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from exporters.errors import CheckpointError
from prune_export.files.reading import nested

# "owner/name" makes transformers import that kernel from the hub where the package `kernels` is installed. So does
# flash_attention_* where flash-attn is not: every model is made with an attention of our own (`own_attention`).
_IMPLEMENTATIONS = (
    "_attn_implementation",
    "attn_implementation",
    "_attn_implementation_internal",
    "_experts_implementation",
    "experts_implementation",
    "_experts_implementation_internal",
)
_KNOWN = (
    None,
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flex_attention",
    "batched_mm",
    "grouped_mm",
)

_OWN_CODE = (
    "this model runs its own code, which is never run here; convert it to a class of transformers, or remove {key}"
)
_ELSEWHERE = "it makes transformers load another file or model than this one; remove it"
_INTERNAL = "it changes transformers' own classes, which a checkpoint has no business with; remove it"
_REFUSED = {
    "trust_remote_code": _OWN_CODE,  # some configurations hand it on to others that they load
    "auto_map": _OWN_CODE,  # Python files of the folder or of the hub
    "custom_pipelines": _OWN_CODE,
    "quantization_config": "quantized weights are not supported; expected a checkpoint in float32, float16 or bfloat16",
    "compression_config": "compressed weights are not supported; expected a checkpoint in float32, float16 or bfloat16",
    "use_kernels": "kernels of the hub are never run here; remove it",
    "kernel_config": "kernels of the hub are never run here; remove it",
    "base_model_name_or_path": "this is an adapter; merge it into its model, and give that",
    "configuration_files": _ELSEWHERE,  # names another config.json
    "transformers_weights": _ELSEWHERE,  # names another file of weights
    "extra_files": _ELSEWHERE,
    "extra_config_files": _ELSEWHERE,
    "gguf_file": _ELSEWHERE,
    "attribute_map": _INTERNAL,  # gives every attribute, those above too, another name
    "sub_configs": _INTERNAL,
    "sub_configs_defaults": _INTERNAL,
    "per_layer_config": _INTERNAL,
    "fusion_config": _INTERNAL,  # replaces modules
    "distributed_config": _INTERNAL,
    "_auto_class": _INTERNAL,
}
_ADAPTER = "adapter_config.json"  # where peft is installed, transformers loads the model that it names instead


def check_config(raw: Mapping[str, Any], source: str | Path) -> None:
    """Checks `raw`, the content of config.json; `source` names it in messages.

    Raises:
        CheckpointError: a key would lead to code, to the network or to another model, or has a value of no known meaning.
    """
    for key, value in nested(raw, closed="label2id"):  # whose keys are names of classes
        if key in _IMPLEMENTATIONS:
            if isinstance(value, dict | list) or value not in _KNOWN:
                raise CheckpointError(
                    f"{source}: {key} is {str(value)[:80]!r}, which can make transformers fetch and run code; expected one "
                    f"of {', '.join(str(name) for name in _KNOWN if name)}, or none. Remove it"
                )
        elif key in _REFUSED and value not in (None, False, {}, []):
            raise CheckpointError(f"{source}: has {key}: {_REFUSED[key].format(key=key)}")
        elif key in ("dtype", "torch_dtype") and value is not None:
            name = value.removeprefix("torch.") if isinstance(value, str) else ""
            if not isinstance(getattr(torch, name, None), torch.dtype):
                raise CheckpointError(
                    f"{source}: expected {key} to name a type such as float32; found {str(value)[:80]!r}"
                )
    chunk = raw.get("chunk_size_feed_forward")
    if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 0):
        raise CheckpointError(
            f"{source}: expected chunk_size_feed_forward to be a whole number of 0 or more; found {str(chunk)[:80]!r}"
        )


def check_no_adapter(folder: Path) -> None:
    """Checks that `folder` holds a model, and no adapter of one.

    Raises:
        CheckpointError: it holds adapter_config.json.
    """
    if (folder / _ADAPTER).exists():
        raise CheckpointError(
            f"{folder / _ADAPTER}: makes transformers load the model that it names instead of this one; merge the adapter "
            f"into its model and give that, or remove {_ADAPTER}"
        )


def own_attention(config: Any, model_class: Any) -> Any:
    """Sets the attention with which models are made here: PyTorch's if the class has it, otherwise the plain one."""
    config._attn_implementation = "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"
    return config
