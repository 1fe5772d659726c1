"""Checkpoints as people have them: foreign classes and names, keys that change what comes back, sizes that were lost."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import prune_export
from exporters.errors import CheckpointError, WeightsError
from exporters.tasks import TASKS, Task
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.checkpoint.source import Source
from prune_export.checkpoint.tensor_names import body_parts
from prune_export.checkpoint.tokenizer import load_tokenizer
from prune_export.cli.main import main
from prune_export.facts.plan import plan_to_json
from prune_export.families import FAMILIES
from prune_export.network.opening import open_network
from prune_export.parity.texts import QUESTIONS
from prune_export.training.starting_checkpoint import write_with_head
from prune_export.verbs.inspect import inspect
from tests.comparing import largest_difference, onnx_outputs, torch_outputs
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, make_model, save
from tests.test_formats import NATIVE_PRUNING, masked_model, to_hub_format
from tests.tiny_checkpoints import change_config, change_weights, make_checkpoint, tensors
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer
from tests.tiny_training import tiny_recipe

BERT = FAMILY_CASES[0]


def answers_like(model: Any, folder: Path, tmp_path: Path, **options: Any) -> prune_export.Inspection:
    """Holds the graph, our network and the reference of `folder` against `model`."""
    found = inspect(folder, **options)
    inputs = example_inputs(model)
    expected = torch_outputs(model, found.slim, inputs)
    assert largest_difference(expected, onnx_outputs(found.slim, inputs, tmp_path)) < 1e-5
    assert (
        largest_difference(expected, torch_outputs(load_reference_model(found.checkpoint), found.slim, inputs)) < 1e-5
    )
    return found


def rename(folder: Path, change: Callable[[str], str]) -> None:
    found = {change(name): value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


# --- the task -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "named",
    [
        ["MyBertModel"],
        ["BertLMHeadModel"],
        ["BertForQuestionAnsweringAndMore", "OwnModel"],
        ["RobertaForQuestionAnswering"],
        ["TFBertForQuestionAnswering"],
        ["BertModel", "BertForQuestionAnswering"],
        ["bertmodel"],
        [3],
        "BertModel",
        None,
    ],
    ids=str,
)
def test_only_a_familys_own_classes_decide_the_task(named: Any, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    change_config(folder, architectures=named)
    with pytest.raises(CheckpointError, match=r"cannot tell the task from config\.json .* give --task"):
        load_checkpoint(folder)
    assert load_checkpoint(folder, task="question-answering").notes == ()


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_every_class_of_a_family_is_known(case: FamilyCase, tmp_path: Path) -> None:
    for task in case.tasks:
        folder = save(make_model(case, task), tmp_path / task)
        found = load_checkpoint(folder)
        assert (found.task, found.notes) == (task, ())


@pytest.mark.parametrize(
    ("saved", "task", "named"),
    [
        ("question-answering", "feature-extraction", ("qa_outputs.bias", "2 in all")),
        ("fill-mask", "feature-extraction", ("cls.predictions.bias",)),
        ("token-classification", "feature-extraction", ("classifier.bias",)),
    ],
)
def test_a_head_that_stays_unused_is_noted(saved: Task, task: Task, named: tuple[str, ...], tmp_path: Path) -> None:
    folder = save(make_model(BERT, saved), tmp_path / "model")
    result = prune_export.export(folder, tmp_path / "out", task=task, target="portable", samples=4)
    (note,) = [note for note in result.notes if "stay unused" in note]
    assert all(fact in note for fact in (*named, task))


# --- what a model returns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {"return_dict": False},
        {"torchscript": True},
        {"output_attentions": True},
        pytest.param(
            {"output_attentions": True, "_attn_implementation": "sdpa"},
            marks=pytest.mark.skipif(not NATIVE_PRUNING, reason="transformers 5 refuses the pair, in one line"),
        ),
        {"output_hidden_states": True},
        {"return_dict": False, "output_hidden_states": True, "output_attentions": True, "use_cache": True},
        {"gradient_checkpointing": True},
        {"is_encoder_decoder": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("task", ["question-answering", "fill-mask"])
def test_keys_that_change_what_a_model_returns(task: Task, keys: dict[str, Any], tmp_path: Path) -> None:
    model = make_model(BERT, task)
    folder = save(model, tmp_path / "model")
    change_config(folder, **keys)
    answers_like(model, folder, tmp_path)
    prune_export.slim(folder).save_pretrained(tmp_path / "slim")
    answers_like(model, tmp_path / "slim", tmp_path)


@pytest.mark.parametrize("case", [case for case in FAMILY_CASES if "embedding_size" not in case.arguments], ids=str)
def test_an_embedding_size_that_the_class_does_not_know(case: FamilyCase, tmp_path: Path) -> None:
    model = make_model(case, case.task)
    folder = save(model, tmp_path / "model")
    change_config(folder, embedding_size=12)
    answers_like(model, folder, tmp_path)


# --- names of tensors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FAMILY_CASES, ids=str)
def test_the_parts_of_a_base_model_are_known(case: FamilyCase) -> None:
    for task in case.tasks:
        model = make_model(case, task)
        base = getattr(model, model.base_model_prefix, model)
        body = {name.partition(".")[0] for name in base.state_dict()}
        family = FAMILIES[case.model_type]
        known = body_parts(family)
        assert body - {"pooler"} <= known  # which may be a head's
        if base is not model:
            heads = {name.partition(".")[0] for name in model.state_dict()} - {family.prefix}
            assert not heads & known


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"model.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"a.deep.wrapper.{name}",
        lambda name: name.removeprefix("bert."),
        lambda name: f"model.{name.removeprefix('bert.')}",
        lambda name: name.replace("layer.1.", "layer.1._orig_mod."),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_names_with_one_prefix_before_all(task: Task, change: Callable[[str], str], tmp_path: Path) -> None:
    model = make_model(BERT, task)
    folder = save(model, tmp_path / "model")
    rename(folder, change)
    found = answers_like(model, folder, tmp_path)
    names = set(tensors(folder))
    if names != set(model.state_dict()) and not (task == "feature-extraction" and change("bert.x") == "x"):
        assert found.checkpoint.renamed
        assert any("left out" in note or "was put before" in note for note in found.checkpoint.notes)


def test_renamed_tensors_in_other_forms(tmp_path: Path) -> None:
    """Masked by a plan, as a pruned checkpoint, in hub format: the note is in the export, the answers are the model's."""
    model = masked_model()
    masked = save(model, tmp_path / "masked")
    hub = to_hub_format(masked, tmp_path / "hub", {"0": [1, 3]})
    rename(masked, lambda name: f"module.{name}")
    rename(hub, lambda name: f"module.{name}")
    answers_like(model, hub, tmp_path)
    plan = answers_like(model, masked, tmp_path).plan
    result = prune_export.export(masked, tmp_path / "out", plan=plan, target="portable", samples=4)
    assert any("'module.', with which all names begin, was left out" in note for note in result.notes)
    recipe = tiny_recipe(tmp_path, model=str(masked), task="question-answering")
    with pytest.raises(CheckpointError, match="does not know the names of its tensors"):
        write_with_head(Source(str(masked), masked, None), recipe, tmp_path / "head")


def mixed(found: dict[str, Tensor]) -> None:
    for name in list(found):
        if name.startswith("bert."):
            found[f"model.{name}"] = found.pop(name)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (mixed, ("begin with 'model.'", "qa_outputs.bias, qa_outputs.weight")),
        (
            lambda found: [found.__setitem__(f"tower.{name}", found.pop(name)) for name in list(found)[::2]],
            ("tower.",),
        ),
        (
            lambda found: [found.__setitem__(f"x{index}", found.pop(name)) for index, name in enumerate(list(found))],
            ("is missing", "It holds", "x0, x1"),
        ),
    ],
)
def test_other_names_are_named(change: Callable[[Any], object], facts: tuple[str, ...], tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    change_weights(folder, change)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(folder)
    assert all(fact in str(caught.value) for fact in facts), caught.value


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace("bert.encoder", "bert._orig_mod.encoder"),
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma"),
    ],
)
def test_two_names_of_one_tensor(change: Callable[[str], str], tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    name = "bert.encoder.layer.1.output.LayerNorm.weight"
    change_weights(folder, lambda found: found.__setitem__(change(name), found[name] * 2))
    with pytest.raises(WeightsError, match="expected each tensor once") as caught:
        load_checkpoint(folder)
    assert f"'{name}'" in str(caught.value)
    assert f"'{change(name)}'" in str(caught.value)


@pytest.mark.parametrize("lead", ["module.", "ema.", ""])
def test_another_model_in_the_same_file_is_noted(lead: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    change = (lambda name: f"{lead}{name}") if lead else (lambda name: name.removeprefix("bert."))
    change_weights(folder, lambda found: found.update({change(name): found[name] * 2 for name in list(found)}))
    (note,) = load_checkpoint(folder).notes
    assert "holds another model as well, which stays unused" in note
    assert change("bert.embeddings.") in note


# --- hints ----------------------------------------------------------------------------------------------------------


def test_pruned_heads_that_were_lost(tmp_path: Path) -> None:
    """The hint is what makes it work: which of the heads went changes nothing."""
    model = masked_model()
    hub = to_hub_format(save(model, tmp_path / "masked"), tmp_path / "hub", {"0": [1, 3], "2": [0]})
    change_config(hub, pruned_heads=None)
    hint = r'add "pruned_heads": (\{"0": \[2, 3\], "2": \[3\]\})'
    with pytest.raises(WeightsError, match=hint):
        load_checkpoint(hub)
    change_config(hub, pruned_heads={"0": [2, 3], "2": [3]})
    answers_like(model, hub, tmp_path)


QUERY = "bert.encoder.layer.0.attention.self.query"
ADAPTER = ("merge the adapter first", "merge_and_unload()")


@pytest.mark.parametrize(
    ("weight", "others", "facts"),
    [
        ("weight", ["lora_A.weight", "lora_B.weight"], ADAPTER),
        ("base_layer.weight", ["lora_A.default.weight", "lora_B.default.weight"], ADAPTER),
        ("weight_orig", ["weight_mask"], ("is missing", "prune.remove")),
        ("parametrizations.weight.original", [], ("is missing", "parametrize.remove_parametrizations first")),
        ("weight", ["weight_mask"], ("'{QUERY}.weight_mask' is there", "apply the mask first")),
        ("weight", ["mask_scores"], ("'{QUERY}.mask_scores' is there", "apply the mask first")),
        ("weight", ["scale.weight"], ("holds '{QUERY}.scale.weight' which a layer of bert does not have",)),
    ],
)
def test_weights_to_which_something_is_still_to_be_done(
    weight: str, others: list[str], facts: tuple[str, ...], tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "model")

    def change(found: dict[str, Tensor]) -> None:
        found[f"{QUERY}.{weight}"] = found.pop(f"{QUERY}.weight")
        found.update({f"{QUERY}.{other}": torch.ones(32, 32) for other in others})

    change_weights(folder, change)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(folder)
    assert all(fact.format(QUERY=QUERY) in str(caught.value) for fact in facts), caught.value
    assert "layers that config.json" not in str(caught.value)


def test_one_tensor_of_another_layer(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    name = "bert.encoder.layer.2.output.dense.bias"
    change_weights(folder, lambda found: found.__setitem__(name, torch.ones(32)))
    with pytest.raises(WeightsError, match=f"holds '{name}' of layers that config.json, with 2 layers, does not have"):
        load_checkpoint(folder)


def test_other_tensors_are_noted(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    usual = {"bert.embeddings.position_ids": torch.arange(40)[None], "bert.pooler.dense.bias": torch.ones(32)}
    change_weights(folder, lambda found: found.update(usual))
    assert load_checkpoint(folder).notes == ()
    change_weights(folder, lambda found: found.__setitem__("bert.encoder.steps", torch.ones(1)))
    (note,) = load_checkpoint(folder).notes
    assert "nothing reads bert.encoder.steps (1 in all); bert has none of it" in note


def columns_cut(found: dict[str, Tensor]) -> None:
    path = "bert.encoder.layer.1"
    for name in ("intermediate.dense.weight", "intermediate.dense.bias"):
        found[f"{path}.{name}"] = found[f"{path}.{name}"][:37].clone()
    found[f"{path}.output.dense.weight"] = found[f"{path}.output.dense.weight"][:, :37].clone()


def hidden_cut(found: dict[str, Tensor]) -> None:
    for name, value in found.items():
        found[name] = value[tuple(slice(0, 24 if size == 32 else size) for size in value.shape)].clone()


def hidden_cut_in_a_layer(found: dict[str, Tensor]) -> None:
    layer = {name: value for name, value in found.items() if ".layer.1." in name}
    hidden_cut(layer)
    found.update(layer)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (columns_cut, "Layer 1 has 37 of the 48 columns of its feed-forward block"),
        (hidden_cut, "'bert.embeddings.LayerNorm' has 24 features where config.json says 32"),
        (hidden_cut_in_a_layer, "'bert.encoder.layer.1.attention.output.LayerNorm' has 24 features"),
    ],
)
def test_sizes_that_differ_from_layer_to_layer(change: Callable[[Any], object], fact: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    change_weights(folder, change)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(folder)
    assert fact in str(caught.value)
    assert "put the weights back to full size" in str(caught.value)


def test_folders_of_other_tools(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "old" / "0_Transformer")
    with pytest.raises(CheckpointError, match=r"whose network lies in 0_Transformer: give that"):
        load_checkpoint(tmp_path / "old")
    farm = tmp_path / "farm"
    farm.mkdir()
    (farm / "language_model_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="a folder of FARM: convert it"):
        load_checkpoint(farm)


# --- what ran -------------------------------------------------------------------------------------------------------


def test_weights_and_an_onnx_in_one_folder(tmp_path: Path) -> None:
    """Without our record the weights are the model; an .onnx beside them may be anybody's."""
    folder = save(masked_model(), tmp_path / "model")
    other = save(make_model(BERT, "question-answering", seed=1), tmp_path / "other")
    prune_export.export(other, tmp_path / "out", target="portable", samples=4)
    shutil.copyfile(tmp_path / "out" / "model.onnx", folder / "model.onnx")
    network = open_network(folder)
    assert (network.kind, network.form) == ("pytorch", "plain")
    assert open_network(folder / "model.onnx").kind == "onnx"
    shutil.copyfile(folder / "model.safetensors", tmp_path / "out" / "model.safetensors")
    network = open_network(tmp_path / "out")  # our record says what the folder is
    assert (network.kind, network.form) == ("onnx", "fp32")
    (folder / "model.safetensors").unlink()
    assert open_network(folder).kind == "onnx"


@pytest.mark.slow
def test_every_table_says_what_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(BERT, "text-classification", num_labels=2, vocab_size=90)
    folder = save_with_tokenizer(model, bert_tokenizer(), tmp_path / "model")
    plan = inspect(folder).plan
    (folder / "pruning.json").write_text(json.dumps(plan_to_json(plan)))
    prune_export.slim(folder).save_pretrained(tmp_path / "slim")
    bert_tokenizer().save_pretrained(tmp_path / "slim")
    prune_export.export(folder, tmp_path / "out", target="portable", samples=4)
    data = tmp_path / "dev.tsv"
    data.write_text("sentence\tlabel\nthe\t0\na b\t1\n")
    models = [str(tmp_path / name) for name in ("model", "slim", "out")]
    kinds = ("PyTorch, masked", "slim PyTorch", "ONNX, fp32")
    assert main(["evaluate", "--model", *models, "--data", str(data), "--dataset", "sst2"]) == 0
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in kinds), printed
    assert main(["inspect", "--model", models[0]]) == 0
    assert "model: PyTorch, masked, text-classification" in capsys.readouterr().out
    shape = ["--batch-size", "1", "--sequence-length", "8", "--rounds", "1", "--seconds", "0.01"]
    assert main(["bench", "--model", models[0], "--onnx", models[2], *shape]) == 0
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in kinds), printed


# --- tokenizers -----------------------------------------------------------------------------------------------------


def text_model(
    folder: Path, task: Task = "text-classification", *, case: FamilyCase = BERT, vocabulary: int = 90
) -> Path:
    return save(make_model(case, task, vocab_size=vocabulary), folder)


def phobert_tokenizer(folder: Path) -> None:
    """Writes what PhoBERT's tokenizer reads: it is Python alone, and no fast one exists."""
    letters = [f"{letter}@@" for letter in "abcdefgh"] + list("abcdefgh")
    (folder / "vocab.txt").write_text("".join(f"{token} 1\n" for token in letters))
    (folder / "bpe.codes").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PhobertTokenizer"}))


def test_a_slow_tokenizer_is_used_where_it_works(tmp_path: Path) -> None:
    roberta = FAMILY_CASES[1]
    folder = text_model(tmp_path / "model", case=roberta)
    phobert_tokenizer(folder)
    tokenizer = load_tokenizer(folder)
    assert not tokenizer.is_fast
    result = prune_export.export(folder, tmp_path / "out", target="portable", samples=4)
    assert {"vocab.txt", "bpe.codes"} <= set(result.files)
    assert not [note for note in result.notes if "text" in note]
    assert result.parity is not None
    assert "sentences" in {case.case for case in result.parity.results}
    texts = ["abc", "h g"]
    found = prune_export.Pipeline(tmp_path / "out")(texts)
    with torch.no_grad():
        logits = load_reference_model(load_checkpoint(folder))(
            **tokenizer(texts, padding=True, return_tensors="pt")
        ).logits
    assert [answer["score"] for answer in found] == pytest.approx(logits.softmax(-1).max(-1).values.tolist(), abs=1e-5)


def test_a_slow_tokenizer_finds_no_answers(tmp_path: Path) -> None:
    folder = text_model(tmp_path / "model", "question-answering", case=FAMILY_CASES[1])
    phobert_tokenizer(folder)
    result = prune_export.export(folder, tmp_path / "out", target="portable", samples=4)
    assert any("parity saw no real text" in note and "need a fast tokenizer" in note for note in result.notes)
    with pytest.raises(CheckpointError, match=r"need a fast tokenizer .* found PhobertTokenizer"):
        prune_export.Pipeline(tmp_path / "out")([("a", "b c")])


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (
            lambda folder: bert_tokenizer(additional_special_tokens=[f"<{i}>" for i in range(99)]).save_pretrained(
                folder
            ),
            "rows for 90",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "needs a tokenizer beside the model"),
        (lambda folder: (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RagTokenizer"}'), "fast"),
        (lambda folder: [path.unlink() for path in folder.glob("*token*")], "it holds none"),
        (lambda folder: change_tokenizer(folder, pad_token=None), "no padding token"),
    ],
)
def test_why_parity_saw_no_text(
    damage: Callable[[Path], object], fact: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(BERT, "text-classification", vocab_size=90)
    folder = save_with_tokenizer(model, bert_tokenizer(), tmp_path / "model")
    damage(folder)
    result = prune_export.export(folder, tmp_path / "out", target="portable", samples=4)
    (note,) = [note for note in result.notes if "parity saw no real text" in note]
    assert fact in note
    assert main(["verify", "--model", str(folder), "--onnx", str(tmp_path / "out"), "--samples", "4"]) == 0
    assert "parity sees no real text" in capsys.readouterr().err


def change_tokenizer(folder: Path, **changes: Any) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.exists():
            path.write_text(
                json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in changes})
            )


def sentencepiece_folder(folder: Path) -> Path:
    """An ALBERT whose tokenizer is a SentencePiece vocabulary and nothing else."""
    sentencepiece = pytest.importorskip("sentencepiece")
    case = next(case for case in FAMILY_CASES if case.model_type == "albert")
    text_model(folder, case=case, vocabulary=100)
    words = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([question for pair in QUESTIONS for question in pair]),
        model_writer=words,
        vocab_size=90,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        pad_piece="<pad>",
        minloglevel=9,
    )
    (folder / "spiece.model").write_bytes(words.getvalue())
    return folder


def test_a_sentencepiece_vocabulary_alone(tmp_path: Path) -> None:
    folder = sentencepiece_folder(tmp_path / "model")
    result = prune_export.export(folder, tmp_path / "out", target="portable", samples=4)
    assert "spiece.model" in result.files
    assert not [note for note in result.notes if "text" in note], result.notes


@pytest.mark.slow
def test_a_sentencepiece_vocabulary_without_the_package(tmp_path: Path) -> None:
    folder = sentencepiece_folder(tmp_path / "model")
    code = (
        "import sys; sys.modules['sentencepiece'] = None\n"
        "import prune_export\n"
        f"found = prune_export.export({str(folder)!r}, {str(tmp_path / 'out')!r}, target='portable', samples=4)\n"
        "print(*found.notes)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "pip install 'prune-export[sentencepiece]'" in ended.stdout
    assert "parity saw no real text" in ended.stdout
