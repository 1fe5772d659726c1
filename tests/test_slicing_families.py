"""Slicing where norms stand before the blocks (ModernBERT, EuroBERT), or scores have terms by distance (DeBERTa)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import prune_export
from exporters.encoder import Attention, Encoder, Norm
from exporters.errors import WeightsError
from exporters.tasks import Task
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.pruning.reconstruction.forward import attention_update, feed_forward_update
from prune_export.slicing.bases import Basis, spectra
from prune_export.slicing.slicer import slice_network
from prune_export.slicing.widths import one_width
from prune_export.slim_model.heads import make_head
from prune_export.slim_model.model import slim_module
from prune_export.surgeon import operate
from prune_export.surgeon.zeros import plan_from_zeros
from tests.comparing import FORMS, LIMITS, largest_difference, of_tokens, onnx_outputs, torch_outputs
from tests.counted_times import count_instead_of_timing
from tests.models import (
    FAMILY_CASES,
    FAMILY_TASKS,
    FamilyCase,
    example_inputs,
    linear,
    make_model,
    padded_inputs,
    save,
)
from tests.test_unchanged import questions_file
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer

CASES = [case for case in FAMILY_CASES if case.model_type in ("modernbert", "deberta", "deberta-v2", "eurobert")]
MODERNBERT, V2, V1, *EUROBERT = CASES  # which older versions of transformers do not have
pre_norm = pytest.mark.parametrize("case", [MODERNBERT, *EUROBERT], ids=str)
WIDTHS = (20, 9, 16, 12, 5, 22, 11, 17, 8)


def batches_of(model: Any, count: int = 10) -> list[dict[str, Tensor]]:
    return [example_inputs(model, seed=seed) for seed in range(count)]


def network_of(case: FamilyCase, task: Task, folder: Path) -> tuple[Any, Checkpoint]:
    model = make_model(case, task, num_hidden_layers=4)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.mul_(0.7 if parameter.ndim > 1 else 1.0)
    return model, load_checkpoint(save(model, folder))


def simulated(
    encoder: Encoder, bases: tuple[Basis, ...], widths: tuple[int, ...], inputs: dict[str, Tensor]
) -> dict[str, Any]:
    """The dense network in all dimensions: sums are projected onto the bases, and norms divide by what is left."""
    attended = inputs["attention_mask"].bool()

    def projected(z: Tensor, place: int) -> Tensor:
        vectors = bases[place].vectors[:, : widths[place]].float()
        mean = z.mean(-1, keepdim=True) if encoder.norms[place].centered else 0.0
        return (z - mean) @ vectors @ vectors.T

    def normed(u: Tensor, norm: Norm, place: int) -> Tensor:
        assert norm.epsilon is not None
        scale = bases[place].variance(widths[place]) ** 0.5
        return scale * u / (u.square().sum(-1, keepdim=True) / 24 + norm.epsilon).sqrt() * norm.weight

    read_by = [layer.feed_forward_input_norm for layer in encoder.layers]
    then = [*(layer.attention_input_norm for layer in encoder.layers[1:]), encoder.final_norm]
    stream = projected(encoder.embeddings.word[inputs["input_ids"]], 0)
    x = normed(stream, encoder.norms[0], 0)
    stream = stream if encoder.embeddings.norm is None else x
    for index, layer in enumerate(encoder.layers):
        for place, update, norm in (
            (2 * index + 1, attention_update(layer.attention, x, attended), read_by[index]),
            (2 * index + 2, None, then[index]),
        ):
            change = feed_forward_update(layer.feed_forward, x) if update is None else update
            stream = projected(stream + change, place)
            assert norm is not None
            x = normed(stream, norm, place)
    outputs = make_head(encoder.head, encoder.embeddings, 0.0)(x, encoder.embeddings.word, inputs["attention_mask"])
    named = dict(zip(encoder.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))
    return of_tokens({name: value.detach().numpy() for name, value in named.items()}, encoder, inputs)


@pre_norm
@pytest.mark.parametrize("task", ["token-classification", "text-classification"])
def test_a_narrow_network_is_its_simulation_in_all_dimensions(case: FamilyCase, task: Task, tmp_path: Path) -> None:
    model, checkpoint = network_of(case, task, tmp_path)
    dense, batches, inputs = checkpoint.encoder, batches_of(model), example_inputs(model, seed=99)
    bases = spectra(dense, batches, sensitivity=0)
    sliced = slice_network(dense, dense, batches, WIDTHS, bases=bases, refit="none")
    assert sliced.widths == WIDTHS
    assert dense.widths == (24,) * 9
    expected = simulated(dense, bases, WIDTHS, inputs)
    assert largest_difference(expected, torch_outputs(slim_module(checkpoint, sliced), dense, inputs)) < 5e-5
    original = torch_outputs(model, dense, inputs)
    assert largest_difference(original, simulated(dense, bases, (24,) * 9, inputs)) < 5e-5
    assert largest_difference(original, expected) > 0.1  # slicing is no small change here


@pre_norm
def test_bases_are_of_what_blocks_read(case: FamilyCase, tmp_path: Path) -> None:
    """The moments are those of the norms' outputs in the Hugging Face model, before their weights."""
    model, checkpoint = network_of(case, "token-classification", tmp_path)
    batches, seen, layers = batches_of(model, 3), {}, model.model.layers
    if case is MODERNBERT:
        norms = {
            0: model.model.embeddings.norm,
            1: layers[0].mlp_norm,
            4: layers[2].attn_norm,
            8: model.model.final_norm,
        }
    else:
        norms = {0: layers[0].input_layernorm, 1: layers[0].post_attention_layernorm, 4: layers[2].input_layernorm}
        norms[8] = model.model.norm
    for place, norm in norms.items():
        seen[place] = torch.zeros(24, 24, dtype=torch.float64)
        norm.register_forward_hook(
            lambda module, _, output, place=place: seen.__setitem__(
                place, seen[place] + moments_of(output[mask] / module.weight)
            )
        )
    tokens = 0
    for batch in batches:
        mask = batch["attention_mask"].bool()
        tokens += int(mask.sum())
        with torch.no_grad():
            model(**batch)
    bases = spectra(checkpoint.encoder, batches, sensitivity=0)
    for place, moments in seen.items():
        torch.testing.assert_close(bases[place].moments, moments / tokens, rtol=1e-4, atol=1e-4)


def moments_of(rows: Tensor) -> Tensor:
    return rows.double().T @ rows.double()


@pytest.mark.parametrize(
    ("case", "place"), [(MODERNBERT, 4), *((case, place) for case in EUROBERT for place in (0, 4))], ids=str
)
def test_sensitivity_is_to_the_sums(case: FamilyCase, place: int, tmp_path: Path) -> None:
    """Against numerical differences: the loss by each sum, times what its norm divides by, in the Hugging Face model."""
    model, checkpoint = network_of(case, "text-classification", tmp_path)
    batch = example_inputs(model, batch=1, length=7, seed=4)
    batch = {name: value[:, :3] for name, value in batch.items()} | {"labels": torch.tensor([2])}
    assert batch["attention_mask"].all()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    layers, moved = model.model.layers, torch.zeros(1, 3, 24)
    divided: list[Tensor] = []
    writer = layers[1].mlp if place == 4 else model.model.embed_tokens
    writer.register_forward_hook(lambda _module, _inputs, output: output + moved)
    reader = layers[place // 2].attn_norm if case is MODERNBERT else layers[place // 2].input_layernorm

    def divisor(x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True) if case is MODERNBERT else x
        return centered.square().mean(-1, keepdim=True).sqrt()

    reader.register_forward_hook(lambda _module, inputs, _output: divided.append(divisor(inputs[0])))

    def loss() -> float:
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(model.double()(**inputs).logits, batch["labels"]))

    loss()
    scale, gradient, step = divided[0], torch.zeros(1, 3, 24, dtype=torch.float64), 1e-3
    for token in range(3):
        for dimension in range(24):
            values = []
            for sign in (1, -1):
                moved = torch.zeros(1, 3, 24, dtype=torch.float64)
                moved[0, token, dimension] = sign * step
                values.append(loss())
            gradient[0, token, dimension] = (values[0] - values[1]) / (2 * step)
    wanted = moments_of((gradient * scale)[0]) / 3
    basis = spectra(checkpoint.encoder, [batch], sensitivity=1.0)[place]
    inner = basis.moments.clone()
    values, vectors = torch.linalg.eigh(inner)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    expected = torch.linalg.eigvalsh(root @ wanted @ root).flip(0)  # the eigenvalues of H^½ C H^½
    torch.testing.assert_close(basis.eigenvalues[:3], expected[:3], rtol=2e-2, atol=1e-6)


def blank(case: FamilyCase, task: Task) -> Any:
    """A network with constant blocks and fewer columns."""
    model = make_model(case, task)
    with torch.no_grad():
        linear(model, case, 1, "value").weight[:] = 0
        linear(model, case, 2, "down").weight[:] = 0
        linear(model, case, 0, "up").weight[::3] = 0
    return model


@pytest.fixture(scope="module", params=[row for row in FAMILY_TASKS if row[0] in CASES], ids=str)
def network(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FamilyCase, Checkpoint, Encoder]:
    """A network of every task with a narrow stream, refitted."""
    case, task = request.param
    model = blank(case, task)
    checkpoint = load_checkpoint(save(model, tmp_path_factory.mktemp("model")), task=task)
    pruned = operate(checkpoint.encoder, plan_from_zeros(checkpoint.encoder))
    batches = batches_of(model)
    bases = spectra(checkpoint.encoder, batches, sensitivity=0)
    widths = WIDTHS[: 2 * len(pruned.layers) + 1]
    return case, checkpoint, slice_network(checkpoint.encoder, pruned, batches, widths, bases=bases)


def test_every_target_writes_the_slim_network(network: tuple[FamilyCase, Checkpoint, Encoder], tmp_path: Path) -> None:
    case, checkpoint, sliced = network
    inputs = example_inputs(make_model(case, sliced.task), seed=99)
    expected = torch_outputs(slim_module(checkpoint, sliced), sliced, inputs)
    for target, dtype in FORMS:
        found = onnx_outputs(sliced, inputs, tmp_path, target=target, dtype=dtype)
        limit = MODERNBERT.int8 if dtype == "int8" else LIMITS[dtype]
        assert largest_difference(expected, found) < limit, (target, dtype)


def test_a_sliced_network_trains_and_is_the_same_after_saving(
    network: tuple[FamilyCase, Checkpoint, Encoder], tmp_path: Path
) -> None:
    case, checkpoint, sliced = network
    inputs = example_inputs(make_model(case, sliced.task), seed=99)
    module = slim_module(checkpoint, sliced)
    outputs = module(**inputs)
    sum(outputs[name].square().mean() for name in sliced.outputs).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    torch.optim.SGD(module.parameters(), lr=1e-3).step()
    module.save_pretrained(tmp_path / "slim")
    again = load_checkpoint(tmp_path / "slim")
    assert again.encoder.widths == sliced.widths
    expected = torch_outputs(module, sliced, inputs)
    assert largest_difference(expected, torch_outputs(slim_module(again, again.encoder), sliced, inputs)) == 0.0
    assert largest_difference(expected, onnx_outputs(again.encoder, inputs, tmp_path)) < LIMITS["fp32"]
    result = prune_export.export(tmp_path / "slim", tmp_path / "out", target="cpu", samples=4)
    assert result.parity is not None
    assert result.parity.passed
    needed = ["layers.2.attention_skip"]
    if sliced.is_pre_norm:
        needed += ["layers.1.feed_forward_input_norm.weight", "final_norm.weight"]
    else:
        needed += ["layers.0.attention.scores.key.weight"]
    tensors = load_file(tmp_path / "slim" / "slim.safetensors")
    for name in needed:
        fewer = {other: value for other, value in tensors.items() if other != name}
        save_file(fewer, tmp_path / "slim" / "slim.safetensors", {"format": "pt"})
        with pytest.raises(WeightsError, match=name):
            load_checkpoint(tmp_path / "slim")


@pytest.mark.parametrize("case", [V1, V2], ids=str)
def test_padding_does_not_reach_tokens(case: FamilyCase, tmp_path: Path) -> None:
    """In DeBERTa padding is zero before the first layer; what it answers in a sliced network is left open."""
    model = make_model(case, "token-classification")
    checkpoint = load_checkpoint(save(model, tmp_path))
    dense, inputs = checkpoint.encoder, padded_inputs(model, 40)
    sliced = slice_network(dense, dense, batches_of(model), one_width(dense, 23), refit="none")
    module, tokens = slim_module(checkpoint, sliced), inputs["attention_mask"].bool()
    with torch.no_grad():
        assert (model(**inputs).logits - module(**inputs).logits)[tokens].abs().max() < 2e-5
    attention = sliced.layers[0].attention
    assert isinstance(attention, Attention)
    near = replace(attention.scores, row_of_distance=torch.arange(3))  # type: ignore[call-arg]
    wrong = replace(sliced.layers[0], attention=replace(attention, scores=near))  # all distances beyond 1 are alike
    other = slim_module(checkpoint, replace(sliced, layers=(wrong, *sliced.layers[1:])))
    with torch.no_grad():
        assert (model(**inputs).logits - other(**inputs).logits)[tokens].abs().max() > 1e-2


@pre_norm
def test_a_refit_is_nearer_to_the_dense_network(case: FamilyCase, tmp_path: Path) -> None:
    model, checkpoint = network_of(case, "token-classification", tmp_path)
    dense, batches = checkpoint.encoder, batches_of(model, 40)
    bases, widths = spectra(dense, batches, sensitivity=0), one_width(dense, 17)
    inputs = example_inputs(model, batch=8, seed=99)
    expected = torch_outputs(model, dense, inputs)["logits"]
    errors = []
    for refit in ("none", "writing", "full"):
        sliced = slice_network(dense, dense, batches, widths, bases=bases, refit=refit)  # type: ignore[arg-type]
        errors.append(
            float(((torch_outputs(slim_module(checkpoint, sliced), dense, inputs)["logits"] - expected) ** 2).mean())
        )
    assert max(errors[1:]) < errors[0], errors


@pytest.mark.parametrize("case", [MODERNBERT, V2], ids=str)
def test_a_search_slices_the_stream(case: FamilyCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to a sliced checkpoint that is exported."""
    count_instead_of_timing(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tokenizer = bert_tokenizer()
    model = make_model(case, "question-answering", vocab_size=len(tokenizer))
    save_with_tokenizer(model, tokenizer, tmp_path / "model")
    options: dict[str, Any] = {"max_seq_length": 24, "sequence_length": 24, "align": 4, "evaluations": 40, "points": 40}
    options |= {"max_divergence": 1e9, "widths": True}
    found = prune_export.search(
        tmp_path / "model", questions_file(tmp_path / "data.json"), tmp_path / "found", **options
    )
    sliced = next(point for point in found.front.points if point.widths)
    assert len(sliced.widths) == 2 * model.config.num_hidden_layers + 1
    again = prune_export.search(
        tmp_path / "model", tmp_path / "data.json", tmp_path / "found", **options, point=sliced.name
    )
    assert again.checkpoint is not None
    assert load_checkpoint(again.checkpoint).encoder.widths == sliced.widths
    result = prune_export.export(again.checkpoint, tmp_path / "out", target="cpu", samples=4)
    assert result.parity is not None
    assert result.parity.passed
