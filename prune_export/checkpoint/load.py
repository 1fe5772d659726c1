"""A checkpoint of any form as one value: its source, its configuration, its weights, its Encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from exporters.encoder import Encoder
from exporters.errors import CheckpointError, PlanError, UnsupportedError, UsageError, WeightsError
from exporters.tasks import TASKS, Task
from prune_export.checkpoint.config_keys import check_no_adapter
from prune_export.checkpoint.folder import check_folder
from prune_export.checkpoint.hints import other_folder_hint, resized_hint, unfinished_hint
from prune_export.checkpoint.masking import masked_tensors
from prune_export.checkpoint.raw_config import read_raw_config
from prune_export.checkpoint.remote_code import no_remote_code
from prune_export.checkpoint.sentence import embeds_sentences
from prune_export.checkpoint.sizes import check_memory
from prune_export.checkpoint.slim import read_slim
from prune_export.checkpoint.source import Source, resolve
from prune_export.checkpoint.tensor_names import body_parts, leads
from prune_export.checkpoint.weights import Weights, read_weights
from prune_export.facts.file_names import PLAN_FILE, SLIM
from prune_export.facts.plan import Plan, check_fits, read_plan
from prune_export.families import FAMILIES, OTHERS
from prune_export.families.describe import describe
from prune_export.families.names import Family
from prune_export.files.reading import ReadingError, clipped, one_line, shown
from prune_export.surgeon.zeros import plan_from_zeros
from prune_export.tasks import SPECS

Form = Literal["plain", "masked", "hub", "slim"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that has been read.

    `form`: "plain" (a normal checkpoint, zeros or not), "masked" (ours, with pruning.json), "hub" (attention weights already
    resized, `pruned_heads` in config.json) or "slim" (ours, everything resized). `encoder` describes the network of the
    files, with the zeros of `given_plan` if there is one; `masked` holds the tensors that those zeros changed. `renamed`:
    the tensors in the files have names that transformers does not know (`Weights.renamed`). `notes` are what the user should
    know about what was read.
    """

    source: Source
    form: Form
    family: Family
    config: Any  # transformers.PretrainedConfig
    task: Task
    encoder: Encoder
    weights_files: tuple[Path, ...]
    kept_heads: Mapping[int, tuple[int, ...]]
    given_plan: Plan | None = None
    masked: Mapping[str, Tensor] = field(default_factory=dict)
    renamed: bool = False
    notes: tuple[str, ...] = ()

    def source_to_json(self) -> dict[str, Any]:
        """Returns where the network came from, for records and `--json`."""
        return {
            "model": self.source.name,
            "revision": self.source.revision,
            "form": self.form,
            "model_type": self.family.model_type,
        }


def load_checkpoint(
    model: Source | str | Path, *, task: str | None = None, plan: str | Path | Plan | None = None
) -> Checkpoint:
    """Reads the checkpoint `model`: the result of `resolve`, or a folder or hub id for it to find.

    `task` is one of optimum's names; None infers it from config.json. `plan` puts zeros in place of everything that it
    removes, whatever the weights there.

    Raises:
        CheckpointError, PlanError: what is wrong, and where.
    """
    source = model if isinstance(model, Source) else resolve(model)
    raw, family, config = read_configuration(source)
    pruned = _pruned_heads(raw)
    chosen = _task(task, raw, family, source)
    family.check(config, chosen)
    given = read_plan(Path(plan)) if isinstance(plan, (str, Path)) else plan
    if (source.folder / SLIM).is_file():
        if given is not None:
            raise UsageError(f"'{source.name}' is slim already; --plan needs a checkpoint of full size")
        encoder = read_slim(source.folder, family, config)
        if task is not None and encoder.task != chosen:
            raise CheckpointError(f"'{source.name}' is a slim network for '{encoder.task}'; found --task {chosen}")
        return Checkpoint(source, "slim", family, config, encoder.task, encoder, (source.folder / SLIM,), {})
    weights = read_weights(source.folder, family)
    kept_heads = _kept_heads(pruned, family, config)
    try:
        encoder = describe(family, config, weights, chosen, kept_heads=kept_heads)
    except WeightsError as error:
        hint = unfinished_hint(weights.unused) or resized_hint(weights, family, config)
        if hint is None:
            raise
        raise WeightsError(f"{error}. {hint}") from error
    masked: Mapping[str, Tensor] = {}
    if given is not None:
        check_fits(given, encoder)
        masked = masked_tensors(weights, family, config, encoder, given)
        weights = weights.replaced(masked)
        encoder = describe(family, config, weights, chosen, kept_heads=kept_heads)
    _check_nothing_left(weights, family, config)
    notes = tuple(_notes(weights, family, chosen))
    form: Form = "hub" if kept_heads else "plain"
    if (source.folder / PLAN_FILE).is_file() and given is None:
        form = "masked"
        _check_promise(source.folder / PLAN_FILE, encoder)
    files, renamed = weights.files, weights.renamed is not None
    return Checkpoint(source, form, family, config, chosen, encoder, files, kept_heads, given, masked, renamed, notes)


def read_configuration(source: Source) -> tuple[dict[str, Any], Family, Any]:
    """Reads config.json, raw and as transformers' configuration, and checks the whole folder, so that it can be opened.

    Raises:
        CheckpointError: what is wrong, and where.
    """
    check_folder(source.folder)
    raw = _read_config(source)
    family = _family(raw, source)
    _pruned_heads(raw)  # before transformers stumbles over it
    check_no_adapter(source.folder)
    config = transformers_config(source)
    _check_sizes(family, config, source)
    return raw, family.configured(config), config


def _read_config(source: Source) -> dict[str, Any]:
    path = source.folder / "config.json"
    try:
        return read_raw_config(path)
    except ReadingError as error:
        if error.missing:
            hint = other_folder_hint(source.folder)
            raise CheckpointError(f"'{source.name}' is not a checkpoint: {path} is missing{hint}") from None
        raise CheckpointError(f"{path}: {error}") from error


def _family(raw: dict[str, Any], source: Source) -> Family:
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        reason = OTHERS.get(model_type) if isinstance(model_type, str) else None
        raise UnsupportedError(
            f"'{source.name}': the model_type in config.json is {clipped(json.dumps(model_type))}"
            f"{'' if reason is None else f' ({reason})'}; supported: {', '.join(FAMILIES)}"
        )
    from transformers import CONFIG_MAPPING, __version__

    if model_type not in CONFIG_MAPPING:
        raise UnsupportedError(
            f"'{source.name}': the reference needs a network of the type {model_type}, which transformers {__version__} "
            "does not have; expected a later version (5.24 has it)"
        )
    return FAMILIES[model_type]


def transformers_config(source: Source, **options: Any) -> Any:
    """Loads the configuration of a checked config.json (`check_config`), with `options` replacing its keys.

    Raises:
        CheckpointError: transformers refuses it.
    """
    from transformers import AutoConfig

    try:
        with no_remote_code():
            config = AutoConfig.from_pretrained(
                source.folder, trust_remote_code=False, local_files_only=True, **options
            )
        # Chunks give the same numbers, and take lengths in multiples of their size only.
        config.chunk_size_feed_forward = 0
        # The caller decides what a model returns beside its answers, and in what container.
        config.return_dict, config.torchscript = True, False
        config.output_hidden_states, config.output_attentions = False, False
        return config
    except Exception as error:  # transformers raises many kinds for a configuration that it cannot take
        raise CheckpointError(f"{source.folder / 'config.json'}: transformers refuses it: {one_line(error)}") from error


def _check_sizes(family: Family, config: Any, source: Source) -> None:
    """Checks the sizes: transformers takes any type and value, and fails much later."""
    path = source.folder / "config.json"
    try:
        sizes = family.dimensions(config)
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: a size is missing or of the wrong type: {one_line(error)}") from error
    for name in ("vocabulary", "positions", "embedding", "hidden", "layers", "heads", "intermediate", "labels"):
        value = getattr(sizes, name)
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{path}: expected a whole number of 1 or more for the {name} size; found {value!r}")
    if not isinstance(sizes.types, int):
        raise CheckpointError(f"{path}: expected a whole number for the token types; found {shown(sizes.types)}")
    if "token_type" in family.embeddings and sizes.types < (0 if family.optional_types else 1):
        raise CheckpointError(f"{path}: expected 1 or more token types; found type_vocab_size {sizes.types}")
    if not isinstance(sizes.epsilon, float) or not 0 <= sizes.epsilon < 1:
        epsilon = shown(sizes.epsilon)
        raise CheckpointError(f"{path}: expected a small number for the norms' epsilon; found {epsilon}")
    if not isinstance(sizes.pad_token_id, int) or not 0 <= sizes.pad_token_id < sizes.vocabulary:
        raise CheckpointError(
            f"{path}: expected a pad_token_id below the vocabulary's {sizes.vocabulary}; found "
            f"{shown(sizes.pad_token_id)}"
        )
    check_memory(family, config, sizes, path)
    try:
        for index in range(sizes.layers):
            family.scores_values(config, index)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: what describes the attention is wrong: {one_line(error)}") from error


def _task(name: str | None, raw: dict[str, Any], family: Family, source: Source) -> Task:
    if name is not None:
        if name not in TASKS:
            raise UnsupportedError(f"the task '{name}' is not supported; expected one of {', '.join(TASKS)}")
        if name not in family.heads:
            raise UnsupportedError(
                f"transformers has no {family.model_type} for {name}; expected one of {', '.join(family.heads)}"
            )
        return name
    if embeds_sentences(source.folder):
        return next(task for task in TASKS if SPECS[task].base_model)  # whatever class it was trained from
    listed = raw.get("architectures")
    architectures = [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []
    # The family's own classes only: the name of another class does not say what it adds to the network.
    tasks: dict[str, Task] = {family.class_name(task): task for task in TASKS if task in family.heads}
    known = [tasks[each] for each in architectures if each in tasks]
    if len(set(known)) == 1:
        return known[0]
    listing = clipped(", ".join(architectures)) or "none"
    raise CheckpointError(
        f"'{source.name}': cannot tell the task from config.json (architectures: {listing}; expected one of "
        f"{', '.join(tasks)}); give --task, one of {', '.join(tasks.values())}"
    )


def _pruned_heads(raw: dict[str, Any]) -> dict[int, set[int]]:
    """Reads the heads that config.json says were removed, for layers that lost some."""
    pruned = raw.get("pruned_heads") or {}
    try:
        return {int(layer): set(map(int, heads)) for layer, heads in pruned.items() if heads != []}
    except (AttributeError, TypeError, ValueError):
        raise CheckpointError(
            f"config.json: expected pruned_heads to map layers to lists of heads; found {clipped(json.dumps(pruned))}"
        ) from None


def _kept_heads(pruned: Mapping[int, set[int]], family: Family, config: Any) -> dict[int, tuple[int, ...]]:
    """Returns the original indices of the heads that resized attention weights still hold, for layers that lost some."""
    dimensions = family.dimensions(config)
    kept: dict[int, tuple[int, ...]] = {}
    for layer, heads in sorted(pruned.items()):
        if not 0 <= layer < dimensions.layers or not heads <= set(range(dimensions.heads)):
            raise CheckpointError(
                f"config.json: pruned_heads names layer {layer}, heads {shown(sorted(heads))}; the network has "
                f"{dimensions.layers} layers of {dimensions.heads} heads, counted from 0"
            )
        kept[layer] = tuple(head for head in range(dimensions.heads) if head not in heads)
    if kept and not family.resizes_heads:
        raise UnsupportedError(
            f"config.json: pruned_heads, which transformers cannot run in a network of the type {family.model_type}; "
            "expected removed heads to be zeros in tensors of full size"
        )
    if kept and len(set(family.layer_paths(config))) < dimensions.layers:
        raise UnsupportedError(f"config.json: pruned_heads in a network of shared layers ({family.model_type})")
    return kept


def _foreign(weights: Weights, family: Family) -> list[str]:
    """Names tensors of the body that nothing here reads, and that transformers does not write there either."""
    usual = (
        f"{family.prefix}.pooler.",
        f"{family.prefix}.embeddings.position_ids",
        f"{family.prefix}.embeddings.token_type_ids",
    )
    return [name for name in weights.unused if name.startswith(f"{family.prefix}.") and not name.startswith(usual)]


def _check_nothing_left(weights: Weights, family: Family, config: Any) -> None:
    """Refuses weights of layers that config.json does not know, and weights that change the meaning of others."""
    foreign, file = _foreign(weights, family), weights.files[0].name
    if (hint := unfinished_hint(foreign)) is not None:
        raise WeightsError(f"{file}: expected the weights of a whole network; {hint}")
    layers = tuple(f"{path}." for path in family.layer_paths(config))
    folder, count = layers[0].rsplit("0", 1)[0], len(layers)
    extra = [name for name in foreign if name.startswith(folder) and name.endswith((".weight", ".bias"))]
    for names, reason in (
        (
            [name for name in extra if not name.startswith(layers)],
            f"of layers that config.json, with {count} layers, does",
        ),
        ([name for name in extra if name.startswith(layers)], f"which a layer of {family.model_type} does"),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise WeightsError(f"{file}: holds '{clipped(names[0])}'{more} {reason} not have")


def _notes(weights: Weights, family: Family, task: Task) -> Iterator[str]:
    """Yields notes on renamed tensors, unused tensors, and heads of other tasks."""
    if weights.renamed is not None:
        yield f"{weights.files[0].name}: {weights.renamed}"
    if foreign := _foreign(weights, family):
        listing = clipped(", ".join(foreign[:3]))
        yield f"{weights.files[0].name}: nothing reads {listing} ({len(foreign)} in all); {family.model_type} has none of it"
    rows = family.heads[task]
    tied = (f"{rows['decoder.weight'].module}.", rows["decoder.bias"].name) if "decoder.weight" in rows else ()
    head = [name for name in weights.unused if not name.startswith((f"{family.prefix}.", *tied))]
    other_prefixes, body = tuple(filter(None, leads(head, family))), body_parts(family)
    if copies := [name for name in head if name.startswith(other_prefixes) or name.partition(".")[0] in body]:
        yield (
            f"{weights.files[0].name}: holds another model as well, which stays unused: {clipped(', '.join(copies[:3]))} "
            f"({len(copies)} in all); what is read is '{family.prefix}.…'"
        )
    if head := sorted(set(head) - set(copies)):
        yield (
            f"weights of a head stay unused, because the task is {task}: {clipped(', '.join(head[:3]))} ({len(head)} in all)"
        )


def _check_promise(path: Path, encoder: Encoder) -> None:
    """Checks that what pruning.json removes is zero: otherwise the file and the weights do not belong together."""
    promised = read_plan(path)
    check_fits(promised, encoder)
    advice = (
        f"the weights were changed after pruning. Delete {path.name} to export what the weights say, or pass it as --plan "
        "to prune by it again"
    )
    for index, (promised_layer, zeros) in enumerate(zip(promised.layers, plan_from_zeros(encoder).layers, strict=True)):
        for kind, extra in (
            ("heads", set(zeros.heads) - set(promised_layer.heads)),
            ("columns", set(zeros.columns) - set(promised_layer.columns)),
        ):
            if extra:
                raise PlanError(
                    f"{path}: layer {index}: {kind} {sorted(extra)[:8]} are pruned by it, but their weights are not zero; "
                    f"{advice}"
                )
